"Training on two processes: the numbers of one, one writer, and what is left when one of them dies."
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import at_length

pytest.importorskip('accelerate')
pytestmark = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX processes and signals')

FILE = Path(__file__)
EPOCHS, LR = 3, 1e-4


def learner(job, bs, augment=None, folder=None, cbs=None):
    "A learner in float32: rounding to bfloat16 would hide what several processes do wrong."
    from fastai.metrics import F1Score
    from lookalikes.backbone import Backbone
    from lookalikes.callbacks import Bfloat16
    from lookalikes.imageset import ImageSet
    from lookalikes.train import image_learner
    learn = image_learner(ImageSet.load(job['images']), Backbone.named(size=64), bs=bs, seed=1, augment=augment, folder=folder, cbs=cbs, device='cpu', progress=False)
    learn.remove_cb(Bfloat16)
    learn.metrics = [*learn.metrics, F1Score(average='macro')]
    return learn


def trained(learn, epochs=EPOCHS):
    from lookalikes.train import finetune
    with learn.no_bar(), learn.no_logging(), learn.distrib_ctx(): finetune(learn, epochs, LR)
    return learn


def weights(learn): return np.concatenate([p.detach().numpy().ravel() for p in learn.model.parameters()])


def facts(learn):
    "What training has arrived at."
    return dict(values=np.array([list(v) for v in learn.recorder.values], float), weights=weights(learn), best=learn.keep_best.best, score=np.array(learn.keep_best.score), kind=type(learn.model).__name__, lr=np.array(learn.recorder.lrs))


def refusal(f):
    try: f()
    except ValueError as e: return str(e)


def everything(job, rank, renamed):
    "One launch, several questions: importing everything takes longer than the training."
    import torch
    from lookalikes.imageset import ImageSet
    from lookalikes.loaders import ShareDL
    from lookalikes.predictions import predict
    from lookalikes.ship import ship
    images, out = ImageSet.load(job['images']), Path(job['out'])
    learn = learner(job, 4, folder=out/'state')
    said = [refusal(lambda: learn.fit(1))]
    with learn.no_bar(), learn.distrib_ctx(): said.append(refusal(lambda: learn.lr_find(show_plot=False)))
    trained(learn)
    got = facts(learn) | dict(probs=predict(learn, images).probs, threads=torch.get_num_threads())
    if not rank: ship(learn, out/'model')
    with learn.no_bar(): got |= dict(own=learn.get_preds()[0].numpy())
    with learn.no_bar(), learn.no_logging(), learn.distrib_ctx(): got |= dict(inside=learn.get_preds()[0].numpy(), validated=np.array(learn.validate()))
    twice = [facts(trained(learner(job, 4, augment=True), 1)) for _ in range(2)]
    another = learner(job, 4, augment=True)
    for run, o in zip('ab', twice): got |= {f'{k}_{run}': o[k] for k in ('values', 'weights')}
    shared = another.dls.train.new(cls=ShareDL, share=(rank, 2))
    got |= dict(said=np.array(said), piece=shared.one_batch()[0].numpy(), renamed=np.array([os.path.relpath(f, out) for f in renamed]))
    np.savez(out/f'{rank}.npz', **got)


def interrupted(job, rank, renamed):
    "The second of the processes kills itself in the second epoch, if it is told to."
    from fastai.callback.core import Callback
    class Die(Callback):
        def before_batch(self):
            if job['die'] and rank == 1 and self.training and self.epoch == 1: os.kill(os.getpid(), signal.SIGKILL)
    np.savez(Path(job['out'])/f'{rank}.npz', **facts(trained(learner(job, 4, folder=Path(job['out'])/'state', cbs=[Die()]))))


def launch(cache, **job):
    "Start two processes of this file; what they leave, and how it ended."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    began = time.monotonic()
    env = {k: v for k, v in os.environ.items() if k != 'OMP_NUM_THREADS'} | dict(LOOKALIKES_CACHE=str(cache))
    command = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', str(port)]
    r = subprocess.run([*command, FILE, json.dumps(job)], capture_output=True, text=True, env=env, timeout=240)
    files = [Path(job['out'])/f'{rank}.npz' for rank in (0, 1)]
    return SimpleNamespace(code=r.returncode, err=r.stderr, seconds=time.monotonic()-began, ranks=[dict(np.load(f)) for f in files if f.exists()])


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "Drawn cats and dogs: thirty to train on, and twenty-three to validate on, which two processes cannot share evenly."
    from lookalikes.draw import draw
    images = draw('cats_or_dogs', n=30, size=96, seed=0, path=tmp_path_factory.mktemp('drawn')/'set').split(valid=.4, test=.1, seed=0)
    valid = np.flatnonzero(images.df.split == 'valid')
    split = images.df.split.to_numpy(object).copy()
    split[valid[0]] = ''
    images = images.replace(split=split)
    images.save()
    assert (images.df.split == 'valid').sum() == 23
    return images


@pytest.fixture(scope='module')
def alone(images):
    "One process, batches of eight, and like the two processes a single thread."
    import fastai.distributed  # noqa: F401 patches Learner
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    learn = learner(dict(images=str(images.path)), 8)
    before = weights(learn)
    trained(learn)
    torch.set_num_threads(threads)
    return SimpleNamespace(before=before, **facts(learn))


@pytest.fixture(scope='module')
def cold(cache, alone, tmp_path_factory):
    "A cache with the session's graphs, and nothing decoded or embedded yet."
    path = tmp_path_factory.mktemp('cache')
    (path/'graphs').symlink_to(cache/'graphs')
    return path


@pytest.fixture(scope='module')
def out(tmp_path_factory): return tmp_path_factory.mktemp('two')


@pytest.fixture(scope='module')
def two(images, cold, out):
    "Two processes, batches of four each."
    r = launch(cold, do='everything', images=str(images.path), out=str(out))
    assert r.code == 0 and len(r.ranks) == 2, r.err
    return r.ranks


def test_the_numbers_of_one_process(alone, two):
    "Losses, errors and F1 after every epoch, the epoch chosen, and the weights, which differ by rounding alone."
    for rank in two:
        assert rank['kind'] == 'Sequential' and len(rank['values']) == EPOCHS
        assert np.allclose(rank['values'][:, :2], alone.values[:, :2], atol=1e-3) and np.allclose(rank['values'][:, 2:], alone.values[:, 2:], atol=1e-6)
        assert np.allclose(rank['lr'], alone.lr) and len(rank['lr']) == EPOCHS*(30//8)
        assert rank['best'] == alone.best and rank['score'][0] == alone.score[0]
        moved = np.linalg.norm(alone.weights-alone.before)
        assert moved > 0 and np.linalg.norm(rank['weights']-alone.weights) < .05*moved


def test_every_picture_counts_once(two, images):
    "Errors are whole numbers of twenty-three; and in every process the same."
    for rank in two:
        errors = rank['values'][:, 2]*23
        assert np.allclose(errors, errors.round(), atol=1e-4) and rank['own'].shape == rank['inside'].shape == (23, 2)
        assert np.allclose(rank['own'], rank['inside'], atol=1e-6)
        wrong = (rank['own'].argmax(1) != [images.classes.index(o) for o in images.df.label[images.df.split == 'valid']]).sum()
        assert wrong == rank['score'][0] and np.isclose(rank['validated'][1]*23, wrong, atol=1e-4)


def test_alike_in_both(two, images, out):
    "Weights, numbers and answers of the two are equal to the last bit, and the bundle's answers are theirs."
    from lookalikes.classifier import Classifier
    from lookalikes.predictions import predict
    for k in ('weights', 'values', 'probs', 'own', 'validated', 'weights_a', 'values_a'): assert np.array_equal(two[0][k], two[1][k]), k
    assert np.abs(predict(Classifier.load(out/'model'), images).probs - two[0]['probs']).max() < 1e-3


def test_with_augmentation(two):
    "Trained twice, the same; and each process cuts its own pieces."
    for rank in two:
        assert np.array_equal(rank['weights_a'], rank['weights_b']) and np.array_equal(rank['values_a'], rank['values_b'])
        assert not np.array_equal(rank['weights_a'], rank['weights'])
    assert two[0]['piece'].shape == two[1]['piece'].shape and not np.array_equal(two[0]['piece'], two[1]['piece'])


def test_one_writer(two, out):
    "The state is written by the first process alone, and each store of pixels by one of them."
    state = [[f for f in rank['renamed'] if f.startswith('state')] for rank in two]
    assert state == [['state/run0.pt']*EPOCHS, []] and os.listdir(out/'state') == ['run0.pt']
    stores = [f for rank in two for f in rank['renamed'] if f.endswith('.npy')]
    assert len(stores) == len(set(stores)) == 2


def test_cores_and_refusals(two):
    "Each has its part of the cores; and what would train apart is refused, in all of them."
    from lookalikes.picture import n_cores
    for rank in two:
        assert rank['threads'] == max(1, n_cores()//2)
        apart, search = rank['said']
        assert 'distrib_ctx' in apart and 'lr_find' in search


@at_length
def test_one_is_killed(two, images, cold, tmp_path):
    "The launcher ends the other one and says so; launched again, training goes on after the last whole epoch and ends where it would have."
    import torch
    job = dict(do='interrupted', images=str(images.path), out=str(tmp_path))
    first = launch(cold, **job, die=True)
    assert first.code not in (0, None) and first.ranks == [] and 'SIGKILL' in first.err and first.seconds < 120
    assert torch.load(tmp_path/'state'/'run0.pt', weights_only=True)['done'] == 1 and os.listdir(tmp_path/'state') == ['run0.pt']
    again = launch(cold, **job, die=False)
    assert again.code == 0, again.err
    for rank, whole in zip(again.ranks, two, strict=True):
        for k in ('weights', 'values', 'best', 'score', 'lr'): assert np.array_equal(rank[k], whole[k]), k


def test_the_flag_that_starts_one_process(images, monkeypatch):
    "accelerate launch --cpu says nothing about it, so somebody must."
    from lookalikes.loaders import own_device
    for k, v in dict(ACCELERATE_USE_CPU='True', MASTER_ADDR='127.0.0.1').items(): monkeypatch.setenv(k, v)
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    with pytest.warns(UserWarning, match='torchrun'): assert own_device() is False


if __name__ == '__main__':
    import fastai.distributed  # noqa: F401 patches Learner
    renamed, job = [], json.loads(sys.argv[1])
    sys.addaudithook(lambda event, args: renamed.append(os.fspath(args[1])) if event == 'os.rename' else None)
    {'everything': everything, 'interrupted': interrupted}[job['do']](job, int(os.environ['RANK']), renamed)
