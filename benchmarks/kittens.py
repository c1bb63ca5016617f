"""Lesson 3 on photographs: does any step beat a plain probe on kittens and cats, by a paired test?

    python benchmarks/kittens.py

Every step is judged on the same pictures in the same five folds (copies stay together), and compared with the plain probe by McNemar's test.
Cleaning is done inside each training part: labels that confident learning flags among the training pictures are left out of it, and every
picture is judged by the label that it came with. Writes `data/results/kittens.csv`; `seconds` are those of a step in all five folds, features known.
"""
import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import machine
import numpy as np, pandas as pd, torch

from lookalikes.audit import audit
from lookalikes.backbone import embed
from lookalikes.clean import label_issues
from lookalikes.defects import spoil
from lookalikes.imageset import ImageSet, csv_text, write_atomic
from lookalikes.predictions import predict
from lookalikes.probe import fit_probe
from lookalikes.stats import ErrorRate, mcnemar

root = Path(__file__).resolve().parents[1]
VIEWS = 'mirrored', 'rotated', 'cropped'


def last_layer(train, features, exam, epochs, lr=4e-3, seed=0):
    "Train one layer with fastai, as the lesson does; its guesses for `exam`."
    from fastai.vision.all import CrossEntropyLossFlat, DataLoader, DataLoaders, Learner, set_seed
    classes = sorted(set(train.label))
    rows = list(zip(torch.from_numpy(features(train.file)), torch.tensor(np.searchsorted(classes, train.label.to_numpy(str)))))
    set_seed(seed, reproducible=True)
    n = len(rows[0][0])
    learn = Learner(DataLoaders(DataLoader(rows, bs=32, shuffle=True), DataLoader(rows[:32], bs=32)), torch.nn.Sequential(torch.nn.BatchNorm1d(n), torch.nn.Linear(n, len(classes))), CrossEntropyLossFlat())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    learn.model.eval()
    with torch.inference_mode(): return np.array(classes)[learn.model(torch.from_numpy(features(exam.file))).argmax(1).numpy()]


def with_views(images, folder):
    "The pictures and their changed copies as one set; a copy's `group` names its origin."
    rows = [dict(file=str(p), label=label, group=f, kind='') for p, f, label in zip(images.paths, images.df.file, images.df.label)]
    for kind in VIEWS:
        for i, (p, f, label) in enumerate(zip(images.paths, images.df.file, images.df.label)):
            (to := folder/f'{kind}_{i}.jpg').write_bytes(spoil(p.read_bytes(), kind, seed=[0, i])[0])
            rows.append(dict(file=str(to), label=label, group=f, kind=kind))
    return pd.DataFrame(rows)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--photos', type=Path, default=os.environ.get('LOOKALIKES_PHOTOS') or root.parent/'shared'/'photos')
    ap.add_argument('--out', type=Path, default=root/'data'/'results'/'kittens.csv')
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    args = ap.parse_args()
    images = audit(ImageSet.from_folder(args.photos/'kittens_or_cats')).images.ok
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        table = with_views(images, Path(folder))
        large = embed(images, 'efficientnet_lite2')
        copies = embed(ImageSet(table[table.kind != ''].assign(file=[Path(f).name for f in table.file[table.kind != '']])[['file', 'label']], folder))
        small = embed(images)
        view = dict(zip(copies.files, copies.X))
        def features(files): return np.stack([view[f] if f in view else small.X[small._where[f]] for f in files])
        for seed in args.seeds:
            fold, df, said, spent, mark = images.folds(5, seed), images.df, {}, Counter(), [0.]
            def guess(step, f, answers, fold=fold, said=said, spent=spent, mark=mark):     # the answers are made between two calls
                said.setdefault(step, np.full(len(fold), '', object))[fold == f] = answers
                spent[step] += time.perf_counter()-mark[0]
                mark[0] = time.perf_counter()
            for f in range(5):
                train, exam = images.where(fold != f).replace(split=''), images.where(fold == f)
                ask = lambda probe, feats, exam=exam: predict(probe, exam, features=feats).df.pred
                flagged = set((t := label_issues(train, small, seed=seed)).file[t.flagged])
                clean = train.where(~train.df.file.isin(flagged))
                more = pd.concat([clean.df[['file', 'label']], *(pd.DataFrame(dict(file=[f'{k}_{i}.jpg' for i in np.flatnonzero(df.file.isin(clean.df.file))], label=clean.df.label.to_numpy())) for k in VIEWS)])
                mark[0] = time.perf_counter()
                guess('probe', f, ask(fit_probe(train, features=small, seed=seed), small))
                guess('probe, flagged labels left out', f, ask(fit_probe(clean, features=small, seed=seed), small))
                for epochs in (5, 15, 60): guess(f'one layer, {epochs} epochs', f, last_layer(train.df, features, exam.df, epochs, seed=seed))
                guess('one layer, 15 epochs, flagged labels left out', f, last_layer(clean.df, features, exam.df, 15, seed=seed))
                guess('the same with three views of each picture', f, last_layer(more, features, exam.df, 15, seed=seed))
                guess('probe on the larger efficientnet_lite2', f, ask(fit_probe(train, 'efficientnet_lite2', features=large, seed=seed), large))
            base = said['probe'] != df.label.to_numpy()
            for step, answers in said.items():
                wrong = answers != df.label.to_numpy()
                e, p = ErrorRate.of(wrong), mcnemar(wrong, base)
                rows.append(dict(step=step, seed=seed, n=e.n, errors=e.errors, error_rate=round(e.rate, 4), low=round(e.interval[0], 4), high=round(e.interval[1], 4),
                                 only_step_wrong=int((wrong & ~base).sum()), only_probe_wrong=int((base & ~wrong).sum()), p_value=round(p.p, 4), seconds=round(spent[step], 2), **machine.computer(), command='python benchmarks/kittens.py'))
                print(*rows[-1].values(), flush=True)
            write_atomic(args.out, csv_text(pd.DataFrame(rows)).encode())


if __name__ == '__main__': main()
