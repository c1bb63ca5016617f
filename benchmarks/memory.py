"""An epoch of fine-tuning with freed memory kept for the next batch (`memory_kept`), and as the C library has it.

    python benchmarks/memory.py --n 200

The sides take turns, each time in a process of their own, since the library's dials cannot be turned back all the way: a first epoch, which nobody
counts, then three. Nothing is promised. Where the library is not glibc, both sides are the same.
"""
import json
import subprocess
import sys
from pathlib import Path

import machine  # before torch: it hides accelerators from both sides


def side(photos, n, size, bs, kept):
    "Seconds of three epochs, and page faults in the last."
    import resource

    from fastai_peer import quietly

    from lookalikes.backbone import Backbone
    from lookalikes.callbacks import KeepBest, KeptMemory
    from lookalikes.train import image_learner
    images = machine.pet_breeds(photos, n).split(valid=.2, seed=0)
    learn = image_learner(images, Backbone.named(size=size), probe=False, bs=bs, seed=0, progress=False)
    learn.remove_cbs([KeepBest] + [KeptMemory]*(not kept))     # the former examines the model once more before the first epoch
    seconds = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        seconds.append(machine.timed(lambda: quietly(learn, lambda o: o.fit(1, 1e-4)))[0])
    return dict(seconds=seconds[1:], faults=resource.getrusage(resource.RUSAGE_SELF).ru_minflt-before)


def measure(args):
    n = args.n or 200
    def apart(kept):
        r = subprocess.run([sys.executable, __file__, '--side', json.dumps([str(args.photos), n, args.size, args.batch_size, kept])], stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(r.stdout.splitlines()[-1])
    seconds, faults = dict(usual=[], kept=[]), {}
    for i in range(args.repeats):
        for name in seconds:
            o = apart(name == 'kept')
            seconds[name].append(machine.spread(o['seconds'])['median'])
            faults[name] = o['faults']
            machine.say(f"round {i+1} of {args.repeats}, {name}: {seconds[name][-1]:.2f} s")
    row = dict(n=n, size=args.size, batch=args.batch_size, **{f'{k}_seconds': round(machine.spread(v)['median'], 2) for k, v in seconds.items()},
               **{f'{k}_page_faults': v for k, v in faults.items()}, **machine.times(seconds['usual'], seconds['kept']))
    machine.say(row)
    return [row], dict(seconds=seconds)


def main():
    if sys.argv[1:2] == ['--side']:
        photos, *rest = json.loads(sys.argv[2])
        return print(json.dumps(side(Path(photos), *rest)))
    args, command = machine.arguments(__doc__.splitlines()[0], repeats=dict(type=int, default=5, help='rounds'), size=dict(type=int, default=224, help='height and width, pixels'),
                                      batch_size=dict(type=int, default=32, help='of both'))
    args.photos = machine.files_of(args.photos)
    facts = machine.facts()
    machine.write(args.out, 'memory', command, facts, *measure(args))


if __name__ == '__main__': main()
