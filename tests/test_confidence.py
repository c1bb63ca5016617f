"Calibration, abstaining, label sets and strangers, where the truth is known because it was made."
import json
import os

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, at_length

from lookalikes.calibration import Calibration, softmax
from lookalikes.confidence import AUROC, _bins, _gap, _loss, _logits, _steps, _threshold, auroc, calibrate, plot_scores
from lookalikes.predictions import Predictions

CLASSES = list('abcde')


def made(n=2000, k=5, T=1., seed=0, split='valid', scale=2., dim=None, classes=None, shift=0.):
    "Predictions whose labels are drawn from softmax(z), and which say softmax(z*T): the right temperature is T."
    rng = np.random.default_rng(seed)
    z = rng.normal(0, scale, (n, k))
    y = (softmax(z).cumsum(1) > rng.random((n, 1))).argmax(1)
    classes = classes or CLASSES[:k]
    X = rng.normal(shift, 1, (n, dim)).astype(np.float32) if dim else None
    return Predictions.of([f'{split}{i:05}.jpg' for i in range(n)], [classes[i] for i in y], softmax(z*T), classes, split, logits=z*T, features=X)


def joined(*preds):
    return Predictions(pd.concat([p.df for p in preds]), preds[0].classes, features=None if preds[0].features is None else np.concatenate([p.features for p in preds]))


# Temperature

@pytest.mark.parametrize('T', [.4, 1., 1.7, 5.])
def test_temperature_is_found(T):
    found = [calibrate(made(T=T, seed=s)).temperature for s in range(3)]
    assert np.mean(found) == pytest.approx(T, rel=.05) and np.ptp(found) < .2*T


@pytest.mark.parametrize('T', [.3, 1., 4.])
@pytest.mark.parametrize('n', [1, 3, 20, 300])
def test_never_worse_on_validation(n, T):
    for seed in range(5):
        p = made(n, T=T, seed=seed)
        c = calibrate(p)
        before, after = (o.df.loss.astype(float).mean() for o in (p, p.calibrated(c)))
        assert after <= before + 1e-5 and c.measured['loss'][1] <= c.measured['loss'][0]


def test_it_is_the_least_loss():
    p = made(5000, T=3.)
    z, y, T = _logits(p), np.array([p.classes.index(o) for o in p.df.label]), calibrate(p).temperature
    assert all(_loss(z, y, T) < _loss(z, y, T*o) for o in (.9, .95, 1.05, 1.1))


def test_only_validation_counts():
    valid, train, test = made(400, T=2.), made(500, T=.1, seed=1, split='train'), made(500, T=9, seed=2, split='test')
    assert calibrate(joined(train, valid, test)).temperature == calibrate(valid).temperature


def test_answers_stay_and_energy_stays():
    p = made(300, T=2., dim=4)
    q = p.calibrated(Calibration(2.5))
    assert list(q.df.pred) == list(p.df.pred) and np.array_equal(q.df.energy, p.df.energy) and np.array_equal(q.features, p.features)
    assert np.allclose(p.calibrated(Calibration(1.)).probs, p.probs, atol=1e-6)
    logits = np.log(p.probs)   # whatever constant was lost
    assert np.allclose(q.probs, Calibration(2.5).probs(logits), atol=1e-5)


@pytest.mark.parametrize('right', [True, False])
def test_all_right_or_all_wrong(right):
    "A few pictures teach no certainty, however good or bad they are."
    p = np.tile([.8, .2] if right else [.2, .8], (20, 1))
    preds = Predictions.of([f'{i}.jpg' for i in range(20)], ['a']*20, p, ['a', 'b'], 'valid')
    c = calibrate(preds)
    assert (.3 < c.temperature < 1) if right else (1 < c.temperature < 20)
    assert np.isfinite(preds.calibrated(c).probs).all() and preds.errors.errors == (0 if right else 20)


def test_probabilities_of_0_and_1():
    p = Predictions.of(['a.jpg', 'b.jpg', 'c.jpg'], ['a', 'a', 'b'], [[1, 0], [0, 1], [0, 1]], ['a', 'b'], 'valid')
    c = calibrate(p, coverage=.5)
    assert c.temperature > 1 and np.isfinite(p.calibrated(c).probs).all() and p.label_sets(c).n == 3


# Calibration error

def test_calibration_error_by_hand():
    p = Predictions.of(list('wxyz'), ['a', 'a', 'b', 'b'], [[.9, .1], [.8, .2], [.7, .3], [.4, .6]], ['a', 'b'])
    e = p.ece(bins=2)    # .6 right and .7 wrong; .8 right and .9 right
    assert e.value == pytest.approx((abs(.65-.5) + abs(.85-1))/2) and (e.n, e.bins) == (4, 2)
    t = p.reliability(2)
    assert t.n.tolist() == [2, 2] and t.accuracy.tolist() == [.5, 1] and np.allclose(t.confidence, [.65, .85]) and (t.low < t.accuracy + 1e-9).all()


def test_calibration_error_of_a_calibrated_model_is_chance():
    found = [made(1000, seed=s).ece(n=200) for s in range(12)]
    assert np.mean([e.value for e in found]) == pytest.approx(np.mean([e.chance for e in found]), rel=.2)
    assert sum(e.interval[0] <= .015 for e in found) >= 11     # next to none, the bias taken off
    off = [made(1000, T=4., seed=s).ece(n=200) for s in range(3)]
    assert all(e.value > 4*e.chance and e.interval[0] > .1 and e.interval[0] <= e.corrected <= e.interval[1] for e in off)


def test_temperature_lowers_it_on_pictures_not_seen():
    for T in (.4, 3.):
        c, test = calibrate(made(500, T=T)), made(3000, T=T, seed=9, split='test')
        assert test.calibrated(c).ece(n=20).value < test.ece(n=20).value/3


def test_bins_hold_all_pictures():
    for n in (1, 2, 7, 10, 101):
        edge = _bins(n, 10)
        assert edge[0] == 0 and edge[-1] == n and np.diff(edge).min() >= 1 and np.ptp(np.diff(edge)) <= 1
        assert _gap(np.full(n, .7), np.ones(n), edge) == pytest.approx(.3)


# Thresholds

def test_threshold_keeps_its_promise():
    "The true error above the threshold exceeds the wish in at most 5 % of the cases (and chance in 2,000 cases)."
    rng, broken, made_ = np.random.default_rng(1), 0, 0
    for _ in range(2000):
        p = rng.uniform(.5, 1, 300)
        t = _threshold(p, rng.random(300) >= p, .12, .05)
        if t is None: continue
        made_ += 1
        broken += (1-max(t, .5))/2 > .12
    assert made_ > 500 and broken <= .065*2000


def test_threshold_by_hand():
    p = np.linspace(.99, .5, 100)
    none, last = np.zeros(100, bool), np.r_[np.zeros(60, bool), np.ones(40, bool)]
    assert _steps(100, .05, .05) == [(59, 0), (93, 1), (100, 1)] and _steps(58, .05, .05) == [(58, -1)] and _steps(400, .05, .05)[0][0] >= 100
    assert _threshold(p, none, .05, .05) == 0                        # 100 without a mistake: answer everything
    assert _threshold(p[:58], none[:58], .05, .05) is None           # 58 are one too few
    assert _threshold(p[:59], none[:59], .05, .05) == 0
    assert _threshold(p, last, .05, .05) == p[58]                    # 59 sure ones pass, the next step fails
    assert _threshold(np.full(100, .9), last, .05, .05) is None      # of equals none can be preferred


def test_one_sure_mistake_does_not_end_it():
    p, wrong = np.linspace(1, .5, 2000), np.zeros(2000, bool)
    wrong[[3, *range(1500, 2000)]] = True
    t = _threshold(p, wrong, .05, .05)
    assert t < p[1450] and wrong[p >= t].mean() < .05


def test_wanted_answers():
    p = made(1000)
    c = calibrate(p, answered=.8)
    assert p.answered(c).sum() == 800 == c.measured['threshold']['answered']
    assert made(3000, seed=5).answered(c).mean() == pytest.approx(.8, abs=.04)


def test_threshold_that_cannot_be():
    with pytest.raises(ValueError, match=r'at most 1\.0%: that takes 299 pictures without a mistake, and there are 50\..*cross_validate'): calibrate(made(50), error=.01)
    with pytest.raises(ValueError, match=r'of the \d+ surest pictures at most \d+ may be wrong, and \d+ are'): calibrate(made(500, T=1, scale=.1), error=.1)
    c = calibrate(made(50), error=.2, held_out=made(3000, seed=3, split='fold 1'))
    assert c.measured['pictures'] == 3000 and c.measured['rows'] == 'held out' and c.measured['threshold']['wanted_error'] == .2


def test_coverage_curve():
    p = made(500, scale=3.)
    t = p.coverage_curve()
    assert len(t) == 50 and t.coverage.iloc[-1] == 1 and t.errors.iloc[-1] == p.errors.errors and t.coverage.is_monotonic_increasing and t.threshold.is_monotonic_decreasing
    row = t.iloc[20]
    assert p.where(p.df.confidence >= row.threshold).errors.errors == row.errors and ((t.low <= t.error) & (t.error <= t.high)).all()
    flat = Predictions.of(list('xyz'), ['a', 'a', 'b'], [[.9, .1]]*3, ['a', 'b'])
    assert flat.coverage_curve().n.tolist() == [3]


# Label sets

@pytest.mark.parametrize('T', [.3, 1., 4.])
@pytest.mark.parametrize('coverage', [.8, .9, .95])
def test_sets_hold_what_was_asked(coverage, T):
    "On average over many validations of 99 pictures, exactly (n+1)-th parts."
    held = []
    for s in range(60):
        c = calibrate(made(99, T=T, seed=s), coverage=coverage)
        held.append(made(400, T=T, seed=1000+s, split='test').label_sets(c).coverage)
    assert np.mean(held) == pytest.approx(coverage, abs=.02)


def test_sets_by_hand():
    p = np.array([[.95, .05], [.9, .1], [.8, .2], [.6, .4]])
    preds = Predictions.of(list('wxyz'), ['a', 'a', 'a', 'b'], p, ['a', 'b'], 'valid')
    c = Calibration(quantile=.3, coverage=.6)
    s = preds.label_sets(c)
    assert (s.held, s.n, s.sizes) == (3, 4, {0: 1, 1: 3}) and s.mean_size == .75 and '75.0% of 4 sets' in str(s)
    assert calibrate(preds, coverage=.9).quantile == 1 and preds.label_sets(calibrate(preds, coverage=.9)).mean_size == 2   # four pictures leave no class out


# Strangers

def test_strangers_are_refused():
    train, valid = made(300, dim=32, split='train', shift=1), made(200, dim=32, seed=1, shift=1)
    c = calibrate(joined(train, valid), strangers=.05)
    assert c.neighbours.shape == (300, 32) and c.neighbours.dtype == np.float16
    own, other = made(500, dim=32, seed=2, split='test', shift=1), made(500, dim=32, seed=3, split='test', shift=-1)
    assert own.answered(c).mean() == pytest.approx(.95, abs=.03) and other.answered(c).mean() < .02
    a, b = own.strangeness(c), other.strangeness(c)
    assert auroc(a.distance, b.distance).value > .99 and auroc(a.energy, b.energy).value == pytest.approx(.5, abs=.06)
    assert list(a.columns) == ['doubt', 'energy', 'distance'] and list(own.strangeness().columns) == ['doubt', 'energy']
    few = calibrate(joined(train, valid.where(np.arange(200) < 10)), strangers=.01)
    assert few.measured['strangers']['share'] == pytest.approx(1/11, abs=1e-5)    # ten pictures cannot show 1 %


def test_neighbours_are_drawn_evenly():
    train = made(600, dim=8, split='train')
    train.df['label'] = ['a']*500 + ['b']*60 + ['c']*40
    both = joined(train, made(50, dim=8, seed=1))
    c, again = (calibrate(both, references=90, seed=4) for _ in range(2))
    assert np.array_equal(c.neighbours, again.neighbours) and c.measured['strangers']['references'] == 90
    rows = (c.neighbours.astype(np.float32) @ (train.features/np.linalg.norm(train.features, axis=1, keepdims=True)).T).argmax(1)
    assert train.df.label.iloc[rows].value_counts().to_dict() == dict(a=30, b=30, c=30)


def test_a_picture_is_not_its_own_neighbour():
    train = made(200, dim=16, split='train')
    c = calibrate(joined(train, made(50, dim=16, seed=1)), held_out=train)
    assert c.stranger > .05 and c.distance(train.features).max() < 1e-3


def test_no_features_no_limit():
    c = calibrate(joined(made(100, split='train'), made(100, seed=1)))
    assert c.stranger is None and c.neighbours is None and 'strangers' not in c.measured


def test_auroc():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 300), rng.normal(1, 1, 200)
    o = auroc(a, b)
    assert o.value == pytest.approx((b[:, None] > a).mean()) and o.interval[0] < o.value < o.interval[1] and (o.known, o.strangers) == (300, 200)
    inside = [auroc(rng.normal(0, 1, 60), rng.normal(1, 1, 40)).interval for _ in range(400)]
    true = .7602    # normal distribution function of 1/sqrt(2)
    assert .92 < np.mean([lo <= true <= hi for lo, hi in inside]) <= .98
    assert auroc([0, 1], [2, 3]).interval == pytest.approx((AUROC(1., 2, 2).interval[0], 1.)) and .2 < AUROC(1., 2, 2).interval[0] < .9
    assert AUROC(0., 9, 9).interval[0] == 0 and AUROC(.5, 10**6, 10**6).interval == pytest.approx((.5, .5), abs=2e-3)
    with pytest.raises(ValueError, match='0 pictures of its own kind and 1'): auroc([], [1])
    with pytest.raises(ValueError, match='finite'): auroc([np.nan], [1])


# Bad input

def test_refuses_what_cannot_be_calibrated():
    p = made(50)
    with pytest.raises(ValueError, match=r'no validation picture.*ImageSet\.split.*cross_validate'): calibrate(made(50, split='train'))
    with pytest.raises(ValueError, match='no validation picture'): calibrate(p.where(p.df.label == 'nobody'))
    with pytest.raises(ValueError, match='held_out is of other classes'): calibrate(p, held_out=made(50, classes=list('vwxyz')))
    with pytest.raises(ValueError, match='give error or answered'): calibrate(p, error=.1, answered=.9)
    for name in ('error', 'answered', 'coverage', 'strangers', 'risk'):
        for v in (0, 1, -1, 90, float('nan')):
            with pytest.raises(ValueError, match=f'{name} .*a share, between 0 and 1'): calibrate(p, **{name: v})
    p.df.loc[3, 'p:a'] = np.nan
    with pytest.raises(ValueError, match='valid00003.jpg: its probabilities are not numbers'): calibrate(p)
    p.df.loc[3, 'confidence'] = np.nan
    with pytest.raises(ValueError, match='valid00003.jpg: no confidence'): p.ece()
    unknown = made(5)
    unknown.df['label'] = ''
    for f in (unknown.ece, unknown.reliability, unknown.coverage_curve): pytest.raises(ValueError, f).match('no picture with a label')
    pytest.raises(ValueError, unknown.label_sets, Calibration(quantile=.1)).match('nobody can say')


def test_one_class():
    p = Predictions.of([f'{i}.jpg' for i in range(9)], ['a']*9, np.ones((9, 1)), ['a'], 'valid')
    c = calibrate(p)
    assert c.temperature == 1 and p.label_sets(c).coverage == 1 and p.ece(n=5).value == 0


def test_one_picture():
    c = calibrate(made(1))
    assert c.quantile == 1 and np.isfinite(c.temperature) and made(1).ece(n=5).bins == 1
    assert made(1).coverage_curve().coverage.tolist() == [1]


# Round trip, determinism

def test_round_trip():
    p = joined(made(100, dim=8, split='train'), made(300, dim=8, seed=1), made(200, dim=8, seed=2, split='test'))
    c = calibrate(p, error=.3)
    back = Calibration.from_dict(json.loads(json.dumps(c.to_dict())), c.neighbours)
    assert back.to_dict() == c.to_dict() and np.array_equal(p.answered(back), p.answered(c)) and p.label_sets(back) == p.label_sets(c)


def test_same_seed_same_numbers():
    p = joined(made(100, dim=8, split='train'), made(300, dim=8, seed=1))
    a, b = calibrate(p, error=.3), calibrate(p, error=.3)
    assert a.to_dict() == b.to_dict() and np.array_equal(a.neighbours, b.neighbours)
    assert p.ece(n=50, seed=3) == p.ece(n=50, seed=3) != p.ece(n=50, seed=4)
    order = np.random.default_rng(0).permutation(len(p))
    shuffled = Predictions(p.df.iloc[order], p.classes, features=p.features[order])
    c = calibrate(shuffled, error=.3)
    assert c.threshold == a.threshold and c.quantile == a.quantile and c.temperature == pytest.approx(a.temperature, rel=1e-6)


def test_plots():
    import matplotlib.pyplot as plt
    p = made(200)
    ax = p.plot_reliability()
    assert ax.get_xlabel() == 'confidence' and p.plot_reliability(5, ax, 'again') is ax and len(ax.get_legend().get_texts()) == 1
    ax = p.plot_coverage(label='x')
    assert '%' in ax.get_ylabel() and ax.get_xlim() == (0, 100)
    assert [o.get_text() for o in plot_scores([0, 1], [2, 3], 1.5).get_legend().get_texts()] == ['its own kind', 'strangers', 'limit']
    plt.close('all')


# With a model

def test_shipped_calibration(drawn, tmp_path):
    "A bundle abstains where the table says so, and names the same sets."
    from lookalikes.imageset import ImageSet
    from lookalikes.predictions import predict
    from lookalikes.probe import fit_probe
    from lookalikes.ship import ship
    images = ImageSet.from_folder(drawn).split(valid=.4, test=.3, seed=1)
    probe = fit_probe(images)
    said = predict(probe, images)
    c = calibrate(said, answered=.7, strangers=.1)
    clf, test = ship(probe, tmp_path/'m', said, c), said.where(split='test')
    answers = [clf(test.path/f) for f in test.df.file]
    assert np.array_equal([not a['abstained'] for a in answers], test.answered(c))
    assert np.allclose([a['confidence'] for a in answers], test.calibrated(c).df.confidence, atol=1e-3)
    assert [len(a['labels']) for a in answers] == c.label_set(test.calibrated(c).probs).sum(1).tolist()
    assert np.allclose([a['strangeness'] for a in answers], c.distance(test.features), atol=1e-3)


@at_length
def test_benchmark(photos, tmp_path, warm):
    if not (photos/'chihuahua_or_muffin').is_dir(): pytest.skip('no photographs of chihuahuas and muffins')
    r = warm.python(ROOT/'benchmarks/confidence.py', '--photos', photos, '--out', tmp_path, '--sets', 'chihuahua_or_muffin', '--n', '30', '--seeds', '0', env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert r.returncode == 0, r.stderr[-3000:]
    text = (tmp_path/'confidence.csv').read_text()
    assert str(photos) not in text and str(ROOT) not in text
    t = pd.read_csv(tmp_path/'confidence.csv', keep_default_na=False, dtype={'value': float}).set_index(['set', 'measure'])
    own = t.loc['chihuahua_or_muffin']
    assert own.value['calibration error after'] <= own.value['calibration error before'] + .01 and own.n['error, all answered'] == 60
    assert t.value['lookalike_extras against chihuahua_or_muffin', 'AUROC of distance'] > .9


@at_length
def test_when_to_finetune(tmp_path, warm):
    r = warm.python(ROOT/'benchmarks/when_to_finetune.py', '--out', tmp_path, *'--few 2 --many 3 --exam 2 --size 64 --epochs 1 --seeds 0'.split())
    assert r.returncode == 0, r.stderr[-3000:]
    t = pd.read_csv(tmp_path/'when_to_finetune.csv')
    assert len(t) == 12 and set(t.depth) == {'probe', 'late layers', 'every layer'} and set(t.n) == {4, 6} and t.p.isna().sum() == 4
    assert (t.command == 'python benchmarks/when_to_finetune.py --few 2 --many 3 --exam 2 --size 64 --epochs 1 --seeds 0').all()


def test_results_that_are_published():
    "The table in data/results holds what the lesson says of it."
    t = pd.read_csv(ROOT/'data/results/confidence.csv').set_index(['set', 'measure']).value
    sets = ['chihuahua_or_muffin', 'paintings', 'kittens_or_cats', 'pet_breeds', 'guitars']
    assert sum(t[o, 'calibration error after'] < t[o, 'calibration error before'] for o in sets) >= 4
    assert t['pet_breeds', 'error cut at 90 %'] > 1/3
