"""Copies found in a folder: `find_copies` beside imagededup's PHash, on the same planted copies, files and cores; time, precision and recall.

    python benchmarks/dedup.py

The set: the photographs of pets, and copies of some of them, planted by `lookalikes.defects.plant` at its default strengths: exact, re-encoded,
resized, cropped, mirrored, brightened, captioned, rotated and grey, as many of each. Both sides give pairs of files. A pair is right when one photograph
is behind both files, or when it is one of the genuine copies that copies.py lists; a planted copy is found when some right pair names it.

imagededup as it comes: `PHash().find_duplicates` of the folder, at most 10 bits of 64 apart, a process a core. Ours twice, from hashes and thumbnails
alone, which is what PHash looks at, and with embeddings as well, none of them cached. Each from the files to the pairs, the graph exported before. No
ratio is promised. imagededup's other method, CNN, is left out: its weights come from a model hub when it is first used, which a benchmark that
anybody can repeat offline cannot ask, and with random weights it would find nothing worth timing.
"""
import logging
import tempfile
from pathlib import Path

import machine  # before torch: it hides accelerators from both sides
import pandas as pd
from copies import judged, seen

from lookalikes.backbone import Backbone, cache_dir
from lookalikes.copies import find_copies
from lookalikes.defects import COPIES, FAMILIES, plant
from lookalikes.imageset import ImageSet, n_cores, read_csv
from lookalikes.stats import wilson


def planted(images, folder, seed):
    "A copy of `images` with copies among them; its table of what was planted, and where each file came from."
    kinds = 'exact_copy', *FAMILIES['near_copy']
    s = plant(images, folder/'set', {k: max(1, min(40, len(images)//24)) for k in kinds}, seed=seed)
    truth = read_csv(s.path/'truth.csv').set_index('file')
    for o in 'truth.csv', 'manifest.csv': (s.path/o).unlink()    # the peer tries every file of the folder
    return ImageSet(s.df, s.path), truth[truth.kind.isin(COPIES)], truth.was


def ours(images, embeddings):
    "Pairs of files that show the same picture."
    for file in (cache_dir()/'features').glob('*'): file.unlink()
    return find_copies(images, *seen(images, embeddings)).pairs[['a', 'b']]


def theirs(folder):
    "The same, of imagededup: it names for each file all that are near it."
    from imagededup.methods import PHash
    found = PHash(verbose=False).find_duplicates(image_dir=folder, recursive=True, num_enc_workers=n_cores(), num_dist_workers=n_cores())
    return pd.DataFrame(sorted({tuple(sorted((a, b))) for a, near in found.items() for b in near}), columns=['a', 'b'], dtype=object)


def marks(pairs, truth, was):
    "What `pairs` are worth: how many, how many of them right, of the planted copies how many are named by a right one; both shares with Wilson's interval."
    verdict = judged(pairs, was)
    good = set(pairs[verdict == 'planted'].to_numpy().ravel())
    right, found = int((verdict != 'false').sum()), int(truth.index.isin(good).sum())
    share = lambda name, k, n: dict(zip((name, f'{name}_low', f'{name}_high'), (round(o, 4) for o in (k/n, *wilson(k, n))))) if n else {}
    return dict(pairs=len(pairs), right=right, found=found, **share('precision', right, len(pairs)), **share('recall', found, len(truth)))


def by_kind(pairs, truth, was):
    "Planted copies of each kind, and how many of them are found."
    named = set(pairs[judged(pairs, was) == 'planted'].to_numpy().ravel())
    return {k: [len(g), int(g.index.isin(named).sum())] for k, g in truth.groupby('kind')}


def compare(images, args):
    "A row for the table and the details behind it."
    with tempfile.TemporaryDirectory() as folder:
        s, truth, was = planted(images, Path(folder), args.seed)
        machine.say(f'{len(images):,} photographs and {len(truth):,} copies of them; warming up')
        sides = dict(hashes=lambda: ours(s, False), embeddings=lambda: ours(s, True), imagededup=lambda: theirs(s.path))
        for f in sides.values(): f()
        seconds, pairs = machine.interleave(args.repeats, **sides)
    each = {k: machine.spread(v) for k, v in seconds.items()}
    found = {k: marks(p, truth, was) for k, p in pairs.items()}
    row = dict(pictures=len(s), copies=len(truth), **{f'{k}_per_s': round(len(s)/v['median'], 1) for k, v in each.items()}, **machine.times(seconds['imagededup'], seconds['hashes']),
               **machine.times(seconds['imagededup'], seconds['embeddings'], 'ratio_embeddings'), **{f'{k}_{name}': v for k, m in found.items() for name, v in m.items()}, seed=args.seed)
    return row, dict(seconds=each, found_of_each_kind={k: by_kind(p, truth, was) for k, p in pairs.items()})


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], repeats=dict(type=int, default=5, help='rounds after the warm-up'), seed=dict(type=int, default=0, help='which photographs are copied, and how'))
    try: import imagededup  # noqa: F401
    except ImportError: raise SystemExit("dedup.py: the peer imagededup is not installed; pip install -e '.[bench]' brings it") from None
    logging.disable(logging.INFO)       # the peer's account of its steps
    facts = machine.facts('imagededup', 'usearch')
    folder = machine.files_of(args.photos)
    with machine.empty_cache(graphs=True):
        Backbone.named().graph()
        row, detail = compare(machine.pet_breeds(folder, args.n), args)
    machine.write(args.out, 'dedup', command, facts, [row], detail)
    for k in ('hashes', 'embeddings', 'imagededup'):
        print(f"{k}: {row[f'{k}_per_s']:.0f}/s, {row[f'{k}_pairs']} pairs, precision {row.get(f'{k}_precision', float('nan')):.1%}, recall {row.get(f'{k}_recall', float('nan')):.1%}")
    print(f"ours is {row['ratio']} times as fast from hashes, {row['ratio_embeddings']} times with embeddings; found of each kind: {detail['found_of_each_kind']}")


if __name__ == '__main__': main()
