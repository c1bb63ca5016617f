"""Does it count? The full runs of lesson 4: what the source reported, a better-designed run, swapped controls, and numbers never seen.

    python benchmarks/counting.py

Writes `data/results/circles.csv`: a row for each model, seed and set that it was examined on. Every network is trained from scratch on
drawn circles at equal radius; `augment` is crop (zoom in anywhere, as the source's defaults did), flips, or scale (zoom with every circle kept).
"""
import argparse
from pathlib import Path

import numpy as np, pandas as pd, torch

from lookalikes.circles import draw_circles
from lookalikes.imageset import write_atomic
from lookalikes.shortcuts import control_matrix, fit_counter, measure

CONTROLS = 'equal_radius', 'equal_area', 'equal_perimeter', 'random'
root = Path(__file__).resolve().parents[1]


def line(learn_from):
    "A straight line from the share of ink to the number."
    slope, base = np.polyfit(measure(learn_from).area, learn_from.counts, 1)
    return lambda exam: slope*measure(exam).area.to_numpy() + base


def examine(rows, out, what, model, learn_from, exams, seed, **how):
    "Train, examine, and note a row for each examination."
    seconds = []
    def fit(circles):
        if model == 'line on area': return line(circles)
        net = fit_counter(circles, model, seed=seed, **how)
        seconds.append(net.seconds)
        return net
    size = learn_from.pictures.shape[1]
    for r in control_matrix(dict(equal_radius=learn_from), exams, fit).table.itertuples():
        rows.append(dict(experiment=what, model=model, augment=how.get('augment', ''), epochs=how.get('epochs', ''), pictures=len(learn_from), size=size, seed=seed, trained_on=r.trained_on,
                         tested_on=r.tested_on, n=r.n, errors=r.errors, error_rate=round(r.error_rate, 6), low=round(r.low, 6), high=round(r.high, 6), off=round(r.off, 4),
                         train_seconds=round(sum(seconds), 1), command='python benchmarks/counting.py'))
        print(what, model, how, seed, r.tested_on, f'{r.error_rate:.1%} ({r.low:.1%} to {r.high:.1%}) off {r.off:.3f}', flush=True)
    write_atomic(out, pd.DataFrame(rows).to_csv(index=False, lineterminator='\n').encode())


def swapped(rows, out, seed):
    "One to five circles: at home, and under the other controls."
    train = draw_circles(4000, (1, 5), 48, seed=100+seed)
    exams = {k: draw_circles(1000, (1, 5), 48, control=k, seed=200+seed) for k in CONTROLS}
    examine(rows, out, '1-5', 'line on area', train, exams, seed)
    for model, augment in (('density', 'scale'), ('classes', 'crop'), ('number', 'flips'), ('classes', 'scale')):
        examine(rows, out, '1-5', model, train, exams, seed, augment=augment, epochs=10, width=24)


def held_out(rows, out, seed):
    "Trained without 3, and without anything above 5; circles of one radius throughout."
    train = draw_circles(4000, [1, 2, 4, 5], 48, seed=300+seed)
    exams = {str(k): draw_circles(400, [k], 48, seed=400+seed, density=.05*k) for k in (3, 6, 7, 8)}
    for model, augment in (('density', 'scale'), ('number', 'flips'), ('classes', 'flips')):
        examine(rows, out, 'trained on 1, 2, 4, 5', model, train, exams, seed, augment=augment, epochs=10, width=24)


def fifty(rows, out, seed):
    "Forty-five and more: as the source did, and better."
    examine(rows, out, '45-50', 'line on area', draw_circles(4800, (45, 50), seed=500+seed), dict(equal_radius=draw_circles(1200, (45, 50), seed=600+seed)), seed)
    examine(rows, out, '45-50', 'classes', draw_circles(4800, (45, 50), seed=500+seed), dict(equal_radius=draw_circles(1200, (45, 50), seed=600+seed)), seed, augment='crop', epochs=5, width=24)
    if seed == 0: examine(rows, out, '45-49', 'classes', draw_circles(25000, (45, 49), seed=700), dict(equal_radius=draw_circles(1000, (45, 49), seed=800)), 0, augment='flips', epochs=4, width=24)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--out', type=Path, default=root/'data'/'results'/'circles.csv')
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    ap.add_argument('--threads', type=int, default=1, help='nets so small gain little from more')
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in args.seeds:
        for part in (swapped, held_out, fifty): part(rows, args.out, seed)


if __name__ == '__main__': main()
