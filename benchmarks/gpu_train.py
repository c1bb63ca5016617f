"""Fine-tuning on a GPU beside fastai in mixed precision: 1,766 photographs of pets, five epochs at 224 pixels, seconds and errors.

    python benchmarks/gpu_train.py

fastai as its book makes it: presizing to 460, augmented crops of 224, batches of 64, a worker a core, `to_fp16`, `fit_one_cycle` with every layer
learning. Ours from the probe, bfloat16, pictures decoded once and kept in the GPU's memory; with every layer learning, as theirs, and as `finetune`
trains it. Timed from the files to the last epoch's end, decoding and probe included. Judged on the same validation pictures, which nothing was
chosen by. Promised: five times as fast, and no more errors. Run it where a GPU is at hand; the result carries the device's name.
"""
import shutil, time

import machine  # before torch
import torch
from fastai.torch_core import set_seed
from fastai_peer import peer_learner, quietly

from lookalikes.backbone import Backbone, cache_dir
from lookalikes.callbacks import KeepBest
from lookalikes.predictions import predict
from lookalikes.train import finetune, image_learner


def ours(images, args, every_layer):
    "Seconds from the files on, and errors."
    for folder in 'features', 'pixels': shutil.rmtree(cache_dir()/folder, ignore_errors=True)
    start = time.perf_counter()
    learn = image_learner(images, Backbone.named(size=args.size), bs=args.batch_size, seed=args.seed, device='cuda', progress=False)
    learn.remove_cb(KeepBest)       # chooses by the pictures that judge here
    if every_layer:
        learn.unfreeze()
        quietly(learn, lambda o: o.fit_one_cycle(args.epochs, [1e-5, 1e-3, 1e-3]))
    else: quietly(learn, lambda o: finetune(o, args.epochs))
    torch.cuda.synchronize()
    return time.perf_counter()-start, int(predict(learn, images.where(images.df.split == 'valid')).wrong.sum())


def theirs(images, args):
    "The same of fastai."
    start = time.perf_counter()
    set_seed(args.seed)
    learn = peer_learner(images, args.size, args.batch_size).to_fp16()
    learn.unfreeze()
    quietly(learn, lambda o: o.fit_one_cycle(args.epochs, slice(1e-5, 1e-3)))
    torch.cuda.synchronize()
    seconds = time.perf_counter()-start
    with learn.no_bar(): probs, y = learn.get_preds()
    return seconds, int((probs.argmax(1) != y).sum())


def main():
    args, command = machine.arguments(__doc__.splitlines()[0], repeats=dict(type=int, default=5, help='rounds after one to warm up'), epochs=dict(type=int, default=5, help='of each'),
        size=dict(type=int, default=224, help='height and width, pixels'), batch_size=dict(type=int, default=64, help='of both'), seed=dict(type=int, default=42, help='for split, head, order and augmentation'))
    if not torch.cuda.is_available(): raise SystemExit('gpu_train.py: no CUDA device here; run it where there is one')
    facts = machine.facts()
    folder = machine.files_of(args.photos)
    images = machine.pet_breeds(folder, args.n).split(valid=.2, seed=args.seed)
    sides = dict(late_layers=lambda: ours(images, args, False), every_layer=lambda: ours(images, args, True), fastai=lambda: theirs(images, args))
    with machine.empty_cache(graphs=True):
        for f in sides.values(): f()
        found = {k: [] for k in sides}
        for i in range(args.repeats):
            for k, f in sides.items():
                found[k].append(f())
                machine.say(f'round {i+1} of {args.repeats}, {k}: {found[k][-1][0]:.1f} s, {found[k][-1][1]} errors')
    seconds = {k: machine.spread([o[0] for o in v]) for k, v in found.items()}
    row = dict(n=len(images), valid=int((images.df.split == 'valid').sum()), epochs=args.epochs, size=args.size, **{f'{k}_seconds': round(v['median'], 2) for k, v in seconds.items()},
               **{f'{k}_errors': v[-1][1] for k, v in found.items()}, **machine.times(seconds['fastai']['each'], seconds['every_layer']['each']),
               **machine.times(seconds['fastai']['each'], seconds['late_layers']['each'], 'ratio_late'), promised=5)
    machine.write(args.out, 'gpu_train', command, facts, [row], dict(runs=found))
    print(row)


if __name__ == '__main__': main()
