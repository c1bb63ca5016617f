"""Do the drawn twins give their classes away? A model that sees only colours beside a probe, on every lesson's twin.

    python benchmarks/twins.py

Both are logistic regressions judged in the same five folds: one on a histogram of colours (8 x 8 x 8 boxes, rooted), the other, `cross_validate`,
on the bundled network's features. Writes `data/results/twins.csv`: a row for each lesson, with how many pictures a second were drawn.
"""
import argparse
import tempfile
import time
from pathlib import Path

import numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lookalikes.draw import TWINS, draw
from lookalikes.imageset import csv_text, write_atomic
from lookalikes.probe import cross_validate
from lookalikes.stats import ErrorRate

root = Path(__file__).resolve().parents[1]


def by_colour(images, seed):
    "Errors of a model that knows how many pixels of each colour there are, and nothing of where."
    X = np.sqrt([np.bincount((np.asarray(images.open(i)).astype(int)//32 @ [64, 8, 1]).ravel(), minlength=512) for i in range(len(images))])
    y, fold, wrong = images.df.label.to_numpy(str), images.folds(5, seed), np.zeros(len(images), bool)
    for f in range(5):
        best = None
        for C in (.003, .03, .3):    # its best of three strengths, chosen to its advantage
            model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
            e = model.fit(X[fold != f], y[fold != f]).predict(X[fold == f]) != y[fold == f]
            if best is None or e.sum() < best.sum(): best = e
        wrong[fold == f] = best
    return ErrorRate.of(wrong)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--n', type=int, default=60, help='pictures of each class')
    ap.add_argument('--seed', type=int, default=0)
    ap.add_argument('--out', type=Path, default=root/'data'/'results'/'twins.csv')
    args = ap.parse_args()
    rows = []
    for lesson in TWINS:
        with tempfile.TemporaryDirectory() as folder, threadpool_limits(2):
            start = time.perf_counter()
            images = draw(lesson, args.n, seed=args.seed, path=Path(folder)/lesson)
            rate = len(images)/(time.perf_counter()-start)
            errors = dict(colour=by_colour(images, args.seed), probe=cross_validate(images, 5, seed=args.seed).errors)
        k = len(images.classes)
        rows.append(dict(lesson=lesson, classes=k, n=len(images), chance=round(1-1/k, 4), **{f'{name}_{what}': round(value, 4) for name, e in errors.items() for what, value in
                    (('error', e.rate), ('low', e.interval[0]), ('high', e.interval[1]))}, drawn_per_s=round(rate, 1), seed=args.seed, command='python benchmarks/twins.py'))
        print(rows[-1], flush=True)
    write_atomic(args.out, csv_text(pd.DataFrame(rows)).encode())
    worse = [r['lesson'] for r in rows if r['colour_low'] <= r['probe_high']]
    print('no clear distance between colour and probe: '+', '.join(worse) if worse else 'on every twin the probe is clearly ahead of colour alone')


if __name__ == '__main__': main()
