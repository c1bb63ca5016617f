"""Does the audit find wrong labels and strangers? On real photographs and drawn twins with planted truth.

    python benchmarks/cleaning.py                    # rankings of labels, outliers
    python benchmarks/cleaning.py --fine-tune 3      # and the ranking of a network that was fine-tuned on those labels

Writes `data/results/labels.csv`: the average precision of each ranking for a tenth of the labels planted wrong. `unseen` is `label_issues`
(out-of-fold probe, cleanlab's self-confidence); `own loss` ranks by the loss of a probe on the pictures that it was fitted to; `fine-tuned` by
the loss of a fastai Learner on its own training pictures, as fastai's ImageClassifierCleaner does. And `data/results/outliers.csv`: strangers
planted among each set, photographs of fried chicken, ice cream and poodles where the set is real, drawings where it is drawn.
"""
import argparse
import os
import tempfile
from pathlib import Path

import pandas as pd
import torch
from photographs import SETS, photographs
from sklearn.metrics import average_precision_score

from lookalikes.backbone import DEFAULT, Backbone, embed
from lookalikes.clean import label_issues, outliers
from lookalikes.defects import plant, planted
from lookalikes.draw import draw
from lookalikes.imageset import ImageSet, csv_text, read_csv, write_atomic
from lookalikes.predictions import predict
from lookalikes.probe import fit_probe
from lookalikes.scoring import score

root = Path(__file__).resolve().parents[1]


def sets(photos):
    "Name and kind of each set, and a function that opens it."
    for name in SETS:
        if (photos/name).is_dir(): yield name, 'photographs', lambda name=name: photographs(photos, name)
        yield name, 'drawn', lambda name=name: draw(name, 60)


def note(out, **row):
    "Put a row into the table, in the place of an earlier one of its kind."
    row |= dict(command='python benchmarks/cleaning.py')
    old = read_csv(out) if out.exists() else pd.DataFrame(columns=list(row))
    new, same = pd.DataFrame([{k: str(v) for k, v in row.items()}]), [c for c in ('set', 'pictures', 'seed', 'ranking') if c in row]
    write_atomic(out, csv_text(pd.concat([old[(old[same] != new[same].iloc[0]).any(axis=1)], new])).encode())
    print(*row.values(), flush=True)


def fine_tuned(images, epochs, seed, size=160):
    "File and loss of every training picture, after fine-tuning on all of them."
    from fastai.vision.all import CategoryBlock, CrossEntropyLossFlat, DataBlock, ImageBlock, Learner, Normalize, Resize, aug_transforms, create_head, params, set_seed
    backbone, df = Backbone.named(DEFAULT), images.df

    class Half(torch.nn.Module):
        "In bfloat16, several times as fast on a processor that has it."
        def __init__(self):
            super().__init__()
            self.body = backbone.model().to(memory_format=torch.channels_last)

        def forward(self, x):
            with torch.autocast('cpu', torch.bfloat16): return self.body(x).float()

    set_seed(seed, reproducible=True)
    block = DataBlock((ImageBlock, CategoryBlock), get_x=lambda r: images.path/r.file, get_y=lambda r: r.label, splitter=lambda o: (list(range(len(o))), []),
                      item_tfms=Resize(int(size*1.15)), batch_tfms=[*aug_transforms(size=size, min_scale=.75), Normalize.from_stats(backbone.prep.mean, backbone.prep.std, cuda=False)])
    dls, body = block.dataloaders(df, bs=32, num_workers=0), Half()
    learn = Learner(dls, torch.nn.Sequential(body, create_head(body.body.num_features, len(images.classes), pool=False)), CrossEntropyLossFlat(), splitter=lambda m: [params(m[0]), params(m[1])])
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(epochs)
        *_, losses = learn.get_preds(dl=dls.test_dl(df, with_labels=True), with_loss=True)
    return pd.DataFrame(dict(file=df.file.to_numpy(), loss=losses.numpy()))


def labels(out, name, pictures, images, seed, epochs):
    "Average precision of the rankings, with a tenth of the labels wrong."
    with tempfile.TemporaryDirectory() as folder:
        bad = plant(images, Path(folder)/'set', dict(wrong_label=.1), seed=seed)
        wrong, features = set(planted(bad).file), embed(bad)
        found = label_issues(bad, features)
        tables = {'unseen': found, 'own loss': predict(fit_probe(bad, features=features), bad, features=features).df.rename(columns=dict(loss='score'))}
        if epochs: tables[f'fine-tuned, {epochs} epochs'] = fine_tuned(bad, epochs, seed).rename(columns=dict(loss='score'))
        for ranking, t in tables.items():
            flagged = found.flagged if ranking == 'unseen' else pd.Series(dtype=bool)
            note(out, set=name, pictures=pictures, seed=seed, ranking=ranking, n=len(bad), wrong=len(wrong), average_precision=round(average_precision_score(t.file.isin(wrong), t.score), 4),
                 flagged=int(flagged.sum()), flagged_and_wrong=int(found.file[found.flagged].isin(wrong).sum()) if len(flagged) else '')


def strangers(out, name, pictures, images, seed, extras):
    "Recall and precision of `outliers` for one stranger in fifty."
    with tempfile.TemporaryDirectory() as folder:
        bad = plant(images, Path(folder)/'set', dict(off_topic=.02), seed=seed, off_topic=extras)
        found = outliers(bad)
        t = score(bad, dict(off_topic=list(found.file[found.flagged]))).iloc[0]
        note(out, set=name, pictures=pictures, seed=seed, n=len(bad), planted=t.planted, found=t.found, recall=round(t.recall, 4), flagged=t.flagged, precision=round(t.precision, 4),
             average_precision=round(average_precision_score(found.file.isin(set(planted(bad).file)), found.score), 4))


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--photos', type=Path, default=os.environ.get('LOOKALIKES_PHOTOS') or root.parent/'shared'/'photos')
    ap.add_argument('--out', type=Path, default=root/'data'/'results')
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    ap.add_argument('--sets', nargs='+', default=list(SETS))
    ap.add_argument('--fine-tune', type=int, default=0, metavar='EPOCHS', help="also fine-tune a network, for the first seed and the photographs of pet_breeds and guitars")
    args = ap.parse_args()
    extras = ImageSet.from_folder(args.photos/'lookalike_extras') if (args.photos/'lookalike_extras').is_dir() else None
    for name, pictures, open_set in sets(args.photos):
        if name not in args.sets: continue
        images, real = open_set(), pictures == 'photographs'
        for seed in args.seeds:
            labels(args.out/'labels.csv', name, pictures, images, seed, args.fine_tune if real and seed == args.seeds[0] and name in ('pet_breeds', 'guitars') else 0)
            strangers(args.out/'outliers.csv', name, pictures, images, seed, extras if real else None)


if __name__ == '__main__': main()
