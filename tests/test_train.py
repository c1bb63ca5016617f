"Fine-tuning: killed and gone on, the same twice, every kind of network, and what is said when something is missing."
import json
import os
import signal
import time

import forked
import numpy as np
import pytest
import torch
from conftest import at_length

from lookalikes.backbone import Backbone
from lookalikes.draw import draw
from lookalikes.loaders import Augment
from lookalikes.predictions import predict
from lookalikes.probe import fit_probe
from lookalikes.ship import ship
from lookalikes.train import Ensemble, Views, finetune, image_learner, ladder, three_groups, with_valid

posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX processes and signals')
COMMAND = 'from lookalikes.cli import main; main()'


@pytest.fixture(scope='module')
def images(tmp_path_factory): return draw('chihuahua_or_muffin', n=15, size=96, seed=3, classes=['chihuahua', 'dalmatian', 'muffin'], path=tmp_path_factory.mktemp('drawn')/'set').split(valid=.2, test=.2, seed=0)


@pytest.fixture(scope='module')
def small(): return Backbone.named(size=64)


def trained(images, b, epochs=2, **how):
    learn = image_learner(images, b, seed=1, bs=16, progress=False, **how)
    with learn.no_bar(), learn.no_logging(): return finetune(learn, epochs)


def test_the_same_twice(images, small):
    "Same seed, same numbers; another seed, others."
    a, b = trained(images, small), trained(images, small)
    for k, v in a.model.state_dict().items(): assert torch.equal(v, b.model.state_dict()[k]), k
    assert a.recorder.values == b.recorder.values
    other = image_learner(images, small, seed=2, bs=16, progress=False)
    assert not torch.equal(other.dls.one_batch()[0], a.dls.one_batch()[0])


def test_never_worse_than_the_probe(images, small):
    "On the validation pictures, whatever the learning rate."
    exam = images.where(images.df.split == 'valid')
    before = predict(fit_probe(images, small, seed=1), exam).errors.errors
    for lr in (1e-3, 1.):
        learn = image_learner(images, small, seed=1, bs=16, progress=False)
        with learn.no_bar(), learn.no_logging(): finetune(learn, 2, lr)
        assert predict(learn, exam).errors.errors <= before+1     # bfloat16 may turn a close call
        assert np.isfinite(predict(learn, exam).probs).all()


@pytest.mark.parametrize('name', ['mobilenetv3_small_100', 'convnext_atto', *(pytest.param(o, marks=at_length) for o in ('resnet34', 'resnet50', 'vit_tiny_patch16_224'))])
def test_any_network(images, name, tmp_path):
    "Trains, takes other sizes where the network can, ships, and answers alike; random weights."
    b, images = Backbone.named(name, size=None if 'vit' in name else 64, pretrained=False), images.where(images.df.label.isin(images.classes[:2]))
    learn = trained(images, b, 1, probe=False)
    sizes = [sum(p.numel() for p in g) for g in three_groups(learn.model)]
    assert all(sizes) and sum(sizes) == sum(p.numel() for p in learn.model.parameters()) and sizes[1] > .3*sum(sizes)
    if 'vit' not in name:
        larger = image_learner(images, b, probe=False, size=96, seed=1, bs=16, progress=False)
        larger.model.load_state_dict(learn.model.state_dict())
        assert larger.dls.one_batch()[0].shape[-1] == 96
        with larger.no_bar(), larger.no_logging(): larger.fine_tune(1, 1e-4)
    assert np.abs(predict(ship(learn, tmp_path/'model'), images).probs - predict(learn, images).probs).max() < 1e-3


def test_weights_out_of_reach(images, monkeypatch):
    "A network whose weights cannot be downloaded is named, and what to do instead."
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr('socket.create_connection', lambda *a, **k: (_ for _ in ()).throw(OSError('no network')))
    with pytest.raises(ConnectionError, match="resnet34.*efficientnet_lite0"): image_learner(images, 'resnet34')


@posix
def test_killed_in_the_third_epoch(images, tmp_path, warm):
    "kill -9, the same command again: the bundle's weights are those of a run that was left in peace."
    def start(out): return warm.start(forked.python, ['-c', COMMAND, 'train', str(images.path), '--out', str(tmp_path/out), '--fit', 'finetune', '--epochs', '4', '--size', '64', '-q', '--json'])
    whole = warm.end(start('whole'), timeout=300)
    assert whole.returncode == 0, whole.stderr
    p, state = start('killed'), tmp_path/'.killed.training'/'whole'/'run0.pt'
    def epochs():
        try: return torch.load(state, weights_only=True)['done']
        except (OSError, EOFError, RuntimeError): return 0
    written = set()      # when: asked of the file system, since reading the state takes about as long as an epoch
    while p.is_alive() and len(written) < 2:
        if state.exists(): written.add(state.stat().st_mtime_ns)
        time.sleep(.002)
    warm.kill(p)
    assert p.exitcode == -signal.SIGKILL and 2 <= epochs() < 4
    assert not (tmp_path/'killed').exists()
    again = warm.end(start('killed'), timeout=300)
    assert again.stderr == '' and again.returncode == 0
    for part in ('weights.safetensors', 'head.safetensors'): assert (tmp_path/'killed'/part).read_bytes() == (tmp_path/'whole'/part).read_bytes(), part
    assert not (tmp_path/'.killed.training').exists()


def test_command_with_folds(images, tmp_path, warm):
    "`--folds` judges every picture by a network fine-tuned without it; what the command prints, and what it leaves."
    bare = tmp_path/'pictures'
    for f, label in zip(images.df.file, images.df.label):
        (bare/label).mkdir(parents=True, exist_ok=True)
        (bare/label/f.replace('/', '_')).write_bytes((images.path/f).read_bytes())
    r = warm.python('-c', COMMAND, 'train', bare, '--out', tmp_path/'model', '--fit', 'finetune', '--epochs', '1', '--size', '64', '--folds', '2', '--no-mirror', '-q', '--json', timeout=300)
    assert r.returncode == 0 and r.stderr == '', r.stderr
    told = json.loads(r.stdout)
    assert told['folds']['n'] == told['n'] == len(images) and told['valid']['n'] == told['test']['n'] == len(images)//5
    about = json.loads((tmp_path/'model'/'bundle.json').read_text())
    assert about['kind'] == 'finetuned' and about['networks'][0]['preprocess']['size'] == 64 and about['metrics']['test']['n'] == told['test']['n']
    page = (tmp_path/'model'/'report.html').read_text()
    assert 'fine-tuned for 1 epoch' in page and 'beside its probe' in page and '--no-mirror' in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ['model', 'pictures']


def test_ladder_over_folds_and_seeds(images, small):
    "Every picture in the exam once a seed; rungs that buy nothing are not built upon."
    none = images.replace(split='')
    climbed = ladder(none, ('probe', 'several views'), folds=3, seeds=(0, 1), backbone=small, patience=None, progress=False)
    for r in climbed.rungs:
        assert len(r.preds) == 2 and all(sorted(p.df.file) == sorted(none.df.file) for p in r.preds)
        assert r.seconds > 0 or r.name == 'several views'
    assert climbed.rungs[1].against == 'probe' and climbed.best in ('probe', 'several views') and 0 < climbed.rungs[1].p <= 1
    assert climbed.table.loc['probe', 'n'] == len(none)
    with pytest.raises(ValueError, match='no rung'): ladder(none, ('stairs',))


@pytest.mark.parametrize('rung, network', [('larger network', 'efficientnet_lite2'), ('ensemble', 'efficientnet_lite1')])
def test_weights_that_no_rung_needs(images, small, monkeypatch, rung, network):
    "A network that is not installed stops a climb before it begins, and only one that has a rung for it."
    from lookalikes import backbone
    monkeypatch.setitem(backbone._BUNDLED, network, ('no_such_package', *backbone._BUNDLED[network][1:]))
    assert ladder(images, ('probe', 'several views'), seeds=(None,), backbone=small, patience=None, progress=False).rungs
    with pytest.raises(ImportError, match='no_such_package'): ladder(images, ('probe', rung), seeds=(None,), backbone=small, progress=False)


def test_rungs_of_ones_own(images, small):
    "A climb ends after a rung that buys nothing."
    asked = []
    def same(c): asked.append(c.best); return c.made[c.best]
    climbed = ladder(images, {'probe': lambda c: fit_probe(c.images, c.backbone, seed=c.seed), 'same': same, 'never': same}, seeds=(None,), backbone=small, progress=False)
    assert [r.name for r in climbed.rungs] == ['probe', 'same'] and asked == ['probe'] and not climbed.rungs[1].kept and climbed.rungs[1].p == 1


def test_answers_together(images, small):
    "An ensemble and several views answer with the mean; classes and pictures must agree."
    a, b = fit_probe(images, small, seed=0), fit_probe(images, Backbone.named(size=96), seed=0)
    both = predict(Ensemble([a, b]), images)
    assert np.allclose(both.probs, (predict(a, images).probs+predict(b, images).probs)/2, atol=1e-6)
    assert np.allclose(predict(Views(a, (.875,)), images).probs, predict(a, images).probs, atol=1e-6)
    two = images.where(images.df.label.isin(images.classes[:2]))
    with pytest.raises(ValueError, match='same classes'): predict(Ensemble([a, fit_probe(two, small)]), two)


def test_without_a_store(images, small, monkeypatch):
    "Where decoded pictures may not be kept, they are opened one by one, and the answers are the same."
    learn = trained(images, small, 1)
    kept = predict(learn, images)
    monkeypatch.setenv('LOOKALIKES_PIXELS_GIB', '0')
    assert np.array_equal(predict(learn, images).probs, kept.probs)
    bare = trained(images, small, 1)
    assert not bare.dls.store.kept and len(predict(bare, images)) == len(images)


def test_another_experiment(images, small, tmp_path):
    "State that belongs to other pictures, another split or other settings is refused, and named."
    trained(images, small, 1, folder=tmp_path/'state')
    for other, how in ((images.split(valid=.2, test=.2, seed=9), {}), (images, dict(smooth=0.)), (images, dict(augment=Augment(flip=False)))):
        with pytest.raises(ValueError, match='another training run'): trained(other, small, 1, folder=tmp_path/'state', **how)


def test_with_valid(images):
    "Validation pictures come from the training pictures, the others stay."
    split = images.df.split.replace('valid', 'train')
    got = with_valid(images.replace(split=split), 0)
    assert (got.df.split[split == 'test'] == 'test').all() and (got.df.split == 'valid').sum() == len(images.classes)*round(.2*12)
    assert with_valid(images).df.split.equals(images.df.split)


def test_unequal_classes(images, small):
    "With `balance`, a rare class weighs more in the loss; without, all weigh the same."
    few = images.where(((images.df.label != 'muffin') | (images.df.groupby('label').cumcount() < 8)).to_numpy())
    learn = image_learner(few, small, seed=1, bs=16, balance=True, augment=Augment(flip=False), progress=False)
    weight = dict(zip(learn.dls.vocab, learn.loss_func.func.weight.tolist()))
    assert weight['muffin'] == max(weight.values()) > 1.2*weight['chihuahua']


def test_ends_early(images, small):
    "With `patience`, a run that gets no better ends before its last epoch; the probe, which was best, stays."
    learn = image_learner(images, small, seed=1, bs=16, patience=1, progress=False)
    with learn.no_bar(), learn.no_logging(): finetune(learn, 6, 1.)
    assert 2 <= len(learn.recorder.values) < 6
    assert predict(learn, images.where(images.df.split == 'valid')).errors.rate < .5
