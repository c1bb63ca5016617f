"""Every view of a table of predictions, timed: 20,000 pictures of 100 classes.

    python benchmarks/views.py --n 20000 --classes 100

The predictions are synthetic: families of classes in a space of features, pictures scattered around their class, logits from a linear layer, about one
picture in ten called wrongly, and a second model with other noise. The files behind them are real, small and all alike in their contents but for fifty
kinds, so that thumbnails and measures open what they would open. Each view is run once to warm up, then `--repeats` times. Promised: each within seconds
(20 for the map, which is the dearest), its page small enough for a browser. `measured` is no view: it opens all
the pictures, and is listed because `error_by` needs it once for brightness and the like. Seconds of processor time, helper processes included, stand
beside those of the clock: others at work on the machine disturb them less.
"""
import io
import os
import statistics
import tempfile
from pathlib import Path

import machine
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from lookalikes.imageset import ImageSet
from lookalikes.interpret import measured
from lookalikes.predictions import Predictions

SECONDS, DIM = 20, 1280
matplotlib.use('agg')


def predictions(n, k, folder, seed=0):
    "Two models' predictions of the same `n` pictures of `k` classes, with features, every other picture for training."
    rng = np.random.default_rng(seed)
    family = rng.standard_normal((max(2, k//4), DIM), dtype=np.float32)
    centre = family[rng.integers(0, len(family), k)] + .45*rng.standard_normal((k, DIM), dtype=np.float32)
    names, truth = [f'species {i:03}' for i in range(k)], rng.integers(0, k, n)
    files, labels = [f'{i % 100:02}/{i:06}.jpg' for i in range(n)], [names[i] for i in truth]
    X, made = centre[truth] + 5.2*rng.standard_normal((n, DIM), dtype=np.float32), []
    for noise in (0, 6):
        z = (X @ centre.T - (centre**2).sum(1)/2)/40 + noise*rng.standard_normal((n, k), dtype=np.float32)
        p = np.exp(z - z.max(1, keepdims=True))
        made.append(Predictions.of(files, labels, p/p.sum(1, keepdims=True), names, np.array(['train', 'valid'])[np.arange(n) % 2], folder, z, np.maximum(X, 0)))
    return made


def pictures(preds, folder):
    "A small file for each picture; an ImageSet whose manifest knows nothing of their size."
    rng, kinds = np.random.default_rng(0), []
    for _ in range(50):
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((160, 120), Image.Resampling.BICUBIC).save(out := io.BytesIO(), 'JPEG', quality=85)
        kinds.append(out.getvalue())
    for i in range(100): (folder/f'{i:02}').mkdir()
    for i, f in enumerate(preds.df.file): (folder/f).write_bytes(kinds[i % 50])
    return ImageSet(preds.df[['file', 'label', 'split']].assign(source=np.array(['a', 'b', 'c'])[np.arange(len(preds)) % 3]), folder)


def drawn(ax):
    "A chart as a notebook would show it; its size in bytes."
    ax.figure.savefig(out := io.BytesIO(), format='png', dpi=100)
    plt.close(ax.figure)
    return len(out.getvalue())


def views(preds, other, images):
    "Name -> view."
    exam, light, layout = preds.where(split='valid'), measured(images), preds.map()
    return dict(confusion_matrix=lambda: drawn(preds.plot_confusion_matrix()), most_confused=lambda: preds.most_confused(5), confused_pairs=lambda: preds.confused_pairs(), per_class=lambda: preds.per_class(),
                most_confident=lambda: preds.most_confident(5, per_class=True), least_confident=lambda: preds.least_confident(5, per_class=True), confidently_wrong=lambda: preds.confidently_wrong(5, per_class=True),
                sheet=lambda: preds.sheet(preds.confidently_wrong(30)), error_by_label=lambda: drawn(preds.error_by('label').plot()), error_by_source=lambda: preds.error_by('source', images),
                error_by_confidence=lambda: preds.error_by('confidence'), error_by_brightness=lambda: preds.error_by('brightness', light), neighbours=lambda: preds.neighbours(exam.confidently_wrong(1).file[0]),
                versus=lambda: preds.versus(other), versus_sheet=lambda: preds.versus(other).sheet(), map=preds.map, map_page=lambda: len(layout.html()), map_chart=lambda: drawn(layout.plot()), measured=lambda: measured(images))


def used():
    "Seconds of processor time so far, of this process and of those that it started and that have ended."
    return sum(os.times()[:4])


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], repeats=dict(type=int, default=3, help='rounds after the warm-up'), classes=dict(type=int, default=100))
    n, facts = args.n or 20_000, machine.facts('scipy', 'matplotlib')
    with tempfile.TemporaryDirectory() as folder:
        preds, other = predictions(n, args.classes, Path(folder))
        jobs = views(preds, other, pictures(preds, Path(folder)))
        cpu = {k: [] for k in jobs}
        def noted(name):
            before, found = used(), jobs[name]()
            cpu[name].append(used()-before)
            return found
        for job in jobs.values(): job()
        seconds, results = machine.interleave(args.repeats, **{k: lambda k=k: noted(k) for k in jobs})
    each = {k: machine.spread(v) for k, v in seconds.items()}
    page = results['map_page']
    rows = [dict(view=k, pictures=n, classes=args.classes, **machine.flat('s', v), cpu_s=round(statistics.median(cpu[k]), 3), promised='' if k == 'measured' else SECONDS, page_mb=round(page/1e6, 2) if k == 'map_page' else '') for k, v in each.items()]
    total, total_cpu = (sum(o[k] for k in jobs if k != 'measured') for o in ({k: v['median'] for k, v in each.items()}, {k: statistics.median(v) for k, v in cpu.items()}))
    machine.write(args.out, 'views', command, facts, rows, dict(errors=preds.errors.to_dict(), other_errors=other.errors.to_dict(), total_s=total, total_cpu_s=total_cpu, page_bytes=page, seconds=each, cpu_seconds=cpu))
    print(f"{n:,} pictures, {args.classes} classes, {preds.errors}: all views {total:.1f} s ({total_cpu:.1f} s of processor time), the slowest {max(each, key=lambda k: each[k]['median'])} {max(v['median'] for v in each.values()):.1f} s; the map's page {page/1e6:.1f} MB")


if __name__ == '__main__': main()
