"""Every comparison with a peer, one after the other, and what came of the promises.

    python benchmarks/all.py                            # about two hours on two quiet cores; results go to benchmarks/results
    python benchmarks/all.py --quick                    # minutes: does everything run? The figures mean nothing and are thrown away
    python benchmarks/all.py --only serve gradio_alone  # some of them
    python benchmarks/all.py --list

Each runs in a process of its own. One that fails is named, and the others go on; the exit status is then 1. A promise that is missed is a result, no
failure. Comparisons that want a GPU are left out, by name, where there is none. Unless --quick, each waits until the machine has been quiet for a
minute, for --patience seconds at most. At the end stands one table; what is promised, and where its ratio is read, says promises.py.
"""
import argparse
import collections
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import promises

HERE = Path(__file__).resolve().parent
# How each is run, in full and quickly: a list of runs, each a list of options. OUT is the folder of the results.
COMPARISONS = dict(
    embed=('--sizes 256', '--sizes 256 --n 20 --batch-sizes 8 --repeats 1'),
    probe=('', '--n 40 --repeats 1 --fits 1 --size 64 --minutes .001'),
    epoch=('--n 400', '--n 20 --size 64 --batch-size 8 --repeats 1'),
    finetune=('--n 440 --again', '--n 20 --sets pet_breeds --seeds 0 --epochs 1 --peer-size 64 --table OUT/summary'),
    audit=(('--n 5000', '--n 500 --side 1024'), ('--n 60 --repeats 1', '--n 20 --side 1024 --repeats 1')),
    dedup=('', '--n 60 --repeats 1'),
    circles=('', '--pictures 100 --figures 5 --repeats 1'),
    fetch=('', '--n 20 --repeats 1 --copies 1 2 --hosts 1 --at-a-time 16 --delay .005'),
    serve=('--n 300', '--n 20 --pictures 8 --repeats 1'),
    gradio_alone=('--n 300', '--n 20 --pictures 8 --repeats 1'),
    gpu_train=('', '--n 60 --epochs 1 --size 64 --repeats 1'))


def commands(name, quick, args, out):
    "The command lines of a comparison."
    runs = COMPARISONS[name][quick]
    common = ['--out', out, *(['--photos', args.photos] if args.photos else []), *(['--img2dataset', args.img2dataset] if name == 'fetch' and args.img2dataset else [])]
    for options in [runs] if isinstance(runs, str) else runs:
        yield [sys.executable, HERE/f'{name}.py', *(o.replace('OUT', str(out)) for o in options.split()), *common]


def no_gpu():
    "Why a comparison on a GPU cannot run here, or nothing."
    r = subprocess.run([sys.executable, '-c', 'import torch; print(torch.cuda.is_available())'], capture_output=True, text=True)
    return '' if r.stdout.strip() == 'True' else 'skipped: no CUDA device'


def settle(patience):
    "Wait until nobody has been at work here for a minute; what ran before counts, too."
    if not hasattr(os, 'getloadavg'): return
    end = time.monotonic()+patience
    while os.getloadavg()[0] > (os.cpu_count() or 1)*promises.QUIET and time.monotonic() < end: time.sleep(1)


def run(command):
    "Run it, its words passed on; what went wrong, or nothing."
    last = collections.deque(maxlen=1)
    def echo(stream):
        for line in stream:
            print(line, end='', file=sys.stderr, flush=True)
            if line.strip(): last.append(line.strip())
    p = subprocess.Popen(list(map(str, command)), cwd=HERE.parent, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, errors='replace')
    reader = threading.Thread(target=echo, args=(p.stderr,), daemon=True)
    reader.start()
    code = p.wait()
    reader.join(10)     # a server that outlives its script keeps the stream open
    return f"failed (exit status {code}): {''.join(last) or 'it said nothing'}" if code else ''


def compare(name, args, out):
    "One comparison: what went wrong, or nothing."
    if name.startswith('gpu_') and (why := no_gpu()): return why
    for command in commands(name, args.quick, args, out):
        if not args.quick: settle(args.patience)
        print(f"\n== {name}: {' '.join(map(str, command[2:]))}".rstrip(), file=sys.stderr, flush=True)
        if why := run(command): return why
    return ''


def report(names, said, out, quick):
    "The table, and under it what failed or was left out."
    chosen = promises.measured(out, not quick, [p for p in promises.PROMISES if p.question in names])
    table = promises.as_text(chosen, {k: v.split(':')[0].split(' (')[0] for k, v in said.items()})
    print('', table.to_string(index=False), '', *(f'machine: {o}' for o in chosen.machine.dropna().unique()), *(f'{k}: {v}' for k, v in said.items()), sep='\n')
    if quick: print('quick: so few pictures say that it runs, and nothing of speed')
    elif (busy := chosen[(chosen.quiet == False) & chosen.ratio.notna()]).size: print(f"others were at work when these began, so do not publish them: {', '.join(busy.question.unique())}")  # noqa: E712 missing is not False


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ap.add_argument('--quick', action='store_true', help='few pictures, results into a temporary folder')
    ap.add_argument('--only', nargs='+', metavar='NAME', choices=COMPARISONS, default=list(COMPARISONS), help='these comparisons')
    ap.add_argument('--list', action='store_true', help='name the comparisons and what they promise, and run none')
    ap.add_argument('--photos', type=Path, help='folder that holds pet_breeds and the other sets; or LOOKALIKES_PHOTOS')
    ap.add_argument('--out', type=Path, default=promises.RESULTS, help='folder for the results')
    ap.add_argument('--img2dataset', type=Path, help='a Python that has img2dataset, for fetch')
    ap.add_argument('--patience', type=float, default=300, help='seconds to wait for a quiet machine, before each')
    args = ap.parse_args(argv)
    if args.list:
        for p in promises.PROMISES: print(f"{p.question}: {p.work}, beside {p.peer}" + (f', {p.promised:g}x promised' if p.promised else ', nothing promised'))
        return 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp:
        # the scripts run in the repository's root, wherever this was started
        out, args.photos, args.img2dataset = (o and Path(os.path.abspath(o)) for o in (tmp if args.quick else args.out, args.photos, args.img2dataset))
        said = {}
        for name in args.only:
            if why := compare(name, args, out): said[name] = why
        report(args.only, said, out, args.quick)
    return int(any(o.startswith('failed') for o in said.values()))


if __name__ == '__main__': sys.exit(main())
