"""Pictures of circles: `lookalikes.circles` against matplotlib, one figure a picture, as the counting lesson's source drew them.

Same sizes in pixels, same numbers of circles, same radius. The peer makes a chart for every picture, `plt.subplots()` with the axes switched
off, and saves it as PNG; it is timed a second time with bare axes and no ticks, the leanest figure that matplotlib draws. Ours is timed into
memory, where training wants the pictures, and into PNG files with manifest and truth. Promised: at least 50 times as fast as the source's way.
The peer throws its circles again until they do not touch, as ours do, and closes each figure. One core each, but files are written by two.
"""
import tempfile
from pathlib import Path

import machine
import matplotlib
import numpy as np

from lookalikes.circles import draw_circles
from lookalikes.draw import circles

PROMISED = 50
matplotlib.use('agg')


def figure(file, count, radius, rng, size, lean):
    "One picture as a chart."
    import matplotlib.pyplot as plt
    if lean:
        fig = plt.figure(figsize=(1, 1), dpi=size)
        ax = fig.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
    else:
        fig, ax = plt.subplots(figsize=(size/100, size/100), dpi=100)
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect='equal')
        fig.subplots_adjust(0, 0, 1, 1)
    ax.axis('off')
    centres = []
    while len(centres) < count:
        c = rng.uniform(radius, 1-radius, 2)
        if all(np.hypot(*(c-o)) > 2*radius+.015 for o in centres): centres.append(c)
    for c in centres: ax.add_patch(plt.Circle(c, radius, color='#1f5fbf', lw=0))
    fig.savefig(file)
    plt.close(fig)


def figures(n, counts, size, lean):
    "`n` figures into files."
    radius, rng = float(draw_circles(1, counts, size).radii[0, 0])/size, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n): figure(f'{folder}/{i}.png', counts[0] + i % (counts[1]-counts[0]+1), radius, rng, size, lean)


def to_files(n, counts, size):
    "`n` pictures as an ImageSet."
    with tempfile.TemporaryDirectory() as folder: circles(n//(counts[1]-counts[0]+1), counts, size, path=Path(folder)/'set')


def compare(counts, size, args):
    "One kind of picture: a row for the table and the details behind it."
    n = args.pictures*64//size
    jobs = dict(ours=lambda: draw_circles(n, counts, size), files=lambda: to_files(n//2, counts, size), peer=lambda: figures(args.figures, counts, size, False),
                lean=lambda: figures(args.figures, counts, size, True))
    for job in jobs.values(): machine.timed(job)
    seconds, _ = machine.interleave(args.repeats, **jobs)
    each = {k: machine.spread([s/m for s in seconds[k]]) for k, m in (('ours', n), ('files', n//2), ('peer', args.figures), ('lean', args.figures))}
    ours, peer = each['ours'], each['peer']
    times = lambda a, b: round(each[a]['median']/each[b]['median'], 1)
    row = dict(counts='{}-{}'.format(*counts), size=size, **{f'{k}_per_s': round(1/each[k]['median'], 1) for k in jobs}, ratio=times('peer', 'ours'),
               ratio_low=round(peer['low']/ours['high'], 1), ratio_high=round(peer['high']/ours['low'], 1), ratio_lean=times('lean', 'ours'), ratio_files=times('peer', 'files'), promised=PROMISED)
    return row, dict(row, seconds=each)


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], repeats=dict(type=int, default=5, help='rounds after the warm-up'),
        pictures=dict(type=int, default=3000, help='of ours in a round'), figures=dict(type=int, default=60, help='of the peer in a round'),
        sizes=dict(type=int, nargs='+', default=[64, 96, 224], help='heights and widths, pixels'))
    facts = machine.facts('matplotlib')
    rows, details = zip(*[compare(counts, size, args) for size in args.sizes for counts in ((1, 5), (45, 50))])
    machine.write(args.out, 'circles', command, facts, rows, dict(peer='matplotlib: plt.subplots, axes off, patches, savefig as PNG, close; lean: bare axes instead', results=details))
    for r in rows: print(f"{r['counts']} circles, {r['size']} px: ours {r['ours_per_s']:,}/s ({r['files_per_s']:,}/s as files), matplotlib {r['peer_per_s']}/s (lean {r['lean_per_s']}/s), "
                         f"ratio {r['ratio']} (promised {PROMISED}), to the lean figure {r['ratio_lean']}, as files {r['ratio_files']}")


if __name__ == '__main__': main()
