"""Does it count? The full runs of lesson 4: what the source reported, a better-designed run, swapped controls, and numbers never seen.

    python benchmarks/counting.py

Writes `data/results/circles.csv`: a row for each model, seed and set that it was examined on. Every network is trained from scratch on
drawn circles at equal radius; `augment` is crop (zoom in anywhere, as the source's defaults did), flips, or scale (zoom with every circle kept).
"""
import argparse
import tempfile
import time
from pathlib import Path

import machine
import numpy as np, pandas as pd, torch

from lookalikes.backbone import DEFAULT, Backbone
from lookalikes.circles import draw_circles
from lookalikes.depthwise import has_matrix_unit
from lookalikes.draw import circles
from lookalikes.imageset import csv_text, read_csv, write_atomic
from lookalikes.shortcuts import control_matrix, fit_counter, measure
from lookalikes.stats import ErrorRate

CONTROLS = 'equal_radius', 'equal_area', 'equal_perimeter', 'random'
root = Path(__file__).resolve().parents[1]


def line(learn_from):
    "A straight line from the share of ink to the number."
    slope, base = np.polyfit(measure(learn_from).area, learn_from.counts, 1)
    return lambda exam: slope*measure(exam).area.to_numpy() + base


def note(out, **row):
    "Put a row into the table, in the place of an earlier one of its kind."
    row |= dict(machine.computer(), command='python benchmarks/counting.py')
    old = read_csv(out) if out.exists() else pd.DataFrame(columns=list(row))
    new = pd.DataFrame([{k: str(v) for k, v in row.items()}])
    keep = old[(old[SAME] != new[SAME].iloc[0]).any(axis=1)]
    write_atomic(out, csv_text(pd.concat([keep, new]).fillna('')).encode())
    print(*row.values(), flush=True)


def examine(out, what, model, learn_from, exams, seed, **how):
    "Train, examine, and note a row for each examination."
    seconds = []
    def fit(circles):
        if model == 'line on area': return line(circles)
        net = fit_counter(circles, model, seed=seed, **how)
        seconds.append(net.seconds)
        return net
    size = learn_from.pictures.shape[1]
    for r in control_matrix(dict(equal_radius=learn_from), exams, fit).table.itertuples():
        note(out, experiment=what, model=model, augment=how.get('augment', ''), epochs=how.get('epochs', ''), pictures=len(learn_from), size=size, seed=seed, trained_on=r.trained_on,
             tested_on=r.tested_on, n=r.n, errors=r.errors, error_rate=round(r.error_rate, 6), low=round(r.low, 6), high=round(r.high, 6), off=round(r.off, 4), train_seconds=round(sum(seconds), 1))


def swapped(out, seed):
    "One to five circles: at home, and under the other controls."
    train = draw_circles(4000, (1, 5), 48, seed=100+seed)
    exams = {k: draw_circles(1000, (1, 5), 48, control=k, seed=200+seed) for k in CONTROLS}
    examine(out, '1-5', 'line on area', train, exams, seed)
    for model, augment in (('density', 'scale'), ('classes', 'crop'), ('number', 'flips'), ('classes', 'scale')):
        examine(out, '1-5', model, train, exams, seed, augment=augment, epochs=10)


def held_out(out, seed):
    "Trained without 3, and without anything above 5; circles of one radius throughout."
    train = draw_circles(4000, [1, 2, 4, 5], 48, seed=300+seed)
    exams = {str(k): draw_circles(400, [k], 48, seed=400+seed, density=.05*k) for k in (3, 6, 7, 8)}
    for model, augment in (('density', 'scale'), ('number', 'flips'), ('classes', 'flips')):
        examine(out, 'trained on 1, 2, 4, 5', model, train, exams, seed, augment=augment, epochs=10)


def fifty(out, seed):
    "Forty-five and more: as the source did, and better."
    examine(out, '45-50', 'line on area', draw_circles(4800, (45, 50), seed=500+seed), dict(equal_radius=draw_circles(1200, (45, 50), seed=600+seed)), seed)
    examine(out, '45-50', 'classes', draw_circles(4800, (45, 50), seed=500+seed), dict(equal_radius=draw_circles(1200, (45, 50), seed=600+seed)), seed, augment='crop', epochs=5)
    examine(out, '45-49', 'classes', draw_circles(25000, (45, 49), seed=700+seed), dict(equal_radius=draw_circles(1000, (45, 49), seed=800+seed)), seed, augment='flips', epochs=4)


class Half(torch.nn.Module):
    "A network in bfloat16 where the processor multiplies it, and there several times as fast."
    def __init__(self, net):
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)

    def forward(self, x):
        with torch.autocast('cpu', torch.bfloat16, enabled=has_matrix_unit()): return self.net(x).float()


def as_published(out, seed, counts=(45, 50), n=4800, exam=1200, size=128, epochs=3):
    "As the source began: a network that knows photographs, a new head, fastai's usual augmentation. (Its rate for the whole network came later, and gained little.)"
    from fastai.vision.all import CrossEntropyLossFlat, ImageDataLoaders, Learner, Normalize, aug_transforms, create_head, params, set_seed
    backbone, k = Backbone.named(DEFAULT), counts[1]-counts[0]+1
    body = backbone.model()
    set_seed(seed, reproducible=True)
    with tempfile.TemporaryDirectory() as folder:
        for part, many, start in (('train', n, 500), ('valid', exam, 600)): circles(many//k, counts, size, path=Path(folder)/part, seed=start+seed)
        scaling = Normalize.from_stats(backbone.prep.mean, backbone.prep.std, cuda=False)
        dls = ImageDataLoaders.from_folder(folder, train='train', valid='valid', batch_tfms=[*aug_transforms(), scaling], bs=64, num_workers=0, seed=seed)
        net = torch.nn.Sequential(Half(body), create_head(body.num_features, k, pool=False))
        learn = Learner(dls, net, CrossEntropyLossFlat(), splitter=lambda m: [params(m[0]), params(m[1])], path=folder)
        begun = time.perf_counter()
        with learn.no_bar(), learn.no_logging():
            learn.freeze()
            learn.fit_one_cycle(epochs)
            probs, truth = learn.get_preds()
    e, off = ErrorRate.of((probs.argmax(1) != truth).numpy()), float((probs.argmax(1)-truth).abs().float().mean())
    low, high = e.interval
    note(out, experiment=f'{counts[0]}-{counts[1]}', model='pretrained, as published', augment="fastai's", epochs=epochs, pictures=n, size=size, seed=seed, trained_on='equal_radius',
         tested_on='equal_radius', n=e.n, errors=e.errors, error_rate=round(e.rate, 6), low=round(low, 6), high=round(high, 6), off=round(off, 4), train_seconds=round(time.perf_counter()-begun, 1))


PARTS = dict(swapped=swapped, held_out=held_out, fifty=fifty, as_published=as_published)
SAME = ['experiment', 'model', 'augment', 'epochs', 'seed', 'tested_on']


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--out', type=Path, default=root/'data'/'results'/'circles.csv')
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    ap.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), help='only these; the other rows of the table stay')
    ap.add_argument('--threads', type=int, default=1, help='nets so small gain little from more')
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in args.parts:
            if name != 'as_published' or seed == 0: PARTS[name](args.out, seed)


if __name__ == '__main__': main()
