"""Fine-tuning from the probe beside fastai's `fine_tune`: errors and seconds on the same photographs, weights, split and cores.

    python benchmarks/finetune.py --sets kittens_or_cats paintings --epochs 2

For each of --sets and each of --seeds, which draw the split (60 % to train on, 20 % to validate, 20 % to test): fastai's `fine_tune(epochs)`, which
adds a frozen epoch, and ours, `image_learner` (which embeds the pictures, fits the probe and decodes) and `finetune(epochs)` with its defaults, each
from the files to the last epoch's end. Both are judged on the test pictures, which neither has seen nor chosen by. Promised: no more errors, in a
third of the time or less. With --alone there is no fastai, only the paired test against the probe. Each row is kept as soon as it is measured; run
again, it goes on with those that are missing, or with --again measures all of them, and the later row of a kind counts. The summary, a row for each
set, goes to `data/results/finetune.csv`.
"""
import shutil, time
from pathlib import Path

import pandas as pd

import machine  # before torch: it hides accelerators from both sides
from fastai.torch_core import set_seed
from fastai_peer import peer_learner, quietly
from photographs import SETS, photographs

from lookalikes.backbone import Backbone, cache_dir
from lookalikes.imageset import csv_text, write_atomic
from lookalikes.loaders import Augment
from lookalikes.predictions import predict
from lookalikes.probe import fit_probe
from lookalikes.stats import ErrorRate, mcnemar
from lookalikes.train import finetune, image_learner

HANDED = {'guitars'}     # sets in which a mirrored picture shows something else


def ours(images, epochs, flip, seed):
    "Seconds from the files on, what is wrong on the test pictures, and what the probe alone has wrong."
    for folder in 'features', 'pixels': shutil.rmtree(cache_dir()/folder, ignore_errors=True)
    start = time.perf_counter()
    learn = image_learner(images, seed=seed, augment=Augment(flip=flip), progress=False)
    quietly(learn, lambda o: finetune(o, epochs))
    seconds, exam = time.perf_counter()-start, images.where(images.df.split == 'test')
    return seconds, predict(learn, exam).wrong, predict(fit_probe(images, seed=seed), exam).wrong


def theirs(images, epochs, size, seed):
    "The same by `fine_tune`."
    start = time.perf_counter()
    set_seed(seed)
    learn = quietly(peer_learner(images, size, 64), lambda o: o.fine_tune(epochs))
    seconds, exam = time.perf_counter()-start, images.where(images.df.split == 'test')
    dl = learn.dls.test_dl(exam.df[['file', 'label']], with_labels=True)
    with learn.no_bar(): probs, y = learn.get_preds(dl=dl)
    return seconds, (probs.argmax(1) != y).numpy()


def measure(images, name, seed, args):
    "The row of a set and seed."
    part = images.split(valid=.2, test=.2, seed=seed)
    mine, wrong, probe = ours(part, args.epochs, name not in HANDED, seed)
    peer, peer_wrong = (float('nan'), None) if args.alone else theirs(part, args.epochs, args.peer_size, seed)
    against = mcnemar(wrong, probe)
    return dict(lesson=name, pictures=len(part), seed=seed, train=int((part.df.split == 'train').sum()), n=len(wrong), epochs=args.epochs, probe_errors=int(probe.sum()), errors=int(wrong.sum()), fastai_errors='' if args.alone else int(peer_wrong.sum()),
                seconds=round(mine, 1), fastai_seconds='' if args.alone else round(peer, 1), times_faster='' if args.alone else round(peer/mine, 2), only_ours_wrong=against.a_only, only_probe_wrong=against.b_only, p_against_probe=round(against.p, 4))


def measured(out):
    "The rows so far."
    table, kind = Path(out)/'finetune.csv', ['lesson', 'pictures', 'seed', 'epochs']
    return pd.read_csv(table).drop_duplicates(kind, keep='last') if table.exists() else pd.DataFrame(columns=kind)


def summary(rows):
    "A row for each set: errors of all seeds together, with intervals, and the median of the ratios."
    def one(g):
        mine, both = ErrorRate(int(g.errors.sum()), int(g.n.sum())), g.dropna(subset='fastai_errors')
        peer = ErrorRate(int(both.fastai_errors.sum()), int(both.n.sum())) if len(both) else None
        theirs = dict(fastai_error=f'{peer.rate:.1%}', fastai_interval='{:.1%} to {:.1%}'.format(*peer.interval), fastai_seconds=both.fastai_seconds.median(), times_faster=round(both.times_faster.median(), 1)) if peer else {}
        return dict(seeds=len(g), train=int(g.train.iloc[0]), n=mine.n, probe_error=f'{g.probe_errors.sum()/mine.n:.1%}', error=f'{mine.rate:.1%}', interval='{:.1%} to {:.1%}'.format(*mine.interval), only_ours_wrong=int(g.only_ours_wrong.sum()),
                    only_probe_wrong=int(g.only_probe_wrong.sum()), p_of_each_seed=' '.join(f'{o:.2g}' for o in g.p_against_probe), seconds=g.seconds.median(), **theirs)
    return pd.DataFrame([dict(lesson=k[0], pictures=k[1], epochs=k[2], **one(g)) for k, g in rows.groupby(['lesson', 'pictures', 'epochs'], sort=False)])


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], sets=dict(nargs='+', default=list(SETS), help='folders of photographs'),
        seeds=dict(type=int, nargs='+', default=[0, 1, 2], help='for split, order and augmentation'), epochs=dict(type=int, default=2, help='of fine_tune and of finetune'),
        peer_size=dict(type=int, default=224, help="height and width of the peer's crops, pixels"), table=dict(type=Path, default=machine.ROOT/'data'/'results', help='folder for the summary'),
        alone=dict(action='store_true', help='without fastai: only against the probe'),
        again=dict(action='store_true', help='measure what was measured before, too'))
    facts = machine.facts()
    with machine.empty_cache(graphs=True):
        Backbone.named().graph()     # exported once in a cache's life
        for seed in args.seeds:
            for name in args.sets:
                images, rows = photographs(args.photos.parent, name, args.n).verify().group_copies(), measured(args.out)
                if not args.again and ((rows.lesson == name) & (rows.pictures == len(images)) & (rows.seed == seed) & (rows.epochs == args.epochs)).any(): continue
                row = measure(images, name, seed, args)
                machine.say(row)
                machine.write(args.out, 'finetune', command, facts, [row], {})
    args.table.mkdir(parents=True, exist_ok=True)
    write_atomic(args.table/'finetune.csv', csv_text(summary(measured(args.out)).assign(command=command)).encode())


if __name__ == '__main__': main()
