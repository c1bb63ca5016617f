"""Lesson 7 on photographs: is a probe's confidence honest after calibration, do label sets keep their promise, what does abstaining buy, and
are strangers told from the model's own kind?

    python benchmarks/confidence.py

Every picture is judged once for each seed: five folds, of the rest a fifth to calibrate on, the probe fitted on what remains. Temperature,
threshold, sets and the limit for strangers come from the validation pictures of the fold, figures from its test pictures.

Strangers are judged in three ways: pictures of other things as they are, the same when size, crop and JPEG quality are made equal on both sides (what
is left then is the content, and whatever else differs between two sources), and classes of a set that the probe was never shown, which come from the
same source by construction. Writes `data/results/confidence.csv`, a row for each set and measure. An interval counts each picture once, however many
seeds have judged it.
"""
import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np, pandas as pd
from photographs import SETS, photographs

from lookalikes.backbone import embed
from lookalikes.confidence import AUROC, _bins, _gap, auroc, calibrate
from lookalikes.imageset import csv_text, write_atomic
from lookalikes.picture import open_image
from lookalikes.predictions import predict
from lookalikes.probe import cross_validate, fit_probe
from lookalikes.stats import ErrorRate
from lookalikes.train import with_valid

STRANGERS, KNOWN = 'lookalike_extras', 'chihuahua_or_muffin'
FEW = 100 # Validation pictures; where a fold has fewer, calibration out of fold is judged as well
LEFT_OUT = dict(pet_breeds=7, guitars=3)
PROMISED = dict(kittens_or_cats=.1, pet_breeds=.05, guitars=.1)
root = Path(__file__).resolve().parents[1]


def load(root, name, n=None):
    "Pictures with their copies grouped, and their features."
    images = photographs(root, name)
    if n: images = images.where((images.df.groupby('label').cumcount() < n).to_numpy())
    features = embed(images, progress=False)
    return images.with_facts(features.facts).ok.group_copies(), features


def folds(images, features, seed, k=5):
    "For each fold: what the probe says of training, validation and test pictures, and the probe."
    where = images.folds(k, seed)
    for i in range(k):
        part = with_valid(images.replace(split=np.where(where == i, 'test', 'train').astype(object)), seed)
        probe = fit_probe(part, features=features, seed=seed)
        yield predict(probe, part, features=features), probe


def folds_without(images, features, seed, k=5):
    "For each fold, with no picture set aside to calibrate on: what the probe says of training and test pictures, and what probes say out of fold."
    where = images.folds(k, seed)
    for i in range(k):
        part = images.replace(split=np.where(where == i, 'test', 'train').astype(object))
        yield predict(fit_probe(part, features=features, seed=seed), part, features=features), cross_validate(part.where(where != i), k, features=features, seed=seed)


def judge(images, features, seed, wanted=None, out_of_fold=False):
    "A table of the test pictures: what was said of them before and after calibration."
    parts, temperatures = [], []
    for said, held_out in folds_without(images, features, seed) if out_of_fold else ((o, None) for o, _ in folds(images, features, seed)):
        c = calibrate(said, answered=.9, held_out=held_out)
        temperatures.append(c.temperature)
        test = said.where(split='test')
        after = test.calibrated(c)
        sets = c.label_set(after.probs)
        promise = np.full(len(test), np.nan)
        if wanted:
            try: promise = (after.df.confidence >= calibrate(said, error=wanted, strangers=None).threshold).astype(float)
            except ValueError: pass   # too few validation pictures to promise anything
        parts.append(pd.DataFrame(dict(file=test.df.file, wrong=test.wrong, p=test.df.confidence.astype(float), loss=test.df.loss.astype(float),
                                       wrong_after=after.wrong, p_after=after.df.confidence.astype(float), loss_after=after.df.loss.astype(float),
                                       held=sets[np.arange(len(sets)), [test.classes.index(o) for o in test.df.label]], size=sets.sum(1),
                                       answered=after.df.confidence >= c.threshold, promise=promise, refused=c.distance(test.features) > c.stranger)))
    return pd.concat(parts).sort_values('file').reset_index(drop=True), temperatures


def calibration_error(t, p, wrong):
    p, right = t[p].to_numpy(), 1-t[wrong].to_numpy(float)
    o = np.argsort(p, kind='stable')
    return _gap(p[o], right[o], _bins(len(p), 10))


def resampled(tables, f, n=1000, seed=0):
    "Mean and 95 % interval of the mean of `f` over the seeds' tables: pictures are drawn, the same ones in each table."
    rng, k = np.random.default_rng(seed), len(tables[0])
    drawn = []
    for _ in range(n):
        rows = rng.integers(0, k, k)
        drawn.append(np.mean([f(t.iloc[rows]) for t in tables]))
    return np.nanmean(drawn), *np.nanquantile(drawn, [.025, .975])


def share(tables, f):
    "Mean share over seeds, and the Wilson interval of one seed's pictures."
    counts = np.array([f(t) for t in tables], float).mean(0)
    k, n = counts
    return (k/n, *ErrorRate(round(k), round(n)).interval, round(n)) if n >= 1 else (np.nan, np.nan, np.nan, 0)


def of_set(name, images, features, seeds):
    "Rows of one set."
    got = [judge(images, features, s, PROMISED.get(name)) for s in seeds]
    tables, temperatures = [t for t, _ in got], [o for _, ts in got for o in ts]
    n, rows = len(tables[0]), []
    def row(measure, value, low=np.nan, high=np.nan, of=n, note=''): rows.append(dict(set=name, measure=measure, value=value, low=low, high=high, n=of, note=note))
    def of_error(word, tables, p, wrong):
        def f(t): return calibration_error(t, p, wrong)
        value, rng = np.mean([f(t) for t in tables]), np.random.default_rng(0)
        chance = np.mean([calibration_error(t.assign(x=rng.random(n) >= t[p]), p, 'x') for t in tables for _ in range(200)])
        corrected, high, low = np.maximum(0, 2*value - np.array(resampled(tables, f)))
        row(f'calibration error {word}', value, note=f'a calibrated model would show {chance:.4f}')
        row(f'calibration error {word}, less its bias', corrected, low, high)
    def of_sets(word, tables):
        value, low, high, _ = share(tables, lambda t: (t.held.sum(), n))
        row(f'coverage of 90 % sets{word}', value, low, high, note=f'mean size {np.mean([t["size"].mean() for t in tables]):.3f}, empty {np.mean([(t["size"] == 0).mean() for t in tables]):.3f}')
    def gain(t): return calibration_error(t, 'p', 'wrong') - calibration_error(t, 'p_after', 'wrong_after')
    row('temperature', np.median(temperatures), min(temperatures), max(temperatures), note='median, lowest and highest of the folds')
    of_error('before', tables, 'p', 'wrong')
    of_error('after', tables, 'p_after', 'wrong_after')
    row('calibration error taken off', np.mean([gain(t) for t in tables]), *resampled(tables, gain)[1:], note='paired')
    row('loss taken off', np.mean([(t.loss-t.loss_after).mean() for t in tables]), *resampled(tables, lambda t: (t.loss-t.loss_after).mean())[1:], note=f'of {np.mean([t.loss.mean() for t in tables]):.4f}')
    of_sets('', tables)
    if n*.8*.2 < FEW:
        apart = [judge(images, features, s, out_of_fold=True)[0] for s in seeds]
        of_error('after, out of fold', apart, 'p_after', 'wrong_after')
        of_sets(', out of fold', apart)
    value, low, high, _ = share(tables, lambda t: (t.wrong_after.sum(), n))
    row('error, all answered', value, low, high)
    some, low, high, k = share(tables, lambda t: (t.wrong_after[t.answered].sum(), t.answered.sum()))
    row('error, 90 % answered', some, low, high, k, note=f'{k/n:.3f} answered')
    if value: row('error cut at 90 %', 1-some/value, *resampled(tables, lambda t: 1-t.wrong_after[t.answered].mean()/t.wrong_after.mean() if t.wrong_after.any() else np.nan)[1:], note='share')
    row('own pictures refused as strangers', *share(tables, lambda t: (t.refused.sum(), n))[:3], note='1 % asked for')
    if name in PROMISED and any(t.promise.notna().any() for t in tables):
        value, low, high, k = share([t[t.promise == 1] for t in tables], lambda t: (t.wrong_after.sum(), len(t)))
        row(f'error where at most {PROMISED[name]:.0%} was asked for', value, low, high, k, note=f'{np.mean([t.promise.mean() for t in tables if t.promise.notna().any()]):.3f} answered; promised in {np.mean([t.promise.notna().mean() for t in tables]):.2f} of the folds')
    return rows


def told_apart(name, known, strangers, seeds, split, note):
    "AUROC of each score: mean over folds and seeds of probes that know `known`, or what `split` leaves of it."
    values, n_known, n_strange = [], 0, 0
    for seed in seeds:
        inside, outside = split(seed)
        for said, probe in folds(*inside, seed):
            c = calibrate(said)
            own, other = said.where(split='test').strangeness(c), predict(probe, outside[0], features=outside[1]).strangeness(c)
            values.append({o: auroc(own[o], other[o]).value for o in own})
        n_known, n_strange = len(inside[0]), len(outside[0])
    t = pd.DataFrame(values)
    return [dict(set=name, measure=f'AUROC of {dict(doubt="confidence").get(o, o)}', value=t[o].mean(), **dict(zip(('low', 'high'), AUROC(t[o].mean(), n_known, n_strange).interval)),
                 n=n_known+n_strange, note=f'{n_known} known, {n_strange} strangers; {note}; folds from {t[o].min():.4f} to {t[o].max():.4f}') for o in ('distance', 'energy', 'doubt')]


def made_equal(images, folder, side, quality):
    "Copies of all pictures: the middle square, of one size, in JPEG of one quality, as PIL writes it."
    from PIL import ImageOps
    for label in images.classes: (folder/label).mkdir(parents=True, exist_ok=True)
    for i, (f, label) in enumerate(zip(images.df.file, images.df.label)): ImageOps.fit(open_image(images.path/f), (side, side)).save(folder/label/f'{i}.jpg', quality=quality)
    return load(folder.parent, folder.name)


def facts(images):
    "Median short side and median bytes a pixel."
    short = images.df[['width', 'height']].min(axis=1).median()
    size = np.median([(images.path/f).stat().st_size/(w*h) for f, w, h in zip(images.df.file, images.df.width, images.df.height)])
    return f'short side {short:.0f} px, {size:.2f} bytes a pixel'


def strangers(photos, seeds, n):
    "Rows for pictures of other things, as they are and made equal."
    (own, own_features), (other, other_features) = load(photos, KNOWN, n), load(photos, STRANGERS, n)
    same = lambda a, b: lambda seed: (a, b)
    name = f'{STRANGERS} against {KNOWN}'
    rows = told_apart(name, own, other, seeds, same((own, own_features), (other, other_features)), f'as they are: {facts(own)}; strangers {facts(other)}')
    with tempfile.TemporaryDirectory() as tmp:
        for side, quality in ((128, 75), (64, 50)):
            a, b = made_equal(own, Path(tmp)/f'own{side}', side, quality), made_equal(other, Path(tmp)/f'other{side}', side, quality)
            rows += told_apart(f'{name}, equal {side} px', a[0], b[0], seeds, same(a, b), f'middle squares of {side} px, JPEG quality {quality}; {facts(a[0])}; strangers {facts(b[0])}')
    return rows


def left_out(name, images, features, seeds, k):
    "Rows for classes that the probe was never shown."
    def split(seed):
        out = np.random.default_rng(seed).choice(images.classes, k, replace=False)
        away = images.df.label.isin(out).to_numpy()
        return (images.where(~away), features), (images.where(away), features)
    return told_apart(f'{name}, {k} classes left out', images, images, seeds, split, f'{k} classes drawn for each seed')


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--photos', type=Path, default=os.environ.get('LOOKALIKES_PHOTOS') or root.parent/'shared'/'photos')
    ap.add_argument('--out', type=Path, default=root/'data'/'results', help='folder for the result')
    ap.add_argument('--sets', nargs='*', default=list(SETS), help='those to calibrate')
    ap.add_argument('--n', type=int, help='use so many pictures of each class rather than all')
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    args = ap.parse_args()
    args.photos = Path(args.photos)
    here = [o for o in args.sets if (args.photos/o).is_dir()]
    if not here: ap.error(f'{args.photos}: no folder of {", ".join(args.sets)} in it; give the folder of photographs as --photos or LOOKALIKES_PHOTOS')
    rows = []
    for name in here:
        images, features = load(args.photos, name, args.n)
        rows += of_set(name, images, features, args.seeds)
        if len(images.classes) > 2*LEFT_OUT.get(name, 99): rows += left_out(name, images, features, args.seeds, LEFT_OUT[name])
        if name == KNOWN and (args.photos/STRANGERS).is_dir(): rows += strangers(args.photos, args.seeds, args.n)
        print(pd.DataFrame([r for r in rows if r['set'].startswith(name) or r['set'].startswith(STRANGERS)]).round(4).to_string(index=False), file=sys.stderr)
    command = 'python benchmarks/confidence.py' + ''.join(f' --{k} {shlex.join(map(str, v if isinstance(v, list) else [v]))}' for k in ('sets', 'n', 'seeds') if (v := getattr(args, k)) != ap.get_default(k))
    table = pd.DataFrame(rows).assign(seeds=len(args.seeds), command=command)
    table[['value', 'low', 'high']] = table[['value', 'low', 'high']].round(5)
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out/'confidence.csv', csv_text(table).encode())


if __name__ == '__main__': main()
