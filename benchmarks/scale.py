"""Work in shards: how it grows, what Ray costs, and how many copies the short way misses.

    python benchmarks/scale.py                       # all three
    python benchmarks/scale.py --only growth --sizes 1000 10000 100000
    python benchmarks/scale.py --only ray --repeats 5
    python benchmarks/scale.py --only recall

growth: generated pictures (soft patches of colour, 96 px, JPEG, every hundredth saved once more), embedded, measured, searched for copies and audited,
each step in a process of its own: seconds, and the most memory that the process held. The backbone sees them at 128 px, so that a hundred thousand
take minutes; the curve is what is asked for. Promised: time grows with the pictures (n log n for copies), memory stays under 4 GB.

ray: `scale.embed` with two local workers and with two workers of Ray, in turn, on the same pictures at the backbone's own size; the seconds that Ray takes
to start are noted apart. Then 20,000 pictures with both, a worker of Ray killed in the middle, and the tables compared. Promised: at least .8 of the local
engine's pictures a second and core, and equal tables. And the seconds that handing out a shard takes, from shards that do nothing.

recall: photographs of every lesson, a quarter of them once more (re-encoded, resized, mirrored, cropped). The true copies are those that a closer look finds among
*all* pairs whose hashes differ in 16 bits at most or whose embeddings have a cosine of .5; beside them, what buckets find, what the graph of embeddings finds, and both.
"""
import gc
import multiprocessing
import operator
import os
import resource
import signal
import tempfile
import threading
import time
from pathlib import Path

import machine
import numpy as np
import psutil
from audit import SETS, patches

from lookalikes import scale
from lookalikes.audit import audit
from lookalikes.backbone import Backbone, embed
from lookalikes.copies import MAX_BITS, MIN_COSINE, compressed, neighbours, verify
from lookalikes.defects import spoil
from lookalikes.engines import Local, Ray
from lookalikes.imageset import ImageSet
from lookalikes.measures import Measures, look

SPOILT = 'reencoded', 'resized', 'mirrored', 'cropped'


def step(name, folder, pipe):
    "One step on the set in `folder`, in this process."
    small = Backbone.named(size=128)
    gc.collect()
    if name == 'embed': f = lambda: scale.embed(folder/'set', folder/'embedded', small)
    if name == 'measure': f = lambda: scale.measure(folder/'set', folder/'measured', small)
    if name == 'copies': f = lambda: scale.copies(scale.Shards(folder/'measured'))
    if name == 'audit': f = lambda: audit(scale.Shards(folder/'measured'))
    seconds, found = machine.timed(f)
    most = [resource.getrusage(o).ru_maxrss/2**20 for o in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    pipe.send((len(found), seconds, *most))


def growth(sizes):
    "A row for each size and step."
    rows = []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            patches(n, Path(folder)/'set')
            for name in 'embed', 'measure', 'copies', 'audit':
                a, b = multiprocessing.get_context('spawn').Pipe()
                p = multiprocessing.get_context('spawn').Process(target=step, args=(name, Path(folder), b))
                p.start()
                b.close()
                found, seconds, most, helper = a.recv()
                p.join()
                rows.append(dict(n=n, step=name, seconds=round(seconds, 2), per_s=round(n/seconds, 1), gib_most=round(most, 2), gib_helper=round(helper, 2), found=found))
                machine.say(rows[-1])
    return rows


def kill_a_worker(done):
    "Wait for `done(n)` shards, then end one worker of Ray without a warning. Returns a function that says whether that happened."
    seen = []
    def watch():
        while not seen:
            time.sleep(.2)
            if not done(): continue
            for p in psutil.process_iter(['cmdline']):
                if 'ray::' in ' '.join(p.info['cmdline'] or []) and '_Caller' in ' '.join(p.info['cmdline']):
                    p.send_signal(signal.SIGKILL)
                    seen.append(p.pid)
                    return
    threading.Thread(target=watch, daemon=True).start()
    return lambda: bool(seen)


def ray(n, repeats, whole):
    "Both engines in turn, then once with a worker that is killed."
    local, many = Local(2), Ray(workers=2)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        patches(whole, folder/'set')
        (folder/'some').mkdir()
        for p in sorted((folder/'set').rglob('*.jpg'))[:n]:
            (folder/'some'/p.parent.name).mkdir(exist_ok=True)
            os.link(p, folder/'some'/p.parent.name/p.name)
        starting, connected = machine.timed(many.start)
        once = [0]
        def run(engine):
            once[0] += 1
            return scale.embed(folder/'some', folder/f'out{once[0]}', engine=engine)
        for e in local, many: run(e)      # what is loaded from disk once
        # Ray goes on between the runs: it has been started once more than they stop it
        seconds, made = machine.interleave(repeats, local=lambda: run(local), ray=lambda: run(many))
        assert made['local'].table().equals(made['ray'].table())
        few = [(i, 1) for i in range(400)]
        empty, full = (machine.timed(lambda o=o: list(many(operator.add, o)))[0] for o in (few[:40], few))
        local_s, first = machine.timed(lambda: scale.embed(folder/'set', folder/'local', engine=local))
        half = lambda: len(list((folder/'ray'/'parts').glob('part-*.parquet'))) > whole//scale.SHARD//2
        killed = kill_a_worker(half)
        ray_s, second = machine.timed(lambda: scale.embed(folder/'set', folder/'ray', engine=many))
        equal = first.table().equals(second.table())
        many.stop()
    each = {k: machine.spread(v) for k, v in seconds.items()}
    rows = [dict(n=n, local_per_s_core=round(n/each['local']['median']/2, 1), ray_per_s_core=round(n/each['ray']['median']/2, 1), **machine.times(seconds['local'], seconds['ray']), promised=.8,
                 starting_s=round(starting, 1), handing_ms=round(1000*(full-empty)/360, 2), whole=whole, whole_local_s=round(local_s, 1), whole_ray_s=round(ray_s, 1), worker_killed=killed(), tables_equal=equal)]
    return rows, dict(seconds=each)


def collect(photos, to, n):
    "`n` photographs and a copy of every third."
    files = sorted(p for s in SETS for p in (photos/s).rglob('*.jpg'))
    np.random.default_rng(0).shuffle(files)
    to.mkdir(parents=True)
    for i, f in enumerate(files[:n]):
        data = f.read_bytes()
        (to/f'{i:05}.jpg').write_bytes(data)
        if i % 3 == 0: (to/f'{i:05}_copy.jpg').write_bytes(spoil(data, SPOILT[i//3 % 4], seed=i)[0])


def recall(photos, n):
    "A row for each way to come by candidates."
    with tempfile.TemporaryDirectory() as folder:
        collect(photos, Path(folder)/'set'/'a', n)
        features = embed(ImageSet.from_folder(Path(folder)/'set'), look=look, cache=False)
    m = Measures.from_looks(features.facts, features.looks)
    k, v = len(m), compressed(features.X)
    bits = np.unpackbits(m.hashes, axis=-1).astype(np.float32)
    def far(a, b): return a.sum(1)[:, None]+b.sum(1)[None]-2*a@b.T
    near = (np.minimum(far(bits[:, 0], bits[:, 0]), far(bits[:, 0], bits[:, 1])) <= MAX_BITS) | (v@v.T >= MIN_COSINE)
    every = np.stack(np.nonzero(np.triu(near, 1)), 1)
    exact_s, same = machine.timed(lambda: np.concatenate([verify(m.thumbs, every[i:i+20_000]).same for i in range(0, len(every), 20_000)]))
    true = every[same.astype(bool)] @ [k, 1]
    def graph():
        a, b, d = neighbours(v, v, scale.NEIGHBOURS+1)
        return np.unique(np.sort(np.stack([a, b], 1)[(d <= 1-MIN_COSINE) & (a != b)], axis=1), axis=0)
    rows = [dict(way='all pairs', pictures=k, pairs=len(every), true=len(true), recall=1., seconds=round(exact_s, 2))]
    for name, f in ('buckets', lambda: scale.bucket_pairs(m.hashes)), ('embeddings', graph), ('both', lambda: scale.nearby(m.hashes, v)):
        seconds, pairs = machine.timed(f)
        looked, found = machine.timed(lambda p=pairs: verify(m.thumbs, p))
        rows.append(dict(way=name, pictures=k, pairs=len(pairs), true=int(found.same.sum()), recall=round(float(np.isin(true, pairs @ [k, 1]).mean()), 4), seconds=round(seconds+looked, 2)))
    return rows


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], only=dict(choices=['growth', 'ray', 'recall'], help='one question'), sizes=dict(type=int, nargs='+', default=[1000, 10_000, 100_000], help='of growth'),
                                      repeats=dict(type=int, default=5, help='rounds of ray'), whole=dict(type=int, default=20_000, help='pictures of the run with a killed worker'))
    facts = machine.facts('ray', 'usearch', 'pyarrow')
    asked = [args.only] if args.only else ['recall', 'ray', 'growth']
    for question in asked:
        detail = {}
        if question == 'growth': rows = growth(args.sizes)
        if question == 'recall': rows = recall(args.photos.parent, args.n or 2500)
        if question == 'ray': rows, detail = ray(args.n or 10_000, args.repeats, args.whole)
        for r in rows: print(r)
        machine.write(args.out, f'scale_{question}', command, facts, rows, detail)


if __name__ == '__main__': main()
