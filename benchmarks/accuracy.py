"""How good is the probe on real photographs? Runs `lookalikes train --fit probe --folds 5 --json` on each set, and writes a row for each.

    python benchmarks/accuracy.py --photos ../shared/photos

One cross-validation is one draw of the folds, so the same is repeated with other seeds: `mean_error` is over all of them.
"""
import argparse, json, os, subprocess, sys, tempfile
from pathlib import Path

import pandas as pd

from lookalikes.backbone import embed
from lookalikes.imageset import ImageSet
from lookalikes.probe import cross_validate

SETS = dict(chihuahua_or_muffin=None, paintings=None, kittens_or_cats=None, pet_breeds=r'^(.+)_\d+\.jpg$', guitars=None)
root = Path(__file__).resolve().parents[1]


def measure(name, label_re, photos, backbone, seeds):
    "A row of results."
    options = ['--fit', 'probe', '--folds', '5', '--json'] + ['--label-re', label_re]*bool(label_re) + ['--backbone', backbone]*(backbone != 'efficientnet_lite0')
    with tempfile.TemporaryDirectory() as tmp:
        run = subprocess.run([sys.executable, '-c', 'from lookalikes.cli import main; main()', 'train', photos/name, '--out', f'{tmp}/model', '-q', *options],
                             capture_output=True, text=True)
    if run.returncode: sys.exit(f'{name}: {run.stderr}')
    found = json.loads(run.stdout)
    images = ImageSet.from_names(photos/name, label_re) if label_re else ImageSet.from_folder(photos/name)
    features = embed(images, backbone)
    images = images.with_facts(features.facts).group_copies()
    rates = [cross_validate(images, 5, features=features, seed=s).errors.rate for s in seeds]
    e = found['folds']
    quoted = [f"'{o}'" if o == label_re else o for o in options]
    return dict(lesson=name, n=e['n'], classes=len(found['classes']), backbone=backbone, errors=e['errors'], error_rate=e['error_rate'], low=e['interval'][0],
                high=e['interval'][1], mean_error=round(sum(rates)/len(rates), 6), seeds=len(seeds), command=' '.join(['lookalikes', 'train', name, '--out', 'MODEL', *quoted]))


if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--photos', type=Path, default=Path(os.environ.get('LOOKALIKES_PHOTOS') or root.parent/'shared/photos'))
    ap.add_argument('--out', type=Path, default=root/'data/results/probe.csv')
    ap.add_argument('--backbones', nargs='+', default=['efficientnet_lite0', 'efficientnet_lite2'])
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    args = ap.parse_args()
    if not args.photos.is_dir(): sys.exit(f'{args.photos}: no such folder; give the photographs with --photos')
    rows = [measure(n, r, args.photos, b, args.seeds) for b in args.backbones for n, r in SETS.items() if (args.photos/n).is_dir()]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(args.out, index=False)
    print(pd.DataFrame(rows).drop(columns='command').to_string(index=False))
