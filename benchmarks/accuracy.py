"""How good is the probe on real photographs? Runs `lookalikes train --fit probe --folds 5 --json` on each set, and writes a row for each.

    python benchmarks/accuracy.py --photos ../shared/photos

One cross-validation is one draw of the folds, so the same is repeated with other seeds: `mean_error` is over all of them. `seconds` are those of the
command as its user waits for them: with an empty cache, but for the exported network.

And what do unlooked-at search results do to such a number? `search_noise.csv` has the probe judged on them twice, always by the search's
own labels: trained on other search results, and trained on clean photographs.
"""
import argparse, json, os, subprocess, sys, tempfile
from pathlib import Path

import machine
import pandas as pd
from photographs import BREED, SETS, photographs

from lookalikes.backbone import Backbone, embed
from lookalikes.probe import cross_validate

root = Path(__file__).resolve().parents[1]


def lookalikes(*args):
    "What a command of the command line answers."
    run = subprocess.run([sys.executable, '-c', 'from lookalikes.cli import main; main()', *map(str, args), '-q', '--json'], capture_output=True, text=True)
    if run.returncode: sys.exit(f'{" ".join(map(str, args))}: {run.stderr}')
    return json.loads(run.stdout)


def measure(name, photos, backbone, seeds):
    "A row of results."
    options = ['--fit', 'probe', '--folds', '5'] + ['--label-re', BREED]*(name == 'pet_breeds') + ['--backbone', backbone]*(backbone != 'efficientnet_lite0')
    Backbone.named(backbone).graph()
    with machine.empty_cache(graphs=True), tempfile.TemporaryDirectory() as tmp:
        seconds, found = machine.timed(lambda: lookalikes('train', photos/name, '--out', f'{tmp}/model', *options))
        images = photographs(photos, name)
        features = embed(images, backbone)
    images = images.with_facts(features.facts).group_copies()
    rates = [cross_validate(images, 5, features=features, seed=s).errors.rate for s in seeds]
    e = found['folds']
    quoted = [f"'{o}'" if o == BREED else o for o in options]
    return dict(lesson=name, n=e['n'], classes=len(found['classes']), backbone=backbone, errors=e['errors'], error_rate=e['error_rate'], low=e['interval'][0],
                high=e['interval'][1], mean_error=round(sum(rates)/len(rates), 6), seeds=len(seeds), seconds=round(seconds, 1), **machine.computer(), command=' '.join(['lookalikes', 'train', name, '--out', 'MODEL', *quoted, '--json']))


def search_noise(photos):
    "Rows for raw search results, judged by what was searched for."
    clean, raw = photos/'chihuahua_or_muffin', photos/'search_noise'
    with tempfile.TemporaryDirectory() as tmp:
        lookalikes('train', clean, '--out', f'{tmp}/clean')
        found = {('search results', 'five folds', 'lookalikes train search_noise --out MODEL --folds 5 --json'): lookalikes('train', raw, '--out', f'{tmp}/raw', '--folds', 5)['folds'],
                 ('clean photographs', 'all', 'lookalikes train chihuahua_or_muffin --out MODEL; lookalikes evaluate MODEL search_noise --json'): lookalikes('evaluate', f'{tmp}/clean', raw)}
    rows = []
    for (trained, on, command), e in found.items():
        parts = {'all': e} | e.get('per_class', {})
        rows += [dict(trained_on=trained, judged_on=on, label=k, n=o['n'], disagrees=o['errors'], rate=o['error_rate'], low=o['interval'][0], high=o['interval'][1], command=command)
                 for k, o in parts.items()]
    return pd.DataFrame(rows)


if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--photos', type=Path, default=Path(os.environ.get('LOOKALIKES_PHOTOS') or root.parent/'shared/photos'))
    ap.add_argument('--out', type=Path, default=root/'data/results/probe.csv')
    ap.add_argument('--backbones', nargs='+', default=['efficientnet_lite0', 'efficientnet_lite2'])
    ap.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    args = ap.parse_args()
    if not args.photos.is_dir(): sys.exit(f'{args.photos}: no such folder; give the photographs with --photos')
    rows = [measure(n, args.photos, b, args.seeds) for b in args.backbones for n in SETS if (args.photos/n).is_dir()]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(args.out, index=False)
    print(pd.DataFrame(rows).drop(columns=['command', 'processor', 'cores']).to_string(index=False))
    if (args.photos/'search_noise').is_dir():
        noise = search_noise(args.photos)
        noise.to_csv(args.out.with_name('search_noise.csv'), index=False)
        print(noise.drop(columns='command').to_string(index=False))
