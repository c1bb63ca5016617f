"""Lesson 6 on photographs: a ladder of rungs for the eleven guitars, each with its price, compared with the best rung before it.

    python benchmarks/ladder.py

Three seeds, each its own split: 60 % to train on, 20 % to choose the best epoch by, 20 % that nothing of a rung has seen. Writes a row for each
rung to `data/results/ladder.csv`, or `ladder_LESSON.csv` for photographs of another lesson. All rungs are climbed, those that buy nothing included, so that the table can say so.
"""
import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

import machine
from photographs import photographs

from lookalikes.backbone import Backbone
from lookalikes.imageset import csv_text, write_atomic
from lookalikes.loaders import Augment
from lookalikes.train import STEPS, ladder

root = Path(__file__).resolve().parents[1]


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--photos', type=Path, default=os.environ.get('LOOKALIKES_PHOTOS') or root.parent/'shared'/'photos')
    ap.add_argument('--out', type=Path, default=root/'data'/'results', help='folder for the result')
    ap.add_argument('--lesson', default='guitars')
    ap.add_argument('--n', type=int, help='use so many pictures of each class rather than all')
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    ap.add_argument('--folds', type=int, help='judge every picture once for each seed, in so many parts, rather than a fifth of them')
    ap.add_argument('--epochs', type=int, default=5)
    ap.add_argument('--steps', nargs='+', default=list(STEPS))
    ap.add_argument('--size', type=int, help='height and width to begin with, pixels')
    args = ap.parse_args()
    logging.basicConfig(level=logging.WARNING, format='%(message)s')
    logging.getLogger('lookalikes.train').setLevel(logging.INFO)
    if not (args.photos/args.lesson).is_dir(): ap.error(f'{args.photos}: no folder {args.lesson} in it; give the folder of photographs as --photos or LOOKALIKES_PHOTOS')
    images = photographs(args.photos, args.lesson).verify().group_copies()
    if args.n: images = images.where((images.df.groupby('label').cumcount() < args.n).to_numpy())
    climbed = ladder(images, args.steps, args.folds, args.seeds, Backbone.named(size=args.size), augment=Augment(flip=args.lesson != 'guitars'), epochs=args.epochs, patience=None, progress=False)
    command = 'python benchmarks/ladder.py' + ''.join(f' --{k} {shlex.join(map(str, v if isinstance(v, list) else [v]))}' for k in ('lesson', 'n', 'seeds', 'folds', 'epochs', 'steps', 'size') if (v := getattr(args, k)) != ap.get_default(k))
    table = climbed.table.reset_index().assign(**machine.computer(), command=command)
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out/('ladder.csv' if args.lesson == ap.get_default('lesson') else f'ladder_{args.lesson}.csv'), csv_text(table).encode())
    print(climbed, file=sys.stderr)


if __name__ == '__main__': main()
