"""From a folder of photographs to a judged classifier of 37 breeds: `embed` and `fit_probe` against fastai's `fine_tune`, to the same error.

Same weights (the bundled efficientnet_lite0), same pictures (the 1,766 of pet_breeds), same cores, the very same split. Promised: at least
20 times as fast to the error that ours reaches, and to 10 % or less; and five-fold cross-validation in 10 seconds or less.

Ours is timed from the folder to the error on the validation pictures, with an empty feature cache, and finds the graph exported: the
seconds that takes, once in a cache's life, are reported apart. The peer is timed from the table of files and their split to the end of
the first epoch whose validation error is low enough. It trains as chapter 5 of fastai's book does (presizing to 460, augmented crops of
224, batches of 64, `fine_tune`, a worker a core). A schedule belongs to its number of epochs, so the peer tries twice: `fine_tune(1)`,
which also tells how long an epoch takes, then `fine_tune(n)` with as many epochs as fit into --minutes, or each of --epochs. Its fastest
try counts. Ours runs before and after, for the peer is too long to take turns with.
"""
import shutil, tempfile, time
from pathlib import Path

import machine  # before torch: it hides accelerators from both sides
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import fine_tune, lr_find  # noqa: F401 fastai adds them to Learner
from fastai.torch_core import set_seed
from fastai_peer import peer_learner

from lookalikes.backbone import DEFAULT, Backbone, cache_dir, embed
from lookalikes.imageset import n_cores
from lookalikes.predictions import predict
from lookalikes.probe import cross_validate, fit_probe

PROMISED, PROMISED_CV, TEN_PERCENT = 20, 10, .1


def ours(folder, n):
    "From the folder to the error: seconds of each step, pictures with their split, features, `ErrorRate`."
    shutil.rmtree(cache_dir()/'features', ignore_errors=True)
    steps, last = {}, time.perf_counter()
    def step(name):
        nonlocal last
        now = time.perf_counter()
        steps[name], last = now-last, now
    images = machine.pet_breeds(folder, n)
    step('list')
    features = embed(images, progress=False)
    step('embed')
    images = images.with_facts(features.facts).group_copies().split(valid=.2, seed=42)
    step('split')
    probe = fit_probe(images, features=features)
    step('fit')
    errors = predict(probe, images.where(images.df.split == 'valid')).errors
    step('judge')
    return dict(steps, total=sum(steps.values())), images, features, errors


class Clock(Callback):
    "Seconds since `start` and the validation error, at the end of each epoch."
    order = 60  # after the Recorder, which knows the error
    def __init__(self, start): self.start, self.epochs = start, []
    def after_epoch(self):
        train_loss, valid_loss, error = map(float, self.learn.recorder.values[-1])
        frozen = self.learn.opt.frozen_idx > 0
        self.epochs.append(dict(seconds=time.perf_counter()-self.start, error=error, train_loss=train_loss, valid_loss=valid_loss, frozen=frozen))
        machine.say(f"  {self.epochs[-1]['seconds']:.0f} s: {'frozen ' if frozen else ''}epoch, error {error:.1%}")


def peer(images, epochs, lr, args):
    "`fine_tune(epochs)` from the files on: seconds and error at the end of each epoch."
    machine.say(f'peer: fine_tune({epochs}, {lr:g})')
    set_seed(args.seed)
    start = time.perf_counter()
    learn, clock = peer_learner(images, args.size, args.batch_size), Clock(start)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(epochs, lr, cbs=clock)
    return dict(fine_tune=epochs, lr=lr, epochs=clock.epochs)


def suggested_lr(images, args):
    "fastai's own suggestion, not counted in the peer's time."
    with tempfile.TemporaryDirectory() as folder:
        learn = peer_learner(images, args.size, args.batch_size)
        learn.path = Path(folder)
        learn.freeze()
        with learn.no_bar(), learn.no_logging(): return float(learn.lr_find(show_plot=False).valley)


def epochs_that_fit(tried, minutes):
    "How many epochs `fine_tune` may be given, by the time that its first and its second epoch took."
    first, second = (o['seconds'] for o in tried['epochs'])
    return max(1, int((60*minutes-first)/(second-first)))


def reached(tries, error):
    "Seconds to the earliest epoch's end with at most `error`, and whether there was one; if not, seconds of the longest try."
    ends = [o for t in tries for o in t['epochs']]
    good = [o['seconds'] for o in ends if o['error'] <= error+1e-6]  # the peer's is float32
    return (min(good), True) if good else (max(o['seconds'] for o in ends), False)


def peer_tries(images, target, args):
    "Runs of growing length, until one reaches `target`."
    lr = suggested_lr(images, args) if args.lr == 'find' else float(args.lr)
    tries = [peer(images, 1, lr, args)]
    for n in args.epochs or [epochs_that_fit(tries[0], args.minutes)]:
        # a longer schedule cannot get there sooner than a shorter one that did
        if n > 1 and not reached(tries, target)[1]: tries.append(peer(images, n, lr, args))
    return tries


def fits(images, features, repeats):
    "Seconds of one fit and of five-fold cross-validation, on features at hand, and the latter's `ErrorRate`."
    seconds, got = machine.interleave(repeats, fit_probe=lambda: fit_probe(images, features=features),
                                      cross_validate=lambda: cross_validate(images, features=features))
    return {k: machine.spread(v) for k, v in seconds.items()}, got['cross_validate'].errors


def several(args):
    "`ours`, --repeats times."
    def one(i):
        got = ours(args.photos, args.n)
        machine.say(f'ours, {i+1} of {args.repeats}: {got[0]["total"]:.2f} s, {got[3]}')
        return got
    return [one(i) for i in range(args.repeats)]


def measure(args):
    "Rows for the table and the details behind them."
    export, _ = machine.timed(Backbone.named(DEFAULT).graph)
    machine.say(f'graph exported in {export:.1f} s; warming up')
    ours(args.photos, args.n)
    before = several(args)
    _, images, features, errors = before[-1]
    tries = peer_tries(images, min(errors.rate, TEN_PERCENT), args)
    runs = before + several(args)
    fit, cv = fits(images, features, args.fits)
    steps = {k: machine.spread([r[0][k] for r in runs]) for k in runs[0][0]}
    total, common, rows = steps['total'], dict(pictures=len(images), classes=len(images.classes)), []
    for goal, error in (('our error', errors.rate), ('10 % error', TEN_PERCENT)):
        seconds, there = reached(tries, error)
        rows.append(common | dict(goal=goal, error=round(error, 4), ours_reached=errors.rate <= error, **machine.flat('ours_s', total), peer_s=round(seconds, 2),
                                  peer_reached=there, **{f'ratio{k}': round(seconds/total[o], 2) for k, o in (('', 'median'), ('_low', 'high'), ('_high', 'low'))}, ratio_is='measured' if there else 'more than', promised=PROMISED,
                                  peer_best_error=round(min(o['error'] for t in tries for o in t['epochs']), 4), export_s=round(export, 2)))
    for k, v in fit.items():
        rows.append(common | dict(goal=k, **machine.flat('ours_s', v)) | (dict(promised=f'{PROMISED_CV} s', error=round(cv.rate, 4)) if k == 'cross_validate' else {}))
    return rows, dict(ours_s=steps, ours_each_run=[r[0] for r in runs], ours_errors=errors.to_dict(), export_s=export, peer_tries=tries,
                      fits_s=fit, cross_validate_errors=cv.to_dict(), goals=rows)


def main():
    args, command = machine.arguments(__doc__.splitlines()[0],
        repeats=dict(type=int, default=3, help='runs of ours before the peer, and as many after'),
        minutes=dict(type=float, default=10., help='training time that the epochs of the second try should fill'),
        epochs=dict(type=int, nargs='+', help="epochs of the peer's later tries, shortest first, rather than as many as fit"),
        lr=dict(default='2e-3', help="the peer's learning rate, or find: what lr_find suggests, its time not counted"),
        size=dict(type=int, default=224, help="height and width of the peer's crops, pixels"),
        batch_size=dict(type=int, default=64, help="the peer's"),
        fits=dict(type=int, default=5, help='rounds of fit_probe and cross_validate'),
        seed=dict(type=int, default=42, help="for the peer's head, order and augmentation"))
    facts = machine.facts()
    torch.set_num_threads(n_cores())
    with machine.empty_cache(): rows, detail = measure(args)
    machine.write(args.out, 'probe', command, facts, rows, dict(
        peer='fastai: DataBlock, Resize(460), aug_transforms, efficientnet_lite0 with a concat-pool head, fine_tune', weights=DEFAULT,
        settings={k: getattr(args, k) for k in ('minutes', 'lr', 'size', 'batch_size', 'seed')}, **detail))
    e = detail['ours_errors']
    print(f"ours: {rows[0]['ours_s_median']:.1f} s to {e['error_rate']:.1%} error ({e['interval'][0]:.1%} to {e['interval'][1]:.1%}), {e['errors']} of {e['n']}")
    for r in rows[:2]:
        print(f"fastai to {r['goal']} ({r['error']:.1%}): {'' if r['peer_reached'] else '> '}{r['peer_s']:.0f} s, ratio {'' if r['peer_reached'] else '> '}{r['ratio']:.1f} "
              f"(promised {PROMISED}); its best error {r['peer_best_error']:.1%}" + ('' if r['ours_reached'] else '; ours does not reach it either'))
    for r in rows[2:]: print(f"{r['goal']}: {r['ours_s_median']:.1f} s" + (f" for five folds, {r['error']:.1%} error (promised {r['promised']} or less)" if 'error' in r else ''))


if __name__ == '__main__': main()
