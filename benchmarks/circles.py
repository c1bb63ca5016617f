"""Pictures of circles: `lookalikes.circles` against matplotlib, one figure a picture, as the counting lesson's source drew them.

Same sizes in pixels, same numbers of circles, same radius; both write PNG files into a folder, and ours is timed into memory as well, where
training wants them. Promised: at least 50 times as fast. The peer throws its circles again until they do not touch, as ours do, and closes
each figure. One core each.
"""
import tempfile
from pathlib import Path

import machine
import matplotlib
import numpy as np

from lookalikes.circles import circles, draw_circles

PROMISED = 50
matplotlib.use('agg')


def figure(file, count, radius, rng, size):
    "One picture as a chart."
    import matplotlib.pyplot as plt
    fig = plt.figure(figsize=(1, 1), dpi=size)
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
    ax.axis('off')
    centres = []
    while len(centres) < count:
        c = rng.uniform(radius, 1-radius, 2)
        if all(np.hypot(*(c-o)) > 2*radius+.015 for o in centres): centres.append(c)
    for c in centres: ax.add_patch(plt.Circle(c, radius, color='#1f5fbf', lw=0))
    fig.savefig(file)
    plt.close(fig)


def as_the_source(n, counts, size):
    "`n` figures into files."
    radius, rng = float(draw_circles(1, counts, size).radii[0, 0])/size, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n): figure(f'{folder}/{i}.png', counts[0] + i % (counts[1]-counts[0]+1), radius, rng, size)


def to_files(n, counts, size):
    "`n` pictures as an ImageSet."
    with tempfile.TemporaryDirectory() as folder: circles(n//(counts[1]-counts[0]+1), counts, size, path=Path(folder)/'set')


def compare(counts, size, args):
    "One kind of picture: a row for the table and the details behind it."
    jobs = dict(ours=lambda: draw_circles(args.pictures, counts, size), files=lambda: to_files(args.pictures//2, counts, size), peer=lambda: as_the_source(args.figures, counts, size))
    for job in jobs.values(): machine.timed(job)
    seconds, _ = machine.interleave(args.repeats, **jobs)
    ours, files, peer = (machine.spread([s/n for s in seconds[k]]) for k, n in (('ours', args.pictures), ('files', args.pictures//2), ('peer', args.figures)))
    row = dict(counts='{}-{}'.format(*counts), size=size, ours_per_s=round(1/ours['median']), files_per_s=round(1/files['median']), peer_per_s=round(1/peer['median'], 1),
               ratio=round(peer['median']/ours['median'], 1), ratio_low=round(peer['low']/ours['high'], 1), ratio_high=round(peer['high']/ours['low'], 1),
               ratio_files=round(peer['median']/files['median'], 1), promised=PROMISED)
    return row, dict(row, seconds=dict(ours=ours, files=files, peer=peer))


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], repeats=dict(type=int, default=5, help='rounds after the warm-up'),
        pictures=dict(type=int, default=3000, help='of ours in a round'), figures=dict(type=int, default=60, help='of the peer in a round'),
        sizes=dict(type=int, nargs='+', default=[64, 96, 224], help='heights and widths, pixels'))
    facts = machine.facts('matplotlib')
    rows, details = zip(*[compare(counts, size, args) for size in args.sizes for counts in ((1, 5), (45, 50))])
    machine.write(args.out, 'circles', command, facts, rows, dict(peer='matplotlib: a figure, patches, savefig as PNG, close', results=details))
    for r in rows: print(f"{r['counts']} circles, {r['size']} px: ours {r['ours_per_s']:,}/s ({r['files_per_s']:,}/s as files), matplotlib {r['peer_per_s']}/s, ratio {r['ratio']} (promised {PROMISED}), as files {r['ratio_files']}")


if __name__ == '__main__': main()
