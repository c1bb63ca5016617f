"The views of one table of predictions: they agree with scikit-learn and fastai, bear any table and any name, and stay quick."
import json
import shutil
import time
from html import unescape

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import at_length
from PIL import Image
from sklearn.metrics import confusion_matrix

from lookalikes.imageset import ImageSet
from lookalikes.embedding_map import layout
from lookalikes.interpret import ErrorBy, measured
from lookalikes.picture import Sheet
from lookalikes.predictions import Predictions, predict, side_by_side
from lookalikes.stats import ErrorRate, wilson

HOSTILE = ['</script><script>alert(1)</script>.jpg', '"><img src=x onerror=alert(1)>.jpg', "'); alert(1); ('.jpg", '/*DATA*/.jpg', '${alert(1)}.jpg', '`.jpg', '&lt;b&gt;.jpg', '\u2028\n.jpg', '\udcff.jpg', '<!--.jpg', '日本.jpg']


def synthetic(n=300, k=5, seed=0, features=16, split=('train', 'valid'), sharp=1., path='nowhere', files=None, classes=None, noise=1.5):
    "Predictions of `n` pictures of `k` classes that lie in pairs: each is taken for its partner now and then."
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    centre = np.repeat(rng.standard_normal((k//2+1, features)), 2, 0)[:k] + .5*rng.standard_normal((k, features))
    X = (centre[truth] + noise*rng.standard_normal((n, features))).astype(np.float32)
    z = sharp*(X @ centre.T - (centre**2).sum(1)/2)
    p = np.exp(z - z.max(1, keepdims=True))
    names = classes or [f'class {i:03}' for i in range(k)]
    return Predictions.of(files or [f'{i:05}.jpg' for i in range(n)], [names[i] for i in truth], p/p.sum(1, keepdims=True), names, np.array(split)[rng.integers(0, len(split), n)], path, z, X)


def odd_tables():
    "Tables that a careless view stumbles over."
    names, p = ['a', 'b', 'c'], np.array([[.2, .5, .3]], np.float32)
    yield 'empty', Predictions.of([], [], np.zeros((0, 3)), names, features=np.zeros((0, 8), np.float32))
    yield 'one row, wrong', Predictions.of(['x.jpg'], ['a'], p, names, 'valid', features=np.ones((1, 8), np.float32))
    yield 'one row, right', Predictions.of(['x.jpg'], ['b'], p, names, features=np.ones((1, 8), np.float32))
    yield 'one class', Predictions.of([f'{i}.jpg' for i in range(9)], ['a']*9, np.ones((9, 1)), ['a'], features=np.eye(9, dtype=np.float32))
    yield 'no labels', Predictions.of([f'{i}.jpg' for i in range(9)], ['']*9, np.repeat(p, 9, 0), names, features=np.eye(9, dtype=np.float32))
    yield 'unknown labels', Predictions.of([f'{i}.jpg' for i in range(9)], ['z']*9, np.repeat(p, 9, 0), names, features=np.zeros((9, 8), np.float32))
    yield 'all alike', Predictions.of([f'{i}.jpg' for i in range(30)], ['a']*30, np.repeat(p, 30, 0), names, features=np.ones((30, 1), np.float32))


@pytest.mark.parametrize('name,preds', [pytest.param(*o, id=o[0]) for o in odd_tables()])
def test_odd_tables(name, preds):
    judged, wrong = int(preds.judged.sum()), int(preds.wrong.sum())
    assert preds.confusion().to_numpy().sum() == judged
    for cluster in (None, True, False): plt.close(preds.plot_confusion_matrix(cluster=cluster, rates=bool(cluster)).figure)
    pairs = preds.confused_pairs()
    assert pairs.n.sum() == wrong and list(pairs) == ['label', 'predicted', 'n', 'of', 'rate', 'low', 'high', 'back']
    assert len(preds.most_confident(4)) == len(preds.least_confident(4)) == min(4, len(preds)) and len(preds.confidently_wrong(99)) == wrong
    assert len(preds.most_confident(0)) == 0 and len(preds.confidently_wrong(2, per_class=True)) <= 2*len(preds.classes)
    assert isinstance(preds.sheet(preds.confidently_wrong()), Sheet)
    by = preds.error_by('label')
    assert by.table.n.sum() == judged and by.table.errors.sum() == wrong and by.p == 1 and 'Error by label' in by._repr_html_()
    for o in (by.plot(), preds.map().plot()): plt.close(o.figure)
    at = preds.map().df
    assert len(at) == len(preds) and np.isfinite(at[['x', 'y']]).all(axis=None) and at[['x', 'y']].stack().between(0, 1).all() and at.wrong.sum() == wrong
    assert page_data(preds.map().html())['w'] == at.wrong.astype(int).tolist()
    if judged: assert preds.versus(preds).test.p == 1 and len(preds.versus(preds).table) == 0 and preds.versus(preds).per_class.n.sum() == judged
    else:
        with pytest.raises(ValueError, match='share no picture'): preds.versus(preds)


def page_data(page): return json.loads(page.split('const D = ', 1)[1].split(', n = D.x.length', 1)[0])


def test_agrees_with_scikit_learn():
    for k, n in ((2, 50), (5, 400), (37, 900)):
        p = synthetic(n, k, seed=k)
        m = confusion_matrix(p.df.label, p.df.pred, labels=p.classes)
        assert np.array_equal(p.confusion().to_numpy(), m)
        t = p.confused_pairs(2)
        assert len(t) == ((m-np.diag(np.diag(m))) >= 2).sum() and t.n.is_monotonic_decreasing and t.n.sum() > 0
        for r in t.itertuples():
            i, j = p.classes.index(r.label), p.classes.index(r.predicted)
            assert (r.n, r.of, r.back) == (m[i, j], m[i].sum(), m[j, i]) and (r.rate, r.low, r.high) == pytest.approx((r.n/r.of, *wilson(r.n, r.of)))


def test_agrees_with_fastai(tmp_path):
    from fastai.interpret import ClassificationInterpretation

    from lookalikes.backbone import Backbone
    from lookalikes.draw import draw
    from lookalikes.train import image_learner
    images = draw('pet_breeds', n=12, size=64, path=tmp_path/'pets', classes=['Birman', 'Siamese', 'samoyed', 'great_pyrenees']).split(valid=.6, test=0, seed=0)
    learn = image_learner(images, Backbone.named('efficientnet_lite0', size=64, pretrained=False), bs=8, smooth=0, device='cpu', progress=False, probe=False)
    torch.manual_seed(0)
    torch.nn.init.normal_(learn.model[1][-1].weight, std=.03)       # random weights and a random head: plenty of mistakes
    with learn.no_bar(): interp = ClassificationInterpretation.from_learner(learn)
    with learn.no_bar(): probs, targs = learn.get_preds(dl=interp.dl)
    p = Predictions.of([str(i) for i in range(len(probs))], [learn.dls.vocab[int(i)] for i in targs], probs.numpy(), list(learn.dls.vocab))
    assert 3 < p.errors.errors < len(p)
    with learn.no_bar():
        assert np.array_equal(p.confusion().to_numpy(), interp.confusion_matrix())
        for min_val in (1, 2, 5): assert sorted(p.most_confused(min_val)) == sorted((a, b, int(n)) for a, b, n in interp.most_confused(min_val))
        losses, _ = interp.top_losses(5)
    assert p.top_losses(5).loss.to_numpy() == pytest.approx(losses.numpy(), abs=1e-4)
    ours = predict(learn, images).where(split='valid')          # and the learner itself, asked by us
    assert ours.confusion().to_numpy().sum() == len(p) and abs(ours.errors.errors-p.errors.errors) <= 1


def test_clustered_order():
    rng = np.random.default_rng(0)
    for k in (1, 2, 3, 20, 100):
        t = np.diag(np.full(k, 40))
        partner = rng.permutation(k)
        for a, b in zip(partner[::2], partner[1::2]): t[a, b] = t[b, a] = 5
        order = side_by_side(t).tolist()
        assert sorted(order) == list(range(k)) and order == side_by_side(t).tolist()
        if k > 2: assert all(abs(order.index(a)-order.index(b)) == 1 for a, b in zip(partner[::2], partner[1::2]))
    assert side_by_side(np.zeros((4, 4))).tolist() == [0, 1, 2, 3]


def test_a_hundred_classes_stay_readable():
    p = synthetic(5000, 100, features=64, noise=2.5)
    assert .05 < p.errors.rate < .6
    ax = p.plot_confusion_matrix()
    assert len(ax.get_xticks()) == 40 and '40 of 100 classes' in ax.get_title() and ax.figure.get_size_inches().max() < 12
    shown, partners = {o.get_text() for o in ax.get_xticklabels()}, [o[:2] for o in p.most_confused()[:10]]
    assert shown >= {c for o in partners for c in o}
    plt.close(ax.figure)
    assert len(p.plot_confusion_matrix(most=7).get_xticks()) == 7 and len(p.plot_confusion_matrix(most=100).get_xticks()) == 100
    plt.close('all')


def test_rankings():
    p = synthetic(300, 5, sharp=.3)
    df = p.df
    assert p.most_confident(7).confidence.tolist() == sorted(df.confidence, reverse=True)[:7] and p.least_confident(7).confidence.tolist() == sorted(df.confidence)[:7]
    w = p.confidently_wrong(10_000)
    assert set(w.file) == set(df.file[df.pred != df.label]) and w.confidence.is_monotonic_decreasing and len(w) > 10
    each = p.confidently_wrong(2, per_class=True)
    assert each.groupby('label').size().max() == 2 and each.label.is_monotonic_increasing
    for c, g in each.groupby('label'): pd.testing.assert_frame_equal(g.reset_index(drop=True), p.confidently_wrong(2, label=c))
    with pytest.raises(ValueError, match="no class 'dog': the model knows class 000, class 001"): p.most_confident(label='dog')


def test_error_by(tmp_path):
    p = synthetic(400, 4, sharp=.4)
    rng = np.random.default_rng(1)
    wrong = pd.Series(p.wrong)
    table = pd.DataFrame(dict(file=p.df.file, camera=np.where(rng.random(400) < np.where(wrong, .9, .2), 'old', 'new'), coin=rng.choice(['heads', 'tails'], 400), number=rng.normal(size=400),
                              flag=rng.random(400) < .5, text=[str(i % 9) for i in range(400)], gaps=np.where(np.arange(400) < 30, np.nan, np.arange(400.)), same=3., rare=[f'r{i//2}' for i in range(400)])).sample(frac=1, random_state=0)
    camera = p.error_by('camera', table)
    at = table.set_index('file').camera[p.df.file].to_numpy()
    for g, r in camera.table.iterrows():
        e = ErrorRate.of(wrong[at == g])
        assert (r.n, r.errors, r.error_rate, r.low, r.high) == (e.n, e.errors, e.rate, *e.interval)
    assert camera.table.index[0] == 'old' and camera.p < .001 < .01 < p.error_by('coin', table).p
    assert p.error_by('number', table).table.n.tolist() == [100]*4 and p.error_by('number', table, bins=[-9, 0, 9]).table.n.sum() == 400
    assert sorted(p.error_by('flag', table).table.index) == ['False', 'True'] and len(p.error_by('text', table, bins=3).table) == 3
    gaps = p.error_by('gaps', table).table
    assert gaps.n['not known'] == 30 and gaps.n.sum() == 400 and len(p.error_by('same', table).table) == 1
    rare = p.error_by('rare', table, most=10).table
    assert len(rare) == 10 and rare.n.sum() == 400 and '191 others' in rare.index
    digits = synthetic(200, 9, classes=[str(i) for i in range(9)])
    assert set(digits.error_by('label').table.index) == set(digits.df.label)           # names, though they look like numbers
    images = ImageSet(table.assign(label=''), tmp_path)
    with pytest.raises(ValueError, match="no column 'lens': there are label, split, pred, .*camera.*brightness"): p.error_by('lens', images)
    with pytest.raises(ValueError, match='give `images`'): p.error_by('brightness')
    assert list(p.error_by('creator', images).table.index) == ['not known'] and p.error_by('camera', images).table.equals(camera.table)


def test_error_by_what_a_camera_says(tmp_path):
    rng, files = np.random.default_rng(0), [f'{i:02}.jpg' for i in range(24)]
    for i, f in enumerate(files): Image.fromarray(np.full((40, 60+i, 3), 8*i+20, np.uint8) + rng.integers(0, 9, (40, 60+i, 3), dtype=np.uint8)).save(tmp_path/f)
    dark = [i < 12 for i in range(24)]
    p = Predictions.of(files, ['a']*24, np.where(np.array(dark)[:, None], [.2, .8], [.9, .1]), ['a', 'b'], path=tmp_path)
    images = ImageSet(pd.DataFrame(dict(file=files, label='a')), tmp_path)
    light = p.error_by('brightness', images, bins=2)
    assert light.table.errors.tolist() == [12, 0] and light.p < .001
    assert p.error_by('width', images).table.n.tolist() == p.error_by('width', images.verify()).table.n.tolist() == [6]*4
    assert p.error_by('size', images, bins=2).table.errors.tolist() == p.error_by('size', images.verify(), bins=2).table.errors.tolist() == [12, 0]
    pd.testing.assert_frame_equal(p.error_by('brightness', measured(images), bins=2).table, light.table)
    (tmp_path/files[3]).unlink()
    assert p.error_by('sharpness', images).table.n['not known'] == 1


def test_chance_is_chance():
    "With labels that have nothing to do with the mistakes, p is as often below .2 as it should be."
    rng = np.random.default_rng(0)
    p = synthetic(200, 4, sharp=.4)
    small = [p.error_by('g', pd.DataFrame(dict(file=p.df.file, g=rng.choice(list('abcd'), 200)))).p for _ in range(100)]
    assert .08 < np.mean(np.array(small) < .2) < .34


def test_neighbours():
    p = synthetic(200, 4)
    file = p.df.file[p.df.split == 'valid'].iloc[0]
    near = p.neighbours(file, 5)
    assert len(near) == 5 and (near.split == 'train').all() and near.similarity.is_monotonic_decreasing and near.similarity.max() <= 1.0001
    root = np.sign(p.features)*(np.sqrt(np.abs(p.features)+.01)-.1)
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    row = p.df.index[p.df.file == file][0]
    assert near.similarity[0] == pytest.approx((root @ root[row])[(p.df.split == 'train').to_numpy()].max(), abs=1e-5)
    own = p.df.file[p.df.split == 'train'].iloc[0]
    assert own not in set(p.neighbours(own, 500).file) and len(p.neighbours(own, 500)) == (p.df.split == 'train').sum()-1
    assert len(p.neighbours(file, 500, split=None)) == 199 and len(p.neighbours(file, 0)) == 0
    assert isinstance(p.sheet(near), Sheet)
    with pytest.raises(ValueError, match='not among the 200'): p.neighbours('no.jpg')
    with pytest.raises(ValueError, match="no picture in split 'test': there are train, valid"): p.neighbours(file, split='test')
    with pytest.raises(ValueError, match='hold no features'): Predictions(p.df, p.classes).neighbours(file)
    with pytest.raises(ValueError, match='hold no features'): Predictions(p.df, p.classes).map()


def test_map_keeps_like_with_like_and_repeats():
    p = synthetic(900, 6, features=32, noise=.5)
    a, b, c = p.map(landmarks=300), p.map(landmarks=300), p.map(landmarks=300, seed=1)
    pd.testing.assert_frame_equal(a.df, b.df)
    assert a.html() == b.html() and not np.allclose(a.df.x, c.df.x)
    for m in (a, p.map()):      # by landmarks, and all by t-SNE
        at = m.df[['x', 'y']].to_numpy()
        far = np.linalg.norm(at[:, None]-at[None], axis=2)
        np.fill_diagonal(far, 9)
        same = (p.df.label.to_numpy()[far.argsort(1)[:, :5]] == p.df.label.to_numpy()[:, None]).mean()
        assert same > .7, same
    assert layout(np.zeros((0, 4))).shape == (0, 2) and np.isfinite(layout(np.ones((50, 4)))).all()


def test_versus():
    a, b = synthetic(400, 5), synthetic(400, 5)
    worse = b.probs[:, ::-1].copy()
    worse = Predictions.of(b.df.file[::-1][:300], b.df.label[::-1][:300], np.where(np.arange(400)[:, None] % 3 == 0, worse, b.probs)[::-1][:300], b.classes)
    v = a.versus(worse)
    assert v.test == a.compare(worse) and v.test.n == 300 and v.per_class.n.sum() == 300
    assert v.per_class.a_only.sum() == v.test.a_only and v.per_class.b_only.sum() == v.test.b_only and v.per_class.a_errors.sum() == v.test.a_only+v.test.both
    assert (v.per_class.p_holm >= v.per_class.p).all() and v.per_class.p_holm.iloc[0] == pytest.approx(min(1, 5*v.per_class.p.iloc[0]))
    both = a.df.merge(worse.df, on='file')
    assert set(v.table.file) == set(both.file[both.pred_x != both.pred_y]) and (v.table.a != v.table.b).all()
    assert (v.table.right == 'A').sum() == v.test.b_only and (v.table.right == 'B').sum() == v.test.a_only
    assert isinstance(v.sheet(4, right='B'), Sheet) and 'p_holm' in v._repr_html_()
    other = Predictions(worse.df.assign(label=['class 000']*300), worse.classes)
    with pytest.raises(ValueError, match='labelled class 00. in one table and class 000 in the other'): a.versus(other)
    with pytest.raises(ValueError, match='more than once in the second'): a.versus(Predictions(pd.concat([b.df, b.df[:1]]), b.classes))
    with pytest.raises(ValueError, match='share no picture'): a.versus(Predictions(b.df.assign(file=b.df.file+'x'), b.classes))


def test_top_losses_with_heatmaps(drawn):
    from lookalikes.probe import fit_probe
    images = ImageSet.from_folder(drawn)
    probe = fit_probe(images)
    p = predict(probe, images)
    plain, seen = p.plot_top_losses(4), p.plot_top_losses(4, heatmap=probe)
    assert seen.image.size == plain.image.size and 'speaks' in seen.alt and not np.array_equal(np.asarray(seen.image), np.asarray(plain.image))
    gone = Predictions(p.df.assign(file=['gone.jpg' if f == p.top_losses(1).file[0] else f for f in p.df.file]), p.classes, p.path)
    assert gone.plot_top_losses(3, cols=1, heatmap=probe).alt.startswith('The 2 pictures')


def hostile(tmp_path):
    labels = ['</script><script>alert(2)</script>', '<b>', '"\'`${alert(3)}']
    p = synthetic(len(HOSTILE), 3, path=tmp_path, files=HOSTILE, classes=labels, sharp=.1, noise=4)
    for f in HOSTILE[-1:]: Image.new('RGB', (40, 30), 'teal').save(tmp_path/f)
    return p


def test_hostile_names_stay_text(tmp_path):
    m = hostile(tmp_path).map()
    page = m.html()
    assert page.count('<script') == 1 and page.count('</script') == 1 and 'onerror' in page and '<img' not in page and 'http' not in page.replace('http-equiv', '')
    d = page_data(page)
    assert len(d['f']) == len(HOSTILE) and d['f'][0] == HOSTILE[0] and all(o.isprintable() for o in d['f']+d['names']) and len(d['t']) == 1
    assert page.encode() and m.save(tmp_path/'map.html').read_text(encoding='utf-8') == page
    frame = m._repr_html_()
    assert frame.count('<') == 2 and unescape(frame.split('srcdoc="')[1].rsplit('">', 1)[0]) == page and 'sandbox="allow-scripts"' in frame


def test_map_in_a_browser(tmp_path):
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if not chromium: pytest.skip('no Chromium')
    playwright = pytest.importorskip('playwright.sync_api')
    p, trouble = hostile(tmp_path), []
    (tmp_path/'page.html').write_text('<!doctype html><meta charset="utf-8">'+p.map()._repr_html_(), encoding='utf-8')
    with playwright.sync_playwright() as pw:
        browser = pw.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking'])
        tab = browser.new_page(viewport=dict(width=390, height=700))
        tab.on('console', lambda m: trouble.append(m.text))
        tab.on('pageerror', lambda e: trouble.append(str(e)))
        tab.on('dialog', lambda d: (trouble.append(d.message), d.dismiss()))
        tab.on('request', lambda r: trouble.append(r.url) if not r.url.startswith(('file:', 'data:', 'about:')) else None)
        tab.goto((tmp_path/'page.html').as_uri())
        frame = tab.frame_locator('iframe')
        assert frame.locator('#pick option').count() == 4
        frame.locator('#c').focus()
        heard = set()
        for key in ['n']*p.errors.errors + ['p', 'ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown']*8:
            tab.keyboard.press(key)
            heard.add(frame.locator('#said').inner_text())
        wrong = p.df.file[p.df.pred != p.df.label]
        assert p.errors.errors > 2 and sum(f'called {r.pred}' in h and f'label {r.label}' in h for h in heard for r in p.df[p.df.file.isin(wrong)].itertuples()) >= len(wrong)
        tab.keyboard.press('Escape')
        assert frame.locator('#said').inner_text() == '' and frame.locator('#tip').is_hidden()
        frame.locator('#pick').select_option('1')
        assert 'taken for it' in frame.locator('#key').inner_text()
        box = frame.locator('#c').bounding_box()
        first = p.map().df.iloc[0]
        tab.mouse.click(box['x']+8+float(first.x)*(box['width']-16), box['y']+box['height']-8-float(first.y)*(box['height']-16))
        assert frame.locator('#said').inner_text().startswith(f'{HOSTILE[0]}: called {first.pred}')
        assert frame.locator('body').evaluate('o => o.scrollWidth <= o.clientWidth+1')
        browser.close()
    assert not trouble


@at_length
def test_quick_at_twenty_thousand():
    p, q = (synthetic(20_000, 100, features=256, noise=o) for o in (4, 4.5))
    assert .01 < p.errors.rate < .5
    start = time.perf_counter()
    m = p.map()
    page = m.html()
    mapped = time.perf_counter()-start
    for f in (p.plot_confusion_matrix, p.confused_pairs, lambda: p.confidently_wrong(5, per_class=True), lambda: p.error_by('label').plot(), lambda: p.error_by('confidence'), lambda: p.neighbours(p.df.file[7]), lambda: p.versus(q), m.plot): f()
    plt.close('all')
    assert mapped < 90 and time.perf_counter()-start < 150 and len(page) < 4e6       # seconds where nobody else is at work: benchmarks/views.py


def test_error_by_says_what_it_is():
    one = ErrorBy('camera', pd.DataFrame(dict(n=[4], errors=[1], error_rate=[.25], low=[.05], high=[.7]), index=['<b>']), 1.)
    assert '<b>' not in one._repr_html_() and 'nothing to compare' in repr(one)
