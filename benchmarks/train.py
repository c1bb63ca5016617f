"""Fine-tuning beside fastai: an epoch, and the whole recipe, on the same photographs, weights, split and cores.

    python benchmarks/train.py --epoch --n 400
    python benchmarks/train.py --sets kittens_or_cats paintings --epochs 3

`--epoch`: one epoch, training and validation, of fastai's learner as its book makes it (presizing to 460, crops of 224, batches of 64, float32,
every layer learning), of ours with every layer learning, and of ours as `finetune` trains it (early layers frozen); pictures decoded beforehand,
which is timed apart. Promised: every layer learning, twice as fast.

Otherwise, for each of --sets and each of --seeds, which draw the split: fastai's `fine_tune(epochs)` (which adds a frozen epoch), and our probe
followed by `finetune(epochs)`, each from the files to the error on the validation pictures, which neither has chosen by: ours keeps the weights
of the last epoch here. Promised: no more errors, in a third of the time.
"""
import shutil, time

import machine  # before torch: it hides accelerators from both sides
from fastai_peer import peer_learner
from fastai.torch_core import set_seed

from lookalikes.backbone import Backbone, cache_dir
from lookalikes.callbacks import KeepBest
from lookalikes.imageset import ImageSet
from lookalikes.loaders import Augment
from lookalikes.predictions import predict
from lookalikes.probe import fit_probe
from lookalikes.stats import mcnemar
from lookalikes.train import finetune, image_learner

NAMES = {'pet_breeds': r'^(.+)_\d+\.jpg$'}
HANDED = {'guitars'}     # sets in which a mirrored picture shows something else


def photographs(photos, name, n=None):
    "A set of photographs; of about `n`, the same share of each class."
    images = ImageSet.from_names(photos/name/'images' if (photos/name/'images').is_dir() else photos/name, NAMES[name]) if name in NAMES else ImageSet.from_folder(photos/name)
    if n is None or n >= len(images): return images
    return images.where((images.df.groupby('label').cumcount() < max(5, n//len(images.classes))).to_numpy())


def quietly(learn, train):
    with learn.no_bar(), learn.no_logging(): train(learn)
    return learn


def epoch(args):
    "Seconds of one epoch, interleaved."
    images = photographs(args.photos.parent, 'pet_breeds', args.n or 400).split(valid=.2, seed=0)
    with machine.empty_cache():
        seconds, ours = machine.timed(lambda: image_learner(images, Backbone.named(size=args.size), probe=False, bs=args.batch_size, seed=0, progress=False))
        ours.remove_cb(KeepBest)    # examines the model once more before the first epoch, which a run of five shares
        theirs = peer_learner(images, args.size, args.batch_size)
        theirs.unfreeze()
        def all_layers(): ours.unfreeze(); quietly(ours, lambda o: o.fit(1, 1e-4))
        def late_layers(): ours.freeze_to(1); quietly(ours, lambda o: o.fit(1, 1e-4))
        each, _ = machine.interleave(args.repeats, ours=all_layers, ours_late=late_layers, fastai=lambda: quietly(theirs, lambda o: o.fit(1, 1e-4)))
    median = {k: machine.spread(v)['median'] for k, v in each.items()}
    row = dict(n=len(images), size=args.size, batch=args.batch_size, **{f'{k}_seconds': round(v, 1) for k, v in median.items()}, once_seconds=round(seconds, 1),
               ratio=round(median['fastai']/median['ours'], 2), ratio_late=round(median['fastai']/median['ours_late'], 2), promised=2)
    print(row)
    return [row], dict(seconds=each)


def ours(images, args, name, seed):
    "Seconds from the files on, and what is wrong on the validation pictures."
    shutil.rmtree(cache_dir()/'features', ignore_errors=True)
    shutil.rmtree(cache_dir()/'pixels', ignore_errors=True)
    start = time.perf_counter()
    learn = image_learner(images, seed=seed, augment=Augment(flip=name not in HANDED), progress=False)
    learn.remove_cb(KeepBest)
    quietly(learn, lambda o: finetune(o, args.epochs))
    seconds, exam = time.perf_counter()-start, images.where(images.df.split == 'valid')
    return seconds, predict(learn, exam).wrong, predict(fit_probe(images, seed=seed), exam).wrong


def theirs(images, args, seed):
    "The same by `fine_tune`."
    start = time.perf_counter()
    set_seed(seed)
    learn = quietly(peer_learner(images, args.peer_size, 64), lambda o: o.fine_tune(args.epochs))
    seconds = time.perf_counter()-start
    with learn.no_bar(): probs, y = learn.get_preds()
    return seconds, (probs.argmax(1) != y).numpy()


def recipe(args):
    "Errors and seconds on each set."
    rows = []
    with machine.empty_cache():
        Backbone.named().graph()     # exported once in a cache's life
        for name in args.sets:
            images = photographs(args.photos.parent, name, args.n).verify().group_copies()
            for seed in args.seeds:
                part = images.split(valid=.2, seed=seed)
                mine, wrong, probe = ours(part, args, name, seed)
                peer, peer_wrong = theirs(part, args, seed) if not args.alone else (float('nan'), wrong)
                rows.append(dict(lesson=name, seed=seed, train=int((part.df.split == 'train').sum()), n=len(wrong), epochs=args.epochs, probe_errors=int(probe.sum()), errors=int(wrong.sum()),
                                 fastai_errors=int(peer_wrong.sum()), seconds=round(mine, 1), fastai_seconds=round(peer, 1), times_faster=round(peer/mine, 2), p_against_probe=round(mcnemar(wrong, probe).p, 4)))
                machine.say(rows[-1])
    return rows, {}


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], repeats=dict(type=int, default=5, help='rounds of --epoch'), epoch=dict(action='store_true', help='time one epoch'),
        sets=dict(nargs='+', default=['chihuahua_or_muffin', 'kittens_or_cats', 'paintings', 'guitars', 'pet_breeds'], help='folders of photographs'),
        seeds=dict(type=int, nargs='+', default=[0, 1, 2], help='for split, order and augmentation'), epochs=dict(type=int, default=1, help='of fine_tune and of finetune'),
        size=dict(type=int, default=224, help='height and width for --epoch, pixels'), batch_size=dict(type=int, default=64, help='for --epoch'),
        peer_size=dict(type=int, default=224, help="height and width of the peer's crops, pixels"), alone=dict(action='store_true', help='ours only'))
    rows, detail = epoch(args) if args.epoch else recipe(args)
    machine.write(args.out, 'train_epoch' if args.epoch else 'train', command, machine.facts(), rows, detail)


if __name__ == '__main__': main()
