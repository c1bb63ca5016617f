"""The audit beside cleanvision: pictures a second on the same files and cores, cold, and what each flags.

    python benchmarks/audit.py --n 5000
    python benchmarks/audit.py --n 1000 --side 1024
    python benchmarks/audit.py --growth 1000 10000 100000

The set: photographs of every lesson, and copies of them (re-encoded, resized, mirrored, cropped) until there are `--n`. cleanvision 0.3 runs all of
its checks (dark, light, blurry, odd size, odd aspect ratio, low information, greyscale, exact and near duplicates); ours runs the same from pixels
alone (`audit(features=False)`), and whole, with embeddings, labels and outliers, its cache empty. Promised: 3 times as fast, and at least as fast
when whole. Seconds of processor time, of the process and all that it starts, are noted beside those of the clock: others at work on the machine disturb
them less. The photographs at hand are small, most of them 300 pixels wide; `--side` enlarges each (Lanczos, JPEG of quality 90) until its long side has
so many pixels, which is what a folder from a telephone or the web asks of a decoder, though it holds no finer detail. `--growth` draws small pictures instead, and notes time and memory of ours alone. All cores for both.
"""
import gc
import io
import multiprocessing
import resource
import shutil
import statistics
import tempfile
from pathlib import Path

import machine
import numpy as np
from PIL import Image

from lookalikes.audit import audit
from lookalikes.backbone import cache_dir
from lookalikes.defects import spoil
from lookalikes.imageset import ImageSet, n_cores

SETS = 'pet_breeds/images', 'guitars', 'paintings', 'kittens_or_cats', 'lookalike_extras', 'search_noise', 'chihuahua_or_muffin'
KINDS = 'reencoded', 'resized', 'mirrored', 'cropped'


def enlarged(data, side):
    "A JPEG of the same picture whose long side has `side` pixels; one that is larger already stays as it is."
    im, out = Image.open(io.BytesIO(data)).convert('RGB'), io.BytesIO()
    k = side/max(im.size)
    if k <= 1: return data
    im.resize([round(o*k) for o in im.size], Image.Resampling.LANCZOS).save(out, 'JPEG', quality=90)
    return out.getvalue()


def collect(photos, n, to, side=0):
    "A folder of `n` files with two classes: photographs, and copies of the first of them; enlarged where `side` is given."
    files = [p for s in SETS for p in sorted((photos/s).rglob('*.jpg'))]
    if not files: raise SystemExit(f'no photographs in {photos.name}')
    for i in range(n):
        folder = to/('a', 'b')[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        source = files[i % len(files)]
        data = source.read_bytes() if i < len(files) else spoil(source.read_bytes(), KINDS[i % 4], seed=[0, i])[0]
        (folder/f'{i:06}.jpg').write_bytes(enlarged(data, side) if side else data)
    return to


def ours(folder, features):
    "One audit with an empty cache, but for the exported network, which is part of the installation and not of the work; how many of each kind."
    shutil.rmtree(cache_dir()/'features', ignore_errors=True)
    return audit(ImageSet.from_folder(folder), features=features).counts


def theirs(folder):
    "All checks of cleanvision; how many of each kind."
    from cleanvision import Imagelab
    lab = Imagelab(data_path=str(folder), verbose=False)
    lab.find_issues(n_jobs=n_cores(), verbose=False)
    return {k: int(v) for k, v in zip(lab.issue_summary.issue_type, lab.issue_summary.num_images) if v}


def used():
    "Seconds of processor time so far, of this process and of those that it started and that have ended."
    return sum(sum(resource.getrusage(o)[:2]) for o in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def compare(args, command):
    "Seconds of both, interleaved."
    facts, cpu = machine.facts('cleanvision', 'imagehash', 'usearch'), dict(ours=[], whole=[], cleanvision=[])
    def noted(name, f, *o):
        before, found = used(), f(*o)
        cpu[name].append(used()-before)
        return found
    with tempfile.TemporaryDirectory() as folder, machine.empty_cache(graphs=True):
        set_ = collect(args.photos.parent, args.n or 5000, Path(folder)/'set', args.side)
        n = sum(1 for _ in set_.rglob('*.jpg'))
        ours(set_, True)       # exports the network, warms the disk
        seconds, found = machine.interleave(args.repeats, ours=lambda: noted('ours', ours, set_, False), whole=lambda: noted('whole', ours, set_, True),
                                            cleanvision=lambda: noted('cleanvision', theirs, set_))
    middle = {k: statistics.median(v) for k, v in cpu.items()}
    each = {k: machine.spread(v) for k, v in seconds.items()}
    row = dict(n=n, side=args.side or '', **{f'{k}_per_s': round(n/v['median'], 1) for k, v in each.items()}, **machine.times(seconds['cleanvision'], seconds['ours']), promised=3,
               **machine.times(seconds['cleanvision'], seconds['whole'], 'ratio_whole'), promised_whole=1,
               **{f'{k}_cpu_s': round(v, 1) for k, v in middle.items()}, ratio_cpu=round(middle['cleanvision']/middle['ours'], 2), ratio_whole_cpu=round(middle['cleanvision']/middle['whole'], 2))
    machine.write(args.out, 'audit', command, facts, [row], dict(seconds=each, cpu_seconds=cpu, flagged=found))
    print(row, found, sep='\n')


def patches(n, to):
    "A folder of `n` pictures of two classes: soft patches of colour, 96 px, every hundredth saved once more in a lower quality."
    rng, im = np.random.default_rng(0), Image.new('RGB', (96, 96), 'teal')
    for i in range(n):
        folder = to/('a', 'b')[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        if i % 100: im = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
        im.save(folder/f'{i:06}.jpg', quality=90 if i % 100 else 60)
    return ImageSet.from_folder(to)


def grown(n, pipe):
    "Audit `n` drawn pictures in a process of its own: seconds, and the most memory that it ever held, and that the largest of its helpers did."
    with tempfile.TemporaryDirectory() as folder:
        images = patches(n, Path(folder)/'set')
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds, found = machine.timed(lambda: audit(images, features=False))
        pipe.send((len(images), seconds, before/2**20, *(resource.getrusage(o).ru_maxrss/2**20 for o in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)), len(found.copies)))


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], repeats=dict(type=int, default=3, help='rounds after the warm-up'), side=dict(type=int, default=0, help='enlarge every photograph until its long side has so many pixels'),
                                      growth=dict(type=int, nargs='+', help='sizes of drawn sets instead'))
    if not args.growth: return compare(args, command)
    facts, rows = machine.facts('usearch'), []
    for n in args.growth:
        a, b = multiprocessing.get_context('spawn').Pipe()
        p = multiprocessing.get_context('spawn').Process(target=grown, args=(n, b))
        p.start()
        k, seconds, before, most, helper, copies = a.recv()
        p.join()
        rows.append(dict(n=k, seconds=round(seconds, 1), per_s=round(k/seconds, 1), gib_before=round(before, 2), gib_most=round(most, 2), gib_helper=round(helper, 2), copies=copies))
        print(rows[-1], flush=True)
    machine.write(args.out, 'audit_growth', command, facts, rows, dict(pictures='soft patches of colour, 96 px, JPEG, every hundredth a copy; pixels only'))


if __name__ == '__main__': main()
