"""Copies and poor pictures: what is found of what was planted, on drawn and on real pictures, and what sound pictures are flagged.

    python benchmarks/copies.py                  # data/results/copies.csv and quality.csv
    python benchmarks/copies.py --only sweep     # copies_sweep.csv: how many parts must agree
    python benchmarks/copies.py --only scale     # copies_scale.csv: time and memory of the search for up to 100,000 pictures

Defects are planted by `lookalikes.defects.plant` at its default strengths; `cropped 20 %` are crops that keep 80 % of each side. Files are counted
by `lookalikes.scoring.score`. Real sets hold copies of their own: the pairs that the search finds in the sets as they are were looked at one by one,
and those that show one photograph or one painting are listed below. They are no false alarms, and are counted apart as `genuine`. The limits of the
library were chosen on the five lessons' pictures with another seed; the sets called `held out` had no part in it.
"""
import argparse, os, sys, tempfile, time
from functools import partial
from pathlib import Path

import machine
import numpy as np, pandas as pd
from photographs import photographs

from lookalikes import copies
from lookalikes.backbone import embed
from lookalikes.copies import find_copies
from lookalikes.defects import plant
from lookalikes.draw import draw
from lookalikes.imageset import ImageSet, n_cores, read_csv, write_atomic
from lookalikes.measures import Measures, look
from lookalikes.quality import RULES, quality_issues
from lookalikes.scoring import score
from lookalikes.stats import wilson

LESSONS = 'chihuahua_or_muffin', 'kittens_or_cats', 'pet_breeds', 'guitars', 'paintings'
HELD_OUT = 'lookalike_extras', 'search_noise'
GENUINE = {frozenset(o) for o in (
    ('chihuahua/train_4.jpg', 'chihuahua/train_62.jpg'), ('muffin/train_100.jpg', 'muffin/train_80.jpg'), ('muffin/train_84.jpg', 'muffin/train_87.jpg'),
    ('cat/00000019.jpg', 'cat/00000136.jpg'), ('Bombay_136.jpg', 'Bombay_150.jpg'), ('german_shorthaired_179.jpg', 'german_shorthaired_19.jpg'),
    ('fender_stratocaster/000266.jpg', 'fender_stratocaster/000671.jpg'), ('gibson_explorer/000598.jpg', 'gibson_explorer/000605.jpg'),
    ('gibson_firebird/000002.jpg', 'gibson_firebird/000037.jpg'), ('fender_mustang/000088.jpg', 'fender_mustang/000474.jpg'),
    ('modernism/amadeo-de-souza-cardoso_castle-1912.jpg', 'modernism/amadeo-de-souza-cardoso_stronghold-1912.jpg'))}
NAMES = dict(exact='exact', near='near_copy')
PEER = dict(dark='dark', light='bright', blurry='blurred', low_information=['blank', 'low_contrast'], odd_size='tiny', odd_aspect_ratio='odd_aspect')


def pictures(name, where, args):
    "A set as it is: drawn, or read from the folder of photographs."
    if where == 'drawn': return draw(name, n={'guitars': 30, 'pet_breeds': 10}.get(name, 100), size=160, path=args.tmp/'drawn'/name, seed=args.seed)
    return photographs(args.photos, name)


def planted(images, tag, defects, args):
    "`images` with `defects`, and where each file came from."
    path = args.tmp/'planted'/tag/str(len(list(args.tmp.rglob('truth.csv'))))
    s = plant(images, path, defects, seed=args.seed)
    return s, read_csv(path/'truth.csv').set_index('file').was


def ratio(k, n, name):
    low, high = wilson(k, n) if n else (np.nan, np.nan)
    return {name: round(k/n, 4) if n else '', f'{name}_low': round(low, 4) if n else '', f'{name}_high': round(high, 4) if n else ''}


def judged(pairs, was):
    "For each near pair: planted, genuine or false."
    of = [(was[a], was[b]) for a, b in zip(pairs.a, pairs.b)]
    return np.array(['planted' if a == b else 'genuine' if frozenset((a, b)) in GENUINE else 'false' for a, b in of], dtype=object)


def copy_rows(s, was, found, **what):
    "Rows of the table: the two families with their precision, each kind with its recall."
    near = found.pairs[found.pairs.kind == 'near']
    verdict = judged(near, was)
    own = set(near[verdict == 'genuine'][['a', 'b']].to_numpy().ravel())
    for r in score(s, found.issues, names=NAMES).itertuples():
        kind, row = r.kind.strip(), dict(what, kind=r.kind.strip(), planted=r.planted, found=r.found, **ratio(r.found, r.planted, 'recall'))
        if kind in ('exact', 'near_copy'):
            wrong = set(found.issues.file[found.issues.kind == ('exact' if kind == 'exact' else 'near')]) - set(truth_files(s))
            genuine = len(wrong & own) if kind == 'near_copy' else 0
            row |= dict(flagged=r.flagged, right=r.right, beside=r.beside, genuine=genuine, **ratio(r.right, r.flagged-r.beside-genuine, 'precision'))
            if kind == 'near_copy': row |= dict(pairs=len(near), false_pairs=int((verdict == 'false').sum()))
        if what.get('crop') and kind == 'cropped': row['kind'] = 'cropped 20 %'
        yield {k: v for k, v in row.items() if k != 'crop'}


def truth_files(s):
    t = read_csv(s.path/'truth.csv')
    return {*t.file[t.kind != ''], *t.of} - {''}


def seen(s, features=True):
    "Measures of `s` and, from the same decode, its embeddings."
    if not features: return Measures.of(s), None
    f = embed(s, look=look)
    return Measures.from_looks(f.facts, f.looks), f


def peer(images, **types):
    "What cleanvision says of pictures, as it comes: a boolean column for each of its kinds, by file."
    import contextlib, io
    from cleanvision import Imagelab
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        lab = Imagelab(filepaths=[str(p) for p in images.paths])
        lab.find_issues(types or None, n_jobs=n_cores())
    t = lab.issues
    t.index = [os.path.relpath(f, images.path).replace(os.sep, '/') for f in t.index]
    return t[[c for c in t if c.startswith('is_')]].rename(columns=lambda c: c[3:].removesuffix('_issue'))


def each_set(args):
    for name, where in [*((n, w) for n in LESSONS for w in ('drawn', 'real')), *((n, 'held out') for n in HELD_OUT)]:
        if args.sets and name not in args.sets: continue
        yield name, where, pictures(name, where, args).ok


def copies_table(args, command):
    rows = []
    for name, where, images in each_set(args):
        n = len(images)
        k = max(4, min(40, n//12))    # a picture bears one defect or is one origin: ten kinds, so no more than a tenth
        for tag, crop, defects in (('near', False, dict(near_copy=k, exact_copy=k, copy_across_classes=k if len(images.classes) > 1 else 0)),
                                   ('crop', True, dict(cropped=dict(n=min(40, n//4), amount=.2)))):
            s, was = planted(images, tag, defects, args)
            measures, features = seen(s)
            for by in ('hashes and embeddings', 'hashes'):
                found = find_copies(s, measures, features if by != 'hashes' else None, seed=args.seed)
                rows += copy_rows(s, was, found, set=name, pictures=where, n=len(s), by=by, crop=crop, seed=args.seed, command=command)
            if args.peer and where != 'drawn' and not crop:
                t = peer(s, near_duplicates={}, exact_duplicates={})
                flags = pd.DataFrame([dict(file=f, kind=k) for k in ('exact', 'near') for f in t.index[t[f'{k}_duplicates']]], columns=['file', 'kind'])
                for r in score(s, flags, names=NAMES).itertuples():
                    rows.append(dict(set=name, pictures=where, n=len(s), by='cleanvision', seed=args.seed, command=command, kind=r.kind.strip(), planted=r.planted, found=r.found,
                                     **ratio(r.found, r.planted, 'recall'), **(dict(flagged=r.flagged, right=r.right, beside=r.beside, **ratio(r.right, r.flagged-r.beside, 'precision')) if r.flagged != '' else {})))
        machine.say(f'copies: {where} {name}, {n} pictures')
    return pd.DataFrame(rows)


def quality_table(args, command):
    rows = []
    for name, where, images in each_set(args):
        images = images.where(np.random.default_rng(args.seed).permutation(len(images)) < 600)
        s, _ = planted(images, 'quality', {k: max(4, min(25, len(images)//16)) for k in RULES}, args)
        sides = dict(ours=lambda s: pd.get_dummies(quality_issues(Measures.of(s)).set_index('file').kind).groupby(level=0).any())
        if args.peer and where != 'drawn': sides['cleanvision'] = partial(peer, **{k: {} for k in PEER})
        for by, flag in sides.items():
            spoilt, clean = flag(s), flag(images)
            marks = score(s, {k: spoilt.index[spoilt[k]] for k in spoilt if k in RULES or k in PEER}, names=PEER if by == 'cleanvision' else None).set_index('kind')
            base = dict(set=name, pictures=where, n=len(s), by=by, seed=args.seed, command=command)
            for k, r in marks.iterrows():
                word = next((w for w, m in PEER.items() if by == 'cleanvision' and k.strip() == (m if isinstance(m, str) else ' + '.join(m))), k.strip())
                flagged = int(clean[word].sum()) if word in clean else 0
                rows.append(dict(base, kind=k.strip(), planted=r.planted, found=r.found, **ratio(r.found, r.planted, 'recall'), flagged=r.flagged, right=r.right, beside=r.beside,
                                 **(ratio(r.right, r.flagged-r.beside, 'precision') if r.flagged != '' else {}), clean=len(images), clean_flagged=flagged, **ratio(flagged, len(images), 'clean_share')))
            any_clean = int(clean.any(axis=1).sum())
            rows.append(dict(base, kind='any', clean=len(images), clean_flagged=any_clean, **ratio(any_clean, len(images), 'clean_share')))
        machine.say(f'quality: {where} {name}, {len(images)} pictures')
    return pd.DataFrame(rows)


def sweep_table(args, command):
    "How recall and false pairs change with the share of parts that must agree; the other share stays as it is."
    rows, chosen = [], (copies.AGREE_WHOLE, copies.AGREE_PART)
    for name, where, images in each_set(args):
        k = max(4, min(40, len(images)//24))
        sets = [planted(images, 'near', dict(near_copy=k), args), planted(images, 'crop', dict(cropped=dict(n=min(40, len(images)//4), amount=.2)), args)]
        sets = [(s, was, *seen(s)) for s, was in sets]
        for which, shares in (('AGREE_WHOLE', (.44, .5, .56, .62, .68)), ('AGREE_PART', (.58, .64, .7, .76, .82))):
            for share in shares:
                copies.AGREE_WHOLE, copies.AGREE_PART = (share, chosen[1]) if which == 'AGREE_WHOLE' else (chosen[0], share)
                found = missed = false = 0
                for s, was, m, f in sets:
                    c = find_copies(s, m, f)
                    false += int((judged(c.pairs[c.pairs.kind == 'near'], was) == 'false').sum())
                    r = score(s, c.issues, names=NAMES).set_index('kind').loc['near_copy']
                    found, missed = found+r.found, missed+r.planted-r.found
                rows.append(dict(set=name, pictures=where, limit=which, share=share, planted=found+missed, found=found, **ratio(found, found+missed, 'recall'), false_pairs=false, seed=args.seed, command=command))
        copies.AGREE_WHOLE, copies.AGREE_PART = chosen
        machine.say(f'sweep: {where} {name}')
    return pd.DataFrame(rows)


def generated(n, seed):
    "Measures and embeddings that look like those of `n` pictures, a hundredth of them near copies: smooth random thumbnails, and their true hashes."
    from PIL import Image
    from lookalikes.backbone import Backbone, Features
    from lookalikes.measures import NUMBERS, THUMB, perceptual_hash
    rng = np.random.default_rng(seed)
    thumbs, hashes = np.zeros((n, THUMB, THUMB), np.uint8), np.zeros((n, 2, 8), np.uint8)
    X, copied = rng.standard_normal((n, 1280), dtype=np.float32), n//100
    X[:copied] = X[-copied:] + .2*X[:copied]
    for i in range(n-1, -1, -1):
        if i < copied: thumbs[i] = np.clip(thumbs[n-copied+i] + rng.normal(0, 2, (THUMB, THUMB)), 0, 255)
        else: thumbs[i] = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).resize((THUMB, THUMB), Image.Resampling.BICUBIC))
        hashes[i] = perceptual_hash(Image.fromarray(thumbs[i]))
    files = np.array([f'a/{i:06}.jpg' for i in range(n)], dtype=object)
    facts = pd.DataFrame(dict(file=files, sha256=[f'{i:064x}' for i in range(n)], width=300, height=300, reason=''))
    numbers = pd.DataFrame(np.full((n, len(NUMBERS)), 50, np.float32), columns=list(NUMBERS)).assign(high=255, low=0, width=300, height=300, aspect=1)
    return ImageSet(pd.DataFrame(dict(file=files, label='a')), 'generated'), Measures(facts, files, numbers, hashes, thumbs), Features(X, files, facts.assign(cached=False), Backbone.named(pretrained=False)), copied


class Peak:
    "The most memory that this process held while a block ran, bytes."
    def __enter__(self):
        import psutil, threading
        self.rss, self.done = partial(lambda p: p.memory_info().rss, psutil.Process()), threading.Event()
        self.before = self.most = self.rss()
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()
        return self

    def watch(self):
        while not self.done.wait(.05): self.most = max(self.most, self.rss())

    def __exit__(self, *_):
        self.done.set()
        self.watcher.join()


def scale_row(n, args, command):
    images, measures, features, copied = generated(n, args.seed)
    with Peak() as memory: seconds, found = machine.timed(partial(find_copies, images, measures, features, seed=args.seed))
    right = sum(int(b[2:-4])-int(a[2:-4]) == n-copied for a, b in zip(found.pairs.a, found.pairs.b))
    row = dict(pictures=n, copies=copied, found=right, false_pairs=len(found)-right, seconds=round(seconds, 1), ms_per_picture=round(1000*seconds/n, 2),
               before_gib=round(memory.before/2**30, 2), peak_gib=round(memory.most/2**30, 2), cores=n_cores(), seed=args.seed, command=command)
    machine.say(f'scale: {row}')
    return row


def scale_table(args, command): return pd.DataFrame([scale_row(n, args, command) for n in args.scale])


def main(argv=None):
    tables = dict(copies=copies_table, quality=quality_table, sweep=sweep_table, scale=scale_table)
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ap.add_argument('--photos', type=Path, default=os.environ.get('LOOKALIKES_PHOTOS') or machine.ROOT.parent/'shared'/'photos', help='folder that holds a folder for each set')
    ap.add_argument('--out', type=Path, default=machine.ROOT/'data'/'results', help='folder for the tables')
    ap.add_argument('--seed', type=int, default=0)
    ap.add_argument('--sets', nargs='+', choices=LESSONS+HELD_OUT, help='only these sets')
    ap.add_argument('--only', nargs='+', choices=tables, default=['copies', 'quality'])
    ap.add_argument('--scale', type=int, nargs='+', default=[10_000, 30_000, 100_000])
    ap.add_argument('--no-peer', dest='peer', action='store_false', help='leave cleanvision out')
    args = ap.parse_args(argv)
    args.photos = Path(args.photos)
    if set(args.only) != {'scale'} and not (args.photos/'pet_breeds').is_dir(): ap.error(f'{args.photos}: no folder pet_breeds in it; give the folder of photographs as --photos or LOOKALIKES_PHOTOS')
    words = [f"--{k} {' '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in vars(args).items() if k not in ('photos', 'out', 'peer') and v != ap.get_default(k)]
    command, start = ' '.join(['python benchmarks/copies.py', *words, *['--no-peer']*(not args.peer)]), time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp, machine.empty_cache(graphs=True):
        args.tmp = Path(tmp)
        for name in args.only:
            table = tables[name](args, command)
            write_atomic(args.out/{'copies': 'copies.csv', 'quality': 'quality.csv'}.get(name, f'copies_{name}.csv'), table.to_csv(index=False, lineterminator='\n').encode())
            machine.say(f'{name}: {len(table)} rows after {time.time()-start:.0f} s')


if __name__ == '__main__': main(sys.argv[1:])
