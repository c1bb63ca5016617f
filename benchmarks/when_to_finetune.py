"""When is it worth letting the network learn? Lesson 7's table of data size and similarity, measured on drawn twins.

    python benchmarks/when_to_finetune.py

Two tasks: drawn cats and dogs, which are what the backbone has seen most of in its million photographs, and drawn circles to be counted, six to
eight of the same total area, which are like nothing there. Few pictures of each class, and many. Three depths: a probe (the network stays as it is),
the late half of the blocks, every block; the last two begin at the probe and are judged after the last epoch, without `KeepBest`, which would often
go back to the probe. The same pictures for all three, the same test pictures throughout, and a paired randomisation test, against the probe, on how
often each test picture is wrong. Writes `data/results/when_to_finetune.csv`.
"""
import argparse
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd

from lookalikes.backbone import Backbone
from lookalikes.callbacks import KeepBest
from lookalikes.draw import circles, draw
from lookalikes.imageset import csv_text, write_atomic
from lookalikes.loaders import Augment
from lookalikes.predictions import predict
from lookalikes.probe import fit_probe
from lookalikes.stats import ErrorRate, sign_flip
from lookalikes.train import finetune, image_learner

root = Path(__file__).resolve().parents[1]
# What augmentation may do: mirror circles and nothing else, for a piece of the picture holds fewer, and a stretched one others
TASKS = dict(cats_or_dogs=('similar', Augment()), circles=('dissimilar', Augment(scale=(1, 1), ratio=(1, 1), turn=0, light=0)))


def drawn(task, n, size):
    return draw(task, n=n, size=size) if task != 'circles' else circles(n=n, counts=(6, 8), size=size, control='equal_area')


def divided(images, n, exam, seed):
    "`n` training pictures of each class, two that the learner insists on for validation and that decide nothing, and the last `exam` of each class to judge on."
    df, rng = images.df, np.random.default_rng(seed)
    split = np.full(len(df), '', object)
    for label in images.classes:
        rows = np.flatnonzero(df.label == label)
        pool = rng.permutation(rows[:-exam])
        split[rows[-exam:]], split[pool[:n]], split[pool[n:n+2]] = 'test', 'train', 'valid'
    return images.replace(split=split).where(split != '')


def climb(images, backbone, augment, epochs, lr, seed):
    "For each depth: whether each test picture is wrong, and seconds."
    probe, test = fit_probe(images, backbone, seed=seed), images.where(images.df.split == 'test')
    yield 'probe', predict(probe, test), 0.
    for depth, every in (('late layers', False), ('every layer', True)):
        start = time.perf_counter()
        learn = image_learner(images, backbone, probe, bs=8 if (images.df.split == 'train').sum() < 64 else 16, seed=seed, augment=augment)
        learn.remove_cb(KeepBest)
        with learn.no_bar(), learn.no_logging():
            if every:
                learn.unfreeze()
                learn.fit_one_cycle(epochs, [lr/3, lr, lr])
            else: finetune(learn, epochs, lr)
        yield depth, predict(learn, test), time.perf_counter()-start


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--out', type=Path, default=root/'data'/'results', help='folder for the result')
    ap.add_argument('--few', type=int, default=10, help='training pictures of each class')
    ap.add_argument('--many', type=int, default=80)
    ap.add_argument('--exam', type=int, default=60, help='test pictures of each class')
    ap.add_argument('--size', type=int, default=96, help='pixels')
    ap.add_argument('--epochs', type=int, default=5)
    ap.add_argument('--lr', type=float, default=5e-4)
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    args = ap.parse_args()
    command = 'python benchmarks/when_to_finetune.py' + ''.join(f' --{k} {shlex.join(map(str, v if isinstance(v, list) else [v]))}' for k in ('few', 'many', 'exam', 'size', 'epochs', 'lr', 'seeds') if (v := getattr(args, k)) != ap.get_default(k))
    backbone, rows = Backbone.named(size=args.size), []
    backbone = replace(backbone, prep=replace(backbone.prep, crop_pct=1.))     # the whole picture, with all its circles
    for task, (similarity, augment) in TASKS.items():
        images = drawn(task, 2*args.many + args.exam, args.size)
        for n in (args.few, args.many):
            wrong, seconds = {}, {}
            for seed in args.seeds:
                for depth, said, took in climb(divided(images, n, args.exam, seed), backbone, augment, args.epochs, args.lr, seed):
                    wrong.setdefault(depth, []).append(said.wrong)
                    seconds.setdefault(depth, []).append(took)
                    print(task, n, seed, depth, said.errors, f'{took:.0f} s', file=sys.stderr)
            often = {k: np.mean(v, 0) for k, v in wrong.items()}
            for depth, o in often.items():
                e = ErrorRate(round(o.sum()), len(o))
                rows.append(dict(task=task, similarity=similarity, training_pictures_a_class=n, depth=depth, error=round(o.mean(), 5), low=round(e.interval[0], 5), high=round(e.interval[1], 5), n=len(o), seeds=len(args.seeds),
                                 p='' if depth == 'probe' else f'{sign_flip(often["probe"]-o):.2g}', seconds=round(np.mean(seconds[depth]), 1), command=command))
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out/'when_to_finetune.csv', csv_text(pd.DataFrame(rows)).encode())
    print(pd.DataFrame(rows).drop(columns='command').to_string(index=False), file=sys.stderr)


if __name__ == '__main__': main()
