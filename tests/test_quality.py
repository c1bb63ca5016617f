"Measures and quality: the same whoever decodes, few alarms on sound pictures, and no picture that breaks them."
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

import lookalikes.backbone as bb
import lookalikes.measures as ms
from lookalikes.backbone import embed
from lookalikes.defects import plant
from lookalikes.draw import draw
from lookalikes.imageset import ImageSet
from lookalikes.measures import NUMBERS, THUMB, Measures, edge_width, grey, hamming, look
from lookalikes.picture import open_image
from lookalikes.quality import RULES, quality_issues, robust_z
from lookalikes.scoring import score


def save(im, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    im.save(path)


def noise(w, h, seed=0): return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8))


@pytest.fixture(scope='module')
def sound(tmp_path_factory): return draw('chihuahua_or_muffin', n=24, size=128, path=tmp_path_factory.mktemp('sound')/'set', seed=4)


def pets(photos, n):
    if not (photos/'pet_breeds'/'images').is_dir(): pytest.skip('no photographs of pet_breeds')
    images = ImageSet.from_names(photos/'pet_breeds'/'images', r'^(.+)_\d+\.jpg$')
    return images.where(np.arange(len(images)) % max(1, len(images)//n) == 0)


# Measures

def same(a, b):
    assert list(a.files) == list(b.files) and np.array_equal(a.hashes, b.hashes) and np.array_equal(a.thumbs, b.thumbs) and a.numbers.equals(b.numbers)
    assert a.facts[['file', 'sha256', 'reason']].equals(b.facts[['file', 'sha256', 'reason']])


def test_do_not_depend_on_workers(sound):
    a = Measures.of(sound, workers=1)
    for w in (2, 5): same(a, Measures.of(sound, workers=w))
    assert len(a) == len(sound) and a.thumbs.shape == (len(a), THUMB, THUMB) and a.thumbs.dtype == np.uint8
    assert set(NUMBERS) <= set(a.numbers) and (a.numbers.dtypes == np.float32).all() and not a.numbers.isna().any(axis=None)
    assert a.numbers.memory_usage().sum() + a.thumbs.nbytes + a.hashes.nbytes < 5000*len(a)


def test_the_numbers_are_what_they_say(tmp_path):
    "Against NumPy, on a picture small enough not to be shrunk."
    im = noise(100, 60)
    im.info['full_size'] = im.size
    a, seen = np.asarray(im.convert('L')), look(im)
    assert seen['mean'] == pytest.approx(a.mean()) and seen['spread'] == pytest.approx(a.std())
    for k, q in (('low', 0), ('p01', 1), ('p05', 5), ('p50', 50), ('p95', 95), ('p99', 99), ('high', 100)):
        assert seen[k] == pytest.approx(np.percentile(a, q, method='inverted_cdf')), k
    p = np.bincount(a.ravel())/a.size
    assert seen['entropy'] == pytest.approx(-(p[p > 0]*np.log2(p[p > 0])).sum())


def test_embed_opens_each_picture_once(sound, own_cache, monkeypatch):
    "With and without known embeddings; and an audit's measures are those of a look at what `embed` decodes."
    monkeypatch.setattr(bb, 'runner', lambda *a: lambda x: x.mean((1, 2)).astype(np.float32))
    images, opened = sound.where(np.arange(len(sound)) < 40), []
    monkeypatch.setattr(bb, 'open_image', lambda d, **kw: (opened.append(kw['name']), open_image(d, **kw))[1])
    f = embed(images, look=look)
    assert sorted(opened) == sorted(images.df.file) and not f.facts.cached.any()
    opened.clear()
    g = embed(images, look=look)
    assert sorted(opened) == sorted(images.df.file) and g.facts.cached.all() and np.array_equal(f.X, g.X)
    same(Measures.from_looks(f.facts, f.looks), Measures.from_looks(g.facts, g.looks))
    same(Measures.from_looks(f.facts, f.looks), Measures.from_looks(f.facts, {o: look(open_image(images.path/o, min_side=f.backbone.prep.min_side)) for o in images.df.file}))
    opened.clear()
    assert embed(images).looks == {} and not opened


def test_embed_looks_at_no_broken_picture(tmp_path, own_cache, monkeypatch):
    monkeypatch.setattr(bb, 'runner', lambda *a: lambda x: x.mean((1, 2)).astype(np.float32))
    for i in range(12): save(noise(40, 40, i), tmp_path/'a'/f'{i:02}.png')
    (tmp_path/'a'/'05.png').write_text('Forbidden')
    (tmp_path/'a'/'06.png').write_bytes(b'')
    f = embed(ImageSet.from_folder(tmp_path), look=look)
    m = Measures.from_looks(f.facts, f.looks)
    assert len(m) == len(f) == 10 and sorted(m.facts.file[m.facts.reason != '']) == ['a/05.png', 'a/06.png'] and list(m.files) == list(f.files)


def test_a_look_that_fails_is_not_swallowed(tmp_path, own_cache, monkeypatch):
    monkeypatch.setattr(bb, 'runner', lambda *a: lambda x: x.mean((1, 2)).astype(np.float32))
    save(noise(40, 40), tmp_path/'a'/'1.png')
    with pytest.raises(ZeroDivisionError): embed(ImageSet.from_folder(tmp_path), look=lambda im: 1/0)


def test_quarantined_pictures_are_not_opened(sound, monkeypatch):
    images = sound.replace(status=['quarantined' if i % 3 == 0 else 'ok' for i in range(len(sound))])
    assert list(Measures.of(images).files) == list(images.df.file[images.df.status == 'ok'])


def test_sharpness_does_not_depend_on_size():
    "One scene, drawn large, and reduced: the numbers stay, within the resampling."
    large = noise(12, 12, 3).resize((900, 900), Image.Resampling.BICUBIC)
    widths = [edge_width(np.asarray(grey(large.resize((s, s), Image.Resampling.LANCZOS)))) for s in (900, 450, 225)]
    assert max(widths)/min(widths) < 1.1
    assert edge_width(np.asarray(grey(noise(300, 300).filter(ImageFilter.GaussianBlur(9))))) > 2*edge_width(np.asarray(grey(noise(300, 300))))
    assert edge_width(np.zeros((3, 500), np.uint8)) == 0 and edge_width(np.zeros((128, 128), np.uint8)) == 0


@pytest.mark.parametrize('size', [(1, 1), (2, 1), (1, 3), (10_000, 1), (1, 10_000), (7, 7)])
@pytest.mark.parametrize('how', ['white', 'noise'])
def test_shapes_at_the_edge(tmp_path, size, how):
    save(noise(*size) if how == 'noise' else Image.new('RGB', size, 'white'), tmp_path/'a'/'1.png')
    m = Measures.of(ImageSet.from_folder(tmp_path))
    assert len(m) == 1 and np.isfinite(m.numbers.to_numpy()).all() and (m.numbers.width[0], m.numbers.height[0]) == size
    issues = quality_issues(m)
    assert ('odd_aspect' in set(issues.kind)) == (max(size) >= 4*min(size)) and issues.score.between(.5, 1).all()
    assert (how != 'white') | ('blank' in set(issues.kind))


def test_no_picture_at_all(tmp_path):
    (tmp_path/'a').mkdir()
    (tmp_path/'a'/'1.jpg').write_text('Forbidden')
    images = ImageSet.from_folder(tmp_path)
    for m in (Measures.of(images), Measures.of(images.where([False]))):
        assert len(m) == 0 and m.thumbs.shape == (0, THUMB, THUMB) and list(quality_issues(m).columns) == ['file', 'kind', 'score', 'evidence'] and len(quality_issues(m)) == 0


# Issues

def test_robust_z():
    v = np.r_[np.arange(100.), [1e6]*30]
    assert abs(robust_z(v, 50, 25)[:100]).max() < 2.5 and robust_z(v, 50, 25)[-1] > 1000
    assert robust_z(np.zeros(0), 0, 1).shape == (0,) and np.isfinite(robust_z(np.full(500, 7.), 0, 1)).all()


def flat(images): return quality_issues(Measures.of(images))


def test_sound_pictures_are_left_alone(sound): assert len(flat(sound)) == 0


def test_planted_defects_are_found(sound, tmp_path):
    s = plant(sound, tmp_path/'set', {k: 7 for k in RULES}, seed=2)
    issues = flat(s)
    marks = score(s, issues).set_index('kind')
    assert (marks.loc[['blank', 'tiny', 'dark', 'odd_aspect'], 'recall'] == 1).all() and (marks.recall >= .7).all() and (marks.precision == 1).all()
    assert issues.equals(flat(s)) and issues.score.between(.5, 1).all()
    assert (issues.kind.map(list(RULES).index).diff().dropna() >= 0).all()


def test_evidence_says_what_was_measured(tmp_path):
    "The figures in the sentence are the picture's and the set's."
    for i in range(40): save(noise(64, 64, i).point(lambda v, k=i: 40+v*.5+k), tmp_path/'a'/f'{i:02}.png')
    save(noise(64, 64, 99).point(lambda v: v*.05), tmp_path/'a'/'dark.png')
    m = Measures.of(ImageSet.from_folder(tmp_path))
    r, = quality_issues(m).itertuples()
    low, high = np.quantile(m.numbers['mean'], [.025, .975])
    assert r.file == 'a/dark.png' and r.kind == 'dark'
    assert r.evidence == f"mean brightness {m.numbers['mean'][40]:.0f} of 255; the set's pictures lie between {low:.0f} and {high:.0f}"


@pytest.mark.parametrize(('kind', 'change'), [('dark', lambda v: v*.1), ('bright', lambda v: 255-(255-v)*.1), ('low_contrast', lambda v: 128+(v-128)*.08)])
def test_what_is_usual_in_a_set_is_no_issue(tmp_path, kind, change):
    "All of them so: none. One among many: that one. Alone: that one, since ordinary photographs stand in."
    for i in range(150): save(noise(20, 20, i).resize((90, 90)).point(change), tmp_path/'all'/'a'/f'{i:03}.png')
    assert kind not in set(flat(ImageSet.from_folder(tmp_path/'all')).kind)
    for i in range(60): save(noise(20, 20, i).resize((90, 90)), tmp_path/'one'/'a'/f'{i:03}.png')
    save(noise(20, 20, 99).resize((90, 90)).point(change), tmp_path/'one'/'a'/'odd.png')
    issues = flat(ImageSet.from_folder(tmp_path/'one'))
    assert list(issues.file) == ['a/odd.png'] and list(issues.kind) == [kind]
    for n in (1, 2):
        images = ImageSet.from_folder(tmp_path/'one')
        issues = flat(images.where(images.df.file.isin(['a/odd.png', 'a/000.png'][:n])))
        assert list(issues.file) == ['a/odd.png'] and list(issues.kind) == [kind] and 'the set' not in issues.evidence[0]


def test_a_dark_picture_is_not_low_in_contrast_besides(sound, tmp_path):
    s = plant(sound, tmp_path/'set', dict(dark=5, bright=5, blank=5), seed=2)
    assert flat(s).file.is_unique


def test_photographs(photos, tmp_path):
    "At most 3 % of sound photographs are flagged, and of planted defects nine of ten are found."
    images = pets(photos, 300)
    assert flat(images).file.nunique() <= .03*len(images)
    s = plant(images, tmp_path/'set', {k: 12 for k in RULES}, seed=9)
    marks = score(s, flat(s)).set_index('kind')
    assert (marks.loc[['blank', 'tiny', 'dark', 'odd_aspect', 'bright', 'blurred', 'low_contrast'], 'recall'] >= .9).all() and (marks.precision >= .9).all(), marks


def test_decoding_smaller_changes_little(photos):
    "Who embeds decodes larger than who only looks: the same picture, nearly the same measures."
    images = pets(photos, 40)
    for f in images.df.file:
        a, b = (look(open_image(images.path/f, min_side=s)) for s in (ms.SCALE, 293))
        assert hamming(a['hashes'], b['hashes']).max() <= 8 and abs(a['mean']-b['mean']) < 2 and .75 < a['edge']/b['edge'] < 1.33
        assert pd.Series({k: abs(a[k]-b[k]) for k in ('p01', 'p50', 'p99')}).max() < 15
