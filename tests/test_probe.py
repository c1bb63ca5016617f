"The probe: one linear layer, honestly judged, and the same answers once it is shipped."
import json
import random
import shutil
import threading
import time
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn
from packaging.version import Version

from lookalikes import probe as probe_module
from lookalikes.backbone import Backbone, Features
from lookalikes.classifier import BundleError, Classifier, signed_root
from lookalikes.imageset import ImageSet
from lookalikes.predictions import Predictions, predict
from lookalikes.probe import cross_validate, fit_probe, learning_curve
from lookalikes.ship import ship


def clusters(n=60, classes=('a', 'b', 'c'), dim=16, spread=1., seed=0, labels=None, groups=None):
    "An `ImageSet` of files that do not exist and their `Features`: a cloud around a random point for each class."
    rng = np.random.default_rng(seed)
    labels = list(labels if labels is not None else np.array(classes, object)[np.arange(n) % len(classes)])
    files, names = [f'{i:05}.jpg' for i in range(len(labels))], sorted(set(labels))
    centre = rng.standard_normal((len(names), dim)).astype(np.float32)
    X = centre[[names.index(o) for o in labels]] + spread*rng.standard_normal((len(labels), dim), dtype=np.float32)
    df = pd.DataFrame(dict(file=files, label=labels, group=groups if groups is not None else ''), dtype=object)
    facts = pd.DataFrame(dict(file=files, sha256=[f'{i:064}' for i in range(len(files))], width=9, height=9, reason='', cached=False))
    return ImageSet(df, 'nowhere'), Features(X, np.array(files, dtype=object), facts, Backbone.named())


def probabilities(probe, f):
    z = probe.logits(f.X).astype(np.float64)
    e = np.exp(z - z.max(1, keepdims=True))
    return e/e.sum(1, keepdims=True)


def test_it_learns_and_tells_its_error(tmp_path):
    images, f = clusters(300)
    p, cv = fit_probe(images, features=f), cross_validate(images, features=f)
    assert p.weight.shape == (3, 16) and p.bias.shape == (3,) and p.weight.dtype == np.float32
    assert cv.errors.rate < .1 and abs(p.oof.errors.rate - cv.errors.rate) < .05
    new, g = clusters(300, spread=1.)
    assert (probabilities(p, g).argmax(1) == [p.classes.index(o) for o in new.df.label]).mean() > .9


def test_noise_is_not_learnt():
    "What the folds say of labels without meaning is chance: nothing leaks from a fold to the model that is judged on it."
    images, f = clusters(300)
    rng = np.random.default_rng(1)
    cv = cross_validate(images.replace(label=rng.permutation(images.df.label)), features=f)
    assert .55 < cv.errors.rate < .78


@pytest.mark.parametrize('size, at_once', [(0, 6), (10, 6), (40, 2), (100, 1), (1000, 1)])
def test_as_many_at_once_as_there_is_room_for(monkeypatch, size, at_once):
    "A copy of a large set for each of 64 cores would be more than the machine has."
    monkeypatch.setattr(probe_module, 'n_cores', lambda: 6)
    monkeypatch.setattr(probe_module, 'ROOM', 100)
    lock, now, most = threading.Lock(), [0], [0]
    def job(i):
        with lock: now[0] += 1; most[0] = max(most[0], now[0])
        time.sleep(.02)
        with lock: now[0] -= 1
        return i
    assert probe_module._together([lambda i=i: job(i) for i in range(12)], size) == list(range(12)) and most[0] == at_once


def test_a_large_set_is_not_copied_for_each_fold(monkeypatch):
    "100,000 pictures are half a gigabyte of features: besides them and their roots there are the copies that two fits learn from."
    images, f = clusters(6000, dim=128, spread=.5)
    monkeypatch.setattr(probe_module, 'n_cores', lambda: 2)
    monkeypatch.setattr(probe_module, 'STRENGTHS', (1e-3,)*3)
    once = cross_validate(images, features=f).df        # loads what is loaded once
    tracemalloc.start()
    try:
        again = cross_validate(images, features=f).df
        most = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    limit = 6 if Version(sklearn.__version__) >= Version('1.9') else 8       # an older one copies them once more, as float64
    assert most < limit*f.X.nbytes, f'{most/f.X.nbytes:.1f} times the features'
    pd.testing.assert_frame_equal(once, again)


@pytest.mark.parametrize('n', [2, 1024, 1025, 3000])
def test_scaled_by_pieces_as_in_one(n):
    X = np.random.default_rng(n).standard_normal((n, 40), dtype=np.float32)
    X[:, 3], X[:, 4] = 0, 7
    kept = X.copy()
    mean, scale = probe_module._scaling(X)
    root = np.sqrt(X.std(0)+1e-6)
    assert np.allclose(mean, X.mean(0)) and np.allclose(scale, root*np.sqrt(((X-mean)/root).var(0).mean()+1e-12), rtol=1e-5)
    W, b = probe_module._fit(X, np.arange(n) % 2, 2, .01)
    assert np.array_equal(X, kept) and np.isfinite(W).all() and np.isfinite(b).all()       # scaled was a copy


def test_rooted_as_the_formula_says():
    x = np.array([[-4, -1e-9, 0, 1e-9, .25], [1e6, -1e6, 1, -1, 0]], np.float32)
    kept = x.copy()
    assert np.allclose(signed_root(x), np.sign(x)*(np.sqrt(np.abs(x)+.01)-.1), atol=1e-7) and np.array_equal(x, kept)
    assert signed_root(x).dtype == np.float32 and float(signed_root(2.25)) == pytest.approx(2.26**.5-.1, rel=1e-6)


def test_same_seed_same_numbers():
    images, f = clusters()
    a, b = (fit_probe(images, features=f, seed=3) for _ in range(2))
    assert np.array_equal(a.weight, b.weight) and np.array_equal(a.bias, b.bias) and a.strength == b.strength and a.losses == b.losses
    a, b = (cross_validate(images, features=f, seed=3).df for _ in range(2))
    pd.testing.assert_frame_equal(a, b)
    assert not cross_validate(images, features=f, seed=4).df.split.equals(a.split)


def test_order_of_rows_does_not_matter():
    images, f = clusters()
    order = np.random.default_rng(0).permutation(len(images))
    a, b = fit_probe(images, features=f), fit_probe(ImageSet(images.df.iloc[order], 'nowhere'), features=f)
    assert np.allclose(probabilities(a, f), probabilities(b, f), atol=.1)


@pytest.mark.parametrize('k', [2, 3, 5])
def test_no_group_straddles_folds(k):
    groups = [f'g{i//4}' if i % 3 else '' for i in range(120)]
    images, f = clusters(120, groups=groups)
    seen = []
    real = ImageSet.folds
    with pytest.MonkeyPatch.context() as m:
        m.setattr(ImageSet, 'folds', lambda self, *a, **kw: seen.append((self.df.group, out := real(self, *a, **kw))) or out)
        cv = cross_validate(images, k, features=f)
        fit_probe(images, features=f)
    assert len(seen) == k + 2  # outer, one inner for each, and that of fit_probe
    for group, folds in seen:
        t = pd.DataFrame(dict(group=group.to_numpy(), fold=folds))
        assert (t[t.group != ''].groupby('group').fold.nunique() == 1).all() and (t.fold >= 0).all()
    t = images.df.merge(cv.df[['file', 'split']].rename(columns=dict(split='fold')), on='file')
    assert len(cv) == 120 and cv.df.split.nunique() == k and (t[t.group != ''].groupby('group').fold.nunique() == 1).all()


def test_probabilities_sum_to_one():
    images, f = clusters(classes=tuple('abcdefg'), n=140)
    for p in (cross_validate(images, features=f), fit_probe(images, features=f).oof):
        assert np.abs(p.probs.sum(1) - 1).max() < 1e-5 and (p.probs >= 0).all() and p.df.confidence.between(1/7, 1).all()


def test_a_class_of_one_picture():
    images, f = clusters(labels=['a']*20 + ['b']*20 + ['rare'])
    p = fit_probe(images, features=f)
    assert p.classes == ['a', 'b', 'rare'] and p.oof is None and p.losses == {} and np.isfinite(p.weight).all()
    with pytest.raises(ValueError, match="'rare' has 1 usable picture.*at least 2"): cross_validate(images, features=f)


def test_one_picture_a_class():
    images, f = clusters(labels=['a', 'b'])
    assert np.isfinite(probabilities(fit_probe(images, features=f), f)).all()


def test_two_classes():
    images, f = clusters(80, classes=('yes', 'no'))
    p = fit_probe(images, features=f)
    assert p.classes == ['no', 'yes'] and np.allclose(p.weight[0], -p.weight[1]) and np.isclose(p.bias[0], -p.bias[1])
    assert cross_validate(images, features=f).errors.rate < .1


ODD = ['007', '7', '7.0', 'NA', 'nan', 'null', 'True', '1e5', 'a,b', 'a"b', "it's", ' two  spaces ', 'new\nline', '猫', '\N{CAT FACE}', 'É', 'E\N{COMBINING ACUTE ACCENT}', '<b>', '{x}', '%s', '-rf', 'p:', 'label', 'file']


def test_odd_labels(tmp_path):
    images, f = clusters(12*len(ODD), classes=tuple(ODD), dim=32, spread=.2)
    p = fit_probe(images, features=f)
    assert p.classes == sorted(ODD)
    cv = cross_validate(images, 2, features=f)
    assert cv.errors.rate < .05 and set(cv.df.pred) == set(ODD)
    assert list(cv.confusion().index) == sorted(ODD) and int(cv.confusion().to_numpy().trace()) == len(cv) - cv.errors.errors
    back = Predictions.load(cv.save(tmp_path/'p.parquet'))
    assert back.classes == cv.classes and list(back.df.label) == list(cv.df.label) and np.array_equal(back.probs, cv.probs)


def test_features_that_do_not_vary():
    images, f = clusters()
    f.X[:, 3] = 0
    f.X[:, 4] = 1e4
    p = fit_probe(images, features=f)
    assert np.isfinite(probabilities(p, f)).all() and p.oof.errors.rate < .2


def test_split_decides_what_is_learnt():
    images, f = clusters(120)
    split = ['train' if i < 60 else 'valid' for i in range(120)]
    a = fit_probe(images.replace(split=split), features=f)
    b = fit_probe(images.where([s == 'train' for s in split]), features=f)
    assert np.array_equal(a.weight, b.weight) and len(a.oof) == 60
    curve = learning_curve(images.replace(split=split), f, sizes=(2, 5, 10))
    assert list(curve.n) == [2, 5, 10, 20] and (curve.low <= curve.error).all() and (curve.error <= curve.high).all()


def test_refuses_what_cannot_be_told_apart():
    images, f = clusters()
    for fit in fit_probe, cross_validate:
        with pytest.raises(ValueError, match=r'1 class\(es\) \(a\); telling apart needs at least two'): fit(images.replace(label='a'), features=f)
        with pytest.raises(ValueError, match=r'0 class\(es\); telling apart'): fit(images.replace(label=''), features=f)
        with pytest.raises(ValueError, match='0 class'): fit(images.replace(status='unreadable', reason='x').replace(sha256=''), features=SimpleNamespace(facts=f.facts.assign(reason='x')))
    with pytest.raises(ValueError, match='at least two'): fit_probe(images.replace(split=['train' if o == 'a' else 'valid' for o in images.df.label]), features=f)
    with pytest.raises(ValueError, match='1 folds: need at least 2'): cross_validate(images, 1, features=f)
    with pytest.raises(ValueError, match='needs a split'): learning_curve(images, f)


def test_five_folds_of_37_breeds_take_seconds():
    images, f = clusters(1766, classes=tuple(f'breed {i:02}' for i in range(37)), dim=1280, spread=4.)
    start = time.perf_counter()
    cv = cross_validate(images, 5, features=f)
    took = time.perf_counter() - start
    print(f'{took:.1f} s, {cv.errors}')
    assert took < 20, f'{took:.1f} s'  # 10 s, and as much again for a busy machine


# Shipped

def test_a_shipped_probe_gives_the_same_probabilities(drawn, tmp_path):
    images = ImageSet.from_folder(drawn).split(valid=.3, seed=1)
    p = fit_probe(images)
    before = predict(p, images)
    c = ship(p, tmp_path/'m', before, extras={'note.txt': b'kept'})
    after = predict(Classifier.load(tmp_path/'m'), images)
    assert list(after.df.file) == list(before.df.file) and list(after.df.split) == list(before.df.split)
    assert np.abs(after.probs - before.probs).max() < 1e-3 and list(after.df.pred) == list(before.df.pred)
    assert c.info['metrics']['valid'] == before.where(split='valid').errors.to_dict() and (tmp_path/'m/note.txt').read_bytes() == b'kept'
    answers = list(c.predict_files(images.paths, workers=3))
    assert [a['file'] for a in answers] == [str(o) for o in images.paths]
    assert np.allclose([[a['probabilities'][o] for o in c.classes] for a in answers], after.probs, atol=1e-5)


def flip(file, at, by):
    "Change one byte; what it was and what it is."
    with open(file, 'r+b') as f:
        f.seek(at)
        old = f.read(1)
        f.seek(at)
        f.write(new := bytes([old[0] ^ by]))
    return old, new


def test_every_changed_byte_is_refused(bundle, drawn, tmp_path):
    shutil.copytree(bundle, tmp_path/'m')
    (tmp_path/'m/extra.txt').write_text('not a part')
    Classifier.load(tmp_path/'m')
    rng = random.Random(0)
    parts = ['bundle.json', *json.loads((tmp_path/'m/bundle.json').read_text())['parts']]
    for i in range(200):
        file = tmp_path/'m'/parts[i % len(parts)]
        at, by = rng.randrange(file.stat().st_size), rng.randrange(1, 256)
        old, new = flip(file, at, by)
        if not (file.name == 'bundle.json' and old.isspace() and new.isspace()):  # white space between the values says nothing
            with pytest.raises(BundleError, match=r'changed|damaged|newer than|names no format|lists no'): Classifier.load(tmp_path/'m')
        flip(file, at, by)
    Classifier.load(tmp_path/'m')


def test_a_bundle_with_a_pickle_is_refused(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path/'m')
    (tmp_path/'m/export.pkl').write_bytes(b'cos\nsystem\n')
    with pytest.raises(BundleError, match='pickle'): Classifier.load(tmp_path/'m')


# The numbers agree with others'

@pytest.fixture(scope='module')
def mixed():
    "Predictions of which about a third are wrong."
    rng, classes = np.random.default_rng(0), list('abcdef')
    y = rng.integers(0, 6, 400)
    z = rng.standard_normal((400, 6)) + 1.6*np.eye(6)[y]
    p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    return Predictions.of([f'{i}.jpg' for i in range(400)], [classes[i] for i in y], p, classes), y, p


def test_numbers_agree_with_scikit_learn(mixed):
    from sklearn import metrics
    preds, y, p = mixed
    said = p.argmax(1)
    assert np.isclose(1-preds.errors.rate, metrics.accuracy_score(y, said)) and .2 < preds.errors.rate < .5
    assert (preds.confusion().to_numpy() == metrics.confusion_matrix(y, said)).all()
    assert np.isclose(preds.df.loss.mean(), metrics.log_loss(y, p), rtol=1e-4)
    t = preds.per_class().loc[list('abcdef')]
    precision, recall, _, n = metrics.precision_recall_fscore_support(y, said)
    assert np.allclose(t.precision, precision) and np.allclose(t.recall, recall) and (t.n == n).all()


def test_most_confused_agrees_with_fastai(mixed):
    import torch
    from fastai.interpret import ClassificationInterpretation
    preds, y, p = mixed
    said = torch.tensor(p.argmax(1))
    learn = SimpleNamespace(get_preds=lambda **kw: (torch.tensor(p), torch.tensor(y), said), dls=None)
    interp = ClassificationInterpretation(learn, SimpleNamespace(vocab=[preds.classes]), torch.tensor(preds.df.loss.to_numpy()))
    for least in 1, 5, 12:
        ours, theirs = preds.most_confused(least), interp.most_confused(least)
        assert sorted(ours) == sorted((a, b, int(n)) for a, b, n in theirs) and [o[2] for o in ours] == [int(o[2]) for o in theirs]
    assert (interp.confusion_matrix() == preds.confusion().to_numpy()).all()
