"""Can heatmaps be believed? Measured on drawn pictures, where the place of the subject is known.

    python benchmarks/heatmaps.py

For each lesson whose pictures have a subject: a probe learns from drawn pictures, and explains others. How often is the heatmap's peak on the subject
(the pointing game), how much of its mass, and how large is the subject? Does blurring the hottest places first lower the probability of the class
sooner than blurring places at random? And with the network's weights shuffled within each layer, how alike are the heatmaps still (rank correlation)?
Writes `data/results/heatmaps.csv`.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from lookalikes.draw import draw, draw_mask
from lookalikes.heatmaps import deletion_curve, grad_cam, heatmap, on_mask
from lookalikes.imageset import csv_text, write_atomic
from lookalikes.probe import fit_probe
from lookalikes.predictions import predict
from lookalikes.stats import wilson

ROOT = Path(__file__).resolve().parents[1]
LESSONS = ('chihuahua_or_muffin', 'pet_breeds', 'kittens_or_cats', 'cats_or_dogs', 'guitars')


def shuffled(net, seed):
    "The network with the values of each tensor in another order."
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters(): p.copy_(p.flatten()[torch.randperm(p.numel(), generator=rng)].view_as(p))
    return net


class Head(torch.nn.Module):
    "A probe's last layer; without the root, which would need features of the usual size."
    def __init__(self, probe):
        super().__init__()
        self.weight = torch.from_numpy(probe.weight)
    def forward(self, x): return x @ self.weight.T


def measure(lesson, n, explain, seed):
    "The row of a lesson."
    images = draw(lesson, n, seed=seed)
    last = images.df.file.str.extract(r'_(\d+)\.jpg$')[0].astype(int)
    images = images.replace(split=np.where(last <= n-explain, 'train', 'test').astype(object))
    probe = fit_probe(images)
    exam = images.where(images.df.split == 'test')
    preds, prep, classes = predict(probe, exam), probe.backbone.prep, probe.classes
    other, head, rng, rows = shuffled(probe.backbone.model(), seed), Head(probe), np.random.default_rng(seed), []
    for r in preds.df.itertuples():
        h = heatmap(probe, exam.path/r.file)
        i = int(Path(r.file).stem.rsplit('_', 1)[1])-1
        found = on_mask(h, draw_mask(lesson, r.label, seed, i), prep)
        grids = [rng.random(h.values.shape) for _ in range(5)]
        curve, chance = deletion_curve(probe, h, 8).mean(), np.mean([deletion_curve(probe, h, 8, o).mean() for o in grids])
        values = np.maximum(grad_cam(other, head, np.asarray(h.picture), prep, classes.index(h.label))[0], 0)
        alike = spearmanr(h.values.ravel(), values.ravel()).statistic if np.ptp(values) else np.nan     # a map of zeros is like nothing
        rows.append(found | dict(right=r.pred == r.label, deletion=curve, chance=chance, alike=alike))
    df = pd.DataFrame(rows)
    hits, sooner = int(df.hit.sum()), int((df.deletion < df.chance).sum())
    return dict(lesson=lesson, n=len(df), right=int(df.right.sum()), hits=hits, hit_rate=hits/len(df), **dict(zip(('hit_low', 'hit_high'), wilson(hits, len(df)))), mass=df.mass.mean(), area=df.area.mean(),
                deletion=df.deletion.mean(), random_deletion=df.chance.mean(), sooner=sooner, **dict(zip(('sooner_low', 'sooner_high'), wilson(sooner, len(df)))), shuffled_alike=df.alike.mean(), shuffled_flat=float(df.alike.isna().mean()))


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ap.add_argument('--lessons', nargs='+', default=LESSONS)
    ap.add_argument('--n', type=int, default=60, help='drawn pictures of each class')
    ap.add_argument('--explain', type=int, default=10, help='of these, how many are explained')
    ap.add_argument('--seed', type=int, default=0)
    ap.add_argument('--out', type=Path, default=ROOT/'data'/'results', help='folder for the result')
    args = ap.parse_args()
    rows = []
    for lesson in args.lessons:
        rows.append(measure(lesson, args.n, args.explain, args.seed))
        print(rows[-1], file=sys.stderr, flush=True)
    given = ''.join(f' --{k} {v}' for k, v in (('n', args.n), ('explain', args.explain), ('seed', args.seed)) if v != ap.get_default(k))
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out/'heatmaps.csv', csv_text(pd.DataFrame(rows).astype({c: float for c in ('mass', 'area', 'deletion', 'random_deletion')}).round(4).assign(command=f'python benchmarks/heatmaps.py{given}')).encode())


if __name__ == '__main__': main()
