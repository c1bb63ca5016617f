"""One epoch of fine-tuning, training and validation, beside fastai's: same photographs, weights, split and cores.

    python benchmarks/epoch.py --n 400

fastai's learner is made as its book makes it: presizing to 460, crops of 224, batches of 64, float32, a worker a core, every layer learning. Ours
with every layer learning, and as `finetune` trains it, early layers frozen; its pictures were decoded before, once for all epochs, which is timed
apart. Promised: with every layer learning, twice as fast.
"""
import machine  # before torch: it hides accelerators from both sides
from fastai_peer import peer_learner, quietly

from lookalikes.backbone import Backbone
from lookalikes.callbacks import KeepBest
from lookalikes.train import image_learner


def measure(args):
    "Seconds of an epoch, interleaved."
    images = machine.pet_breeds(args.photos, args.n or 400).split(valid=.2, seed=0)
    with machine.empty_cache(graphs=True):
        seconds, ours = machine.timed(lambda: image_learner(images, Backbone.named(size=args.size), probe=False, bs=args.batch_size, seed=0, progress=False))
        ours.remove_cb(KeepBest)    # examines the model once more before the first epoch, which a run of several shares
        theirs = peer_learner(images, args.size, args.batch_size)
        theirs.unfreeze()
        def every_layer(): ours.unfreeze(); quietly(ours, lambda o: o.fit(1, 1e-4))
        def late_layers(): ours.freeze_to(1); quietly(ours, lambda o: o.fit(1, 1e-4))
        for warm_up in every_layer, late_layers, lambda: quietly(theirs, lambda o: o.fit(1, 1e-4)): warm_up()
        each, _ = machine.interleave(args.repeats, every_layer=every_layer, late_layers=late_layers, fastai=lambda: quietly(theirs, lambda o: o.fit(1, 1e-4)))
    median = {k: machine.spread(v)['median'] for k, v in each.items()}
    row = dict(n=len(images), size=args.size, batch=args.batch_size, **{f'{k}_seconds': round(v, 2) for k, v in median.items()}, once_seconds=round(seconds, 1),
               **machine.times(each['fastai'], each['every_layer']), **machine.times(each['fastai'], each['late_layers'], 'ratio_late'), promised=2)
    machine.say(row)
    return [row], dict(seconds=each)


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], repeats=dict(type=int, default=5, help='rounds after the warm-up'), size=dict(type=int, default=224, help='height and width, pixels'),
                                      batch_size=dict(type=int, default=64, help='of both'))
    args.photos = machine.files_of(args.photos)
    facts = machine.facts()
    machine.write(args.out, 'epoch', command, facts, *measure(args))


if __name__ == '__main__': main()
