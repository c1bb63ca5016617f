"""From addresses to a folder of pictures: `lookalikes.fetch.fetch` against fastai's `download_images` and img2dataset.

Same JPEG files (the 1,766 of pet_breeds), same server on loopback, same cores, which the server uses as well. It answers each request from
memory after --delay seconds, and keeps a connection open for who wants that. To connect costs no delay, which favours the peers: they connect
anew for each picture. Promised: at least twice fastai's pictures per second, and at least img2dataset's.

All sides get the same addresses, spread over --hosts names of the one server, as search results are spread over hosts. Ours may ask for
--at-a-time pictures at a time, and has as many processes as there are cores, its default for a long list; a host's addresses all go to one
of them. Reported apart is what it does with its own limits: 64 at a time and 8 from one host, over those hosts, and with a single one. It
obeys robots.txt, opens each picture, and keeps a journal and a manifest. fastai runs as it comes: 8 threads, nothing opened. Reported apart:
the same and its `verify_images`, and both with as many threads as ours asks for at a time. img2dataset keeps the bytes as they came
(resize_mode='no', skip_reencode=True), opens each picture, notes its size and sha256, and looks for no EXIF; a first round chooses its
processes and threads. It wants an older pandas, hence a Python of its own: see --img2dataset and README.md.

A call's time is its whole time, less imports of the calling process. img2dataset's call starts processes that import everything anew, so the
first list, each photograph once, is mostly that; what its own statistics say, from the first shard's start to the last one's end, is reported
apart. In the second list each photograph stands three times, each time with another comment inside, so that no two files are alike and
nobody is spared any: the longer a list, the less any start weighs. That is the fairer one for img2dataset, and the promise must hold there
too. fastai, with its 8 threads waiting for the server, takes part in the first alone. After each run the files in the folder must have the
sha256 of what was served, each once.
"""
import asyncio, contextlib, hashlib, io, json, multiprocessing, os, subprocess, tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import machine

from lookalikes.fetch import fetch
from lookalikes.web import Limits

PROMISED = dict(fastai=2, img2dataset=1)
SETTINGS = (1, 64), (2, 32), (2, 64)  # processes and threads of each that img2dataset may choose from

# runs in the other Python
PEER = """
import json, sys
from pathlib import Path
from time import perf_counter
from img2dataset import download
options = json.load(sys.stdin)
start = perf_counter()
download(**options)
seconds = perf_counter()-start
shards = [json.loads(p.read_text()) for p in Path(options['output_folder']).glob('*_stats.json')]
print()
print(json.dumps(dict(seconds=seconds, shards=max(o['end_time'] for o in shards)-min(o['start_time'] for o in shards))))
"""


def sha256(data): return hashlib.sha256(data).hexdigest()


def variant(data, k):
    "JPEG `data` as it is, or, for `k` above 0, with the comment `k` after its first segment: another file, the same picture."
    if not k: return data
    at, text = 4 + int.from_bytes(data[4:6], 'big'), str(k).encode()
    return data[:at] + b'\xff\xfe' + (len(text)+2).to_bytes(2, 'big') + text + data[at:]


class Answers(asyncio.Protocol):
    "A connection to the server: `pictures` by path, each answer late by `delay` seconds."
    def __init__(self, pictures, delay): self.pictures, self.delay, self.came = pictures, delay, b''
    def connection_made(self, transport): self.transport, self.loop = transport, asyncio.get_running_loop()

    def data_received(self, data):
        *heads, self.came = (self.came+data).split(b'\r\n\r\n')
        for head in heads: self.loop.call_later(self.delay, self.answer, head.lower())

    def answer(self, head):
        body = self.pictures.get(head.split(b' ', 2)[1].decode())
        status, body = (b'200 OK', body) if body else (b'404 Not Found', b'none of that name')
        self.transport.write(b'HTTP/1.1 %b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n' % (status, len(body)) + body)
        if b'connection: close' in head: self.transport.close()


def serve(files, copies, hosts, delay, ready):
    "Answer for as long as the other end of `ready` is open; the process's target."
    pictures = {f'/{k}/{i}.jpg': variant(p.read_bytes(), k) for i, p in enumerate(files) for k in range(copies)}
    async def main():
        loop = asyncio.get_running_loop()
        servers = []
        for h in range(hosts):
            with contextlib.suppress(OSError if h else ()): servers.append(await loop.create_server(lambda: Answers(pictures, delay), f'127.0.0.{h+1}', 0, backlog=4096))
        ready.send(['http://{}:{}'.format(*s.sockets[0].getsockname()) for s in servers])
        with contextlib.suppress(EOFError): await loop.run_in_executor(None, ready.recv)
    try: import uvloop
    except ImportError: asyncio.run(main())
    else: uvloop.run(main())


@contextlib.contextmanager
def server(files, copies, hosts, delay):
    "A process that serves `files`; gives the beginning of its addresses, host by host."
    here, there = multiprocessing.Pipe()
    p = multiprocessing.get_context('spawn').Process(target=serve, args=(files, copies, hosts, delay, there), daemon=True)
    p.start()
    there.close()
    try: yield here.recv()
    finally:
        here.close()
        p.join()


# Each side fills `folder` from `urls`, and gives the seconds of what is reported.

def ours(urls, folder, name='ours', **limits):
    s, got = machine.timed(lambda: fetch(urls, folder, limits=Limits(allow_private=('127.0.0.0/8',), **limits), progress=False))
    if len(got.failed): raise SystemExit(f'{name}: {got.by_reason}')
    return {name: s}


def fastai(urls, folder, name='fastai', threads=8):
    # here, for the server's process imports this file as well
    from fastai.data.transforms import get_image_files
    from fastai.vision.utils import download_images, verify_images
    with contextlib.redirect_stdout(io.StringIO()):  # its bars
        s, _ = machine.timed(lambda: download_images(folder, urls=urls, n_workers=threads))
        verify, bad = machine.timed(lambda: verify_images(get_image_files(folder)))
    if bad: raise SystemExit(f'{name}: {len(bad)} picture(s) do not open')
    return {name: s, f'{name}, then verify_images': s+verify}


def other(python, *args, **kw):
    "What a program prints in the Python that has img2dataset."
    # it must be free to keep what it compiles: its processes import everything anew in each run
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONDONTWRITEBYTECODE'} | {'NO_ALBUMENTATIONS_UPDATE': '1'}
    if not Path(python).is_file(): raise SystemExit(f'img2dataset: {python} is no Python; README.md says how to make one for it')
    r = subprocess.run([python, *args], capture_output=True, text=True, env=env, **kw)
    if r.returncode: raise SystemExit(f'img2dataset: {r.stderr[-2000:]}')
    return r.stdout.strip()


def img2dataset(urls, folder, python, processes, threads):
    file = folder.with_name('urls.txt')
    file.write_text('\n'.join(urls))
    options = dict(url_list=str(file), output_folder=str(folder), processes_count=processes, thread_count=threads,
                   number_sample_per_shard=-(-len(urls)//processes), resize_mode='no', skip_reencode=True, extract_exif=False,
                   enable_wandb=False, disallowed_header_directives=[])
    got = json.loads(other(python, '-c', PEER, input=json.dumps(options)).splitlines()[-1])
    return {'img2dataset': got['seconds'], 'img2dataset, its shards alone': got['shards']}


def run(name, side, urls, served):
    "One run of one side into a new folder, and a look at what it kept there; `served` holds the sha256 of each of `urls`."
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)/'got'
        folder.mkdir()
        seconds = side(urls, folder)
        kept = Counter(sha256(p.read_bytes()) for p in folder.rglob('*.jpg'))
    if kept != (want := Counter(served)):
        raise SystemExit(f'{name}: {(kept & want).total():,} of {want.total():,} files as they were served, and {(kept-want).total():,} others')
    machine.say(', '.join(f'{k}: {s:.2f} s' for k, s in seconds.items()) + f' for {len(urls):,}')
    return seconds


def sides(base, long, args):
    "Name -> function and the addresses it gets, as a function of paths."
    one, many = (lambda paths: [base[0]+p for p in paths]), (lambda paths: [base[i % len(base)]+p for i, p in enumerate(paths)])
    k, alone, spread = args.at_a_time, 'ours, its own limits, one host', f'ours, its own limits, {len(base)} host(s)'
    found = {'ours': (partial(ours, total=k, per_host=k), many), spread: (partial(ours, name=spread), many)}
    if not long:
        found |= {alone: (partial(ours, name=alone), one), 'fastai': (fastai, many)}
        found[f'fastai, {k} threads'] = partial(fastai, name=f'fastai, {k} threads', threads=k), many
    return found


def compare(files, copies, args):
    "One list of addresses: rows for the table and the details behind them."
    paths = [f'/{k}/{i}.jpg' for k in range(copies) for i in range(len(files))]
    served = [sha256(variant(p.read_bytes(), k)) for k in range(copies) for p in files]
    with server(files, copies, args.hosts, args.delay) as base:
        todo, tried = sides(base, copies > 1, args), {}
        machine.say(f'{len(paths):,} pictures; warming up')
        for name, (side, urls) in todo.items(): run(name, side, urls(paths[:100]), served[:100])
        if args.img2dataset:
            peers = {f'{p} x {t}': partial(img2dataset, python=args.img2dataset, processes=p, threads=t) for p, t in SETTINGS}
            one = todo['ours'][1]
            tried = {k: run(k, side, one(paths), served)['img2dataset'] for k, side in peers.items()}
            todo['img2dataset'] = peers[min(tried, key=tried.get)], one
        rounds = []
        for i in range(args.repeats):
            machine.say(f'round {i+1} of {args.repeats}')
            rounds.append({k: v for name, (side, urls) in todo.items() for k, v in run(name, side, urls(paths), served).items()})
    seconds, rows = {k: machine.spread([r[k] for r in rounds]) for k in rounds[0]}, []
    for name, s in seconds.items():
        ratio = machine.times(s['each'], seconds['ours']['each']) if name != 'ours' else dict(ratio='')
        rows.append(dict(pictures=len(paths), of_photographs=len(files), delay_s=args.delay, side=name, **machine.flat('s', s), per_s=round(len(paths)/s['median'], 1),
                         **ratio, promised=PROMISED.get(name, ''), settings=min(tried, key=tried.get) if name == 'img2dataset' else ''))
    return rows, dict(pictures=len(paths), photographs=len(files), hosts=len(base), seconds=seconds, img2dataset_tried_s=tried,
                      ratio_each_round={k: [r[k]/r['ours'] for r in rounds] for k in PROMISED if k in rounds[0]})


def main():
    args, command = machine.arguments(__doc__.splitlines()[0],
        repeats=dict(type=int, default=5, help='rounds after the warm-up'),
        copies=dict(type=int, nargs='+', default=[1, 3], help='lists to measure: how often each photograph stands there'),
        delay=dict(type=float, default=.05, help='seconds before the server answers'),
        hosts=dict(type=int, default=16, help='addresses of the server, 127.0.0.1 and so on; only Linux has more than the first'),
        at_a_time=dict(type=int, default=128, help='how many pictures ours may ask for at a time'),
        img2dataset=dict(type=Path, help='a Python that has img2dataset; without it that peer is left out'))
    facts, files = machine.facts('httpx', 'httpcore', 'uvloop', 'fastdownload'), machine.pet_breeds(args.photos, args.n).paths
    peer = other(args.img2dataset, '-c', "from importlib.metadata import version; print(version('img2dataset'))") if args.img2dataset else 'left out'
    rows, details = zip(*[compare(files, copies, args) for copies in args.copies])
    rows = [dict(r, img2dataset=peer) for o in rows for r in o]
    machine.write(args.out, 'fetch', command, facts, rows, dict(img2dataset=peer, delay_s=args.delay, at_a_time=args.at_a_time, lists=details))
    for r in rows:
        print(f"{r['pictures']:,} pictures, {r['side']}: {r['per_s']:.0f}/s" + (f", ours is {r['ratio']:.2f} times as fast" if r['ratio'] else '')
              + (f" (promised {r['promised']})" if r['promised'] else ''))
    if not args.img2dataset: print('img2dataset: left out; name a Python that has it as --img2dataset (see benchmarks/README.md)')


if __name__ == '__main__': main()
