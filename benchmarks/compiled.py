"""Does `torch.compile` pay for itself within a run of fine-tuning? An epoch of `image_learner` as it is, and with its network compiled.

    python benchmarks/compiled.py --n 400

Both learn from the same photographs in the same batches, every layer learning and as `finetune` trains it. The first epochs of the compiled one
hold the compiling, in a cache of the script's own, as on a machine that has never done it; the rounds after them take turns. `pays_after` is how many epochs the time won needs to
make up for the time lost; empty where an epoch is no faster. Nothing is promised: the result says whether `image_learner` should compile.
"""
import os

import machine  # before torch: it hides accelerators from both sides
from fastai_peer import quietly

from lookalikes.backbone import Backbone
from lookalikes.callbacks import KeepBest
from lookalikes.train import image_learner


def learner(images, args):
    "A learner without its examination of the model before the first epoch, which is no epoch's."
    learn = image_learner(images, Backbone.named(size=args.size), probe=False, bs=args.batch_size, seed=0, progress=False)
    learn.remove_cb(KeepBest)
    return learn


def epoch(learn, every_layer):
    "Seconds of one."
    learn.unfreeze() if every_layer else learn.freeze_to(1)
    return machine.timed(lambda: quietly(learn, lambda o: o.fit(1, 1e-4)))[0]


def measure(args):
    "A row for each of the two ways to train."
    images, rows, runs = machine.pet_breeds(args.photos, args.n or 400).split(valid=.2, seed=0), [], {}
    with machine.empty_cache() as folder:
        os.environ['TORCHINDUCTOR_CACHE_DIR'] = str(folder/'inductor')
        plain, compiled = learner(images, args), learner(images, args)
        compiled.model.compile()
        for way, every_layer in dict(every_layer=True, late_layers=False).items():
            epoch(plain, every_layer)
            first = epoch(compiled, every_layer)    # training and validation, and their last, smaller batches, are graphs of their own
            second = epoch(compiled, every_layer)
            each, _ = machine.interleave(args.repeats, plain=lambda e=every_layer: epoch(plain, e), compiled=lambda e=every_layer: epoch(compiled, e))
            median = {k: machine.spread(v)['median'] for k, v in each.items()}
            lost, won = first+second-2*median['compiled'], median['plain']-median['compiled']
            rows.append(dict(way=way, n=len(images), size=args.size, batch=args.batch_size, plain_seconds=round(median['plain'], 2), compiled_seconds=round(median['compiled'], 2), compiling_seconds=round(lost, 1),
                             **machine.times(each['plain'], each['compiled']), pays_after=round(lost/won, 1) if won > 0 else ''))
            runs[way] = each | dict(first=first, second=second)
            machine.say(rows[-1])
    return rows, dict(seconds=runs)


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], repeats=dict(type=int, default=5, help='rounds after the warm-up'), size=dict(type=int, default=224, help='height and width, pixels'),
                                      batch_size=dict(type=int, default=32, help='of both'))
    args.photos = machine.files_of(args.photos)
    facts = machine.facts()
    machine.write(args.out, 'compiled', command, facts, *measure(args))


if __name__ == '__main__': main()
