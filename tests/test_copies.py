"Copies: found where they were planted, none where there are none, the same each time, and whatever the pictures look like."
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

import lookalikes.copies as cp
from lookalikes.backbone import Backbone, Features, embed
from lookalikes.copies import Copies, candidates, find_copies, neighbours, verify
from lookalikes.defects import plant, planted
from lookalikes.draw import draw
from lookalikes.imageset import ImageSet
from lookalikes.measures import Measures, look, perceptual_hash
from lookalikes.scoring import score

NAMES = dict(exact='exact', near='near_copy')


def save(im, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    im.save(path)


def scene(seed, w=160, h=120):
    "Soft patches: a picture like no other, with detail everywhere."
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((w, h), Image.Resampling.BICUBIC)


def found(path, **kw):
    images = ImageSet.from_folder(path)
    return find_copies(images, Measures.of(images), **kw)


def together(c): return {frozenset(o) for o in c.clusters}


def marks(s, c): return score(s, c.issues, names=NAMES).set_index('kind')


@pytest.fixture(scope='module')
def spoilt(cache, tmp_path_factory):
    "Drawn cats with copies of every kind, and all that is known of them."
    tmp = tmp_path_factory.mktemp('copies')
    s = plant(draw('chihuahua_or_muffin', n=35, size=96, path=tmp/'drawn', seed=3), tmp/'set', dict(near_copy=6, exact_copy=6, copy_across_classes=6), seed=7)
    f = embed(s, look=look)
    return s, Measures.from_looks(f.facts, f.looks), f


# What was planted

def test_planted_copies_are_found(spoilt):
    s, m, f = spoilt
    c = find_copies(s, m, f)
    t = marks(s, c)
    assert (t.loc['exact', ['recall', 'precision']] == 1).all() and t.precision['near_copy'] == 1 and t.recall['near_copy'] >= .95
    assert (t.loc[[f'  {k}' for k in ('reencoded', 'resized', 'brightened', 'captioned', 'mirrored', 'grey')], 'recall'] == 1).all()
    assert set(c.pairs.kind) == {'exact', 'near'} and c.pairs.score.between(.5, 1).all() and (c.pairs.evidence != '').all()
    mirrored = planted(s).query("kind == 'mirrored'")
    said = {frozenset(o[:2]): o[2] for o in c.pairs[['a', 'b', 'evidence']].itertuples(index=False)}
    assert all('mirrored' in said[frozenset(o)] for o in zip(mirrored.file, mirrored.of))


def test_hashes_alone_find_the_easy_ones(spoilt):
    s, m, f = spoilt
    t, more = marks(s, find_copies(s, m)), marks(s, find_copies(s, m, f))
    assert (t.loc[[f'  {k}' for k in ('reencoded', 'resized', 'brightened', 'mirrored', 'grey')], 'recall'] == 1).all()
    assert t.recall['near_copy'] < more.recall['near_copy']


def test_crops_are_placed(spoilt):
    "The share that evidence names is the share that was planted."
    s, m, _ = spoilt
    t, row = planted(s).query("kind == 'cropped'"), {f: i for i, f in enumerate(m.files)}
    v = verify(m.thumbs, np.array([[row[a], row[b]] for a, b in zip(t.of, t.file)]))
    v, amount = v[v.same], t.amount.to_numpy()[v.same.to_numpy()]
    assert len(v) >= .8*len(t) and (v.larger == 0).all() and abs(v.wide-(1-amount)).max() < .03 and abs(v.high-(1-amount)).max() < .03


def test_same_seed_same_pairs(spoilt):
    s, m, f = spoilt
    a = find_copies(s, m, f, seed=1)
    assert a.pairs.equals(find_copies(s, m, f, seed=1).pairs) and a.group() == find_copies(s, m, f, seed=1).group()


def test_order_of_rows_changes_no_cluster(spoilt):
    s, m, f = spoilt
    again = ImageSet(s.df.iloc[np.random.default_rng(0).permutation(len(s))], s.path)
    a, b = (find_copies(o, m, f) for o in (s, again))
    assert together(a) == together(b)
    names = [o.group().df.set_index('file').group for o in (a, b)]
    assert names[0].equals(names[1].reindex(names[0].index))


@pytest.mark.parametrize('size', [1, 3, 256])
def test_the_share_of_work_changes_nothing(spoilt, size):
    s, m, f = spoilt
    pairs = candidates(m.hashes, f.rows(m.files))[:60]
    whole = cp._verified(m.thumbs, pairs, share=1000)
    pd.testing.assert_frame_equal(whole, cp._verified(m.thumbs, pairs, share=size))
    if size > 1: pd.testing.assert_frame_equal(whole, cp._verified(m.thumbs, pairs, share=size, many=0))      # in other processes


def same_bits(thumb):
    import imagehash
    both = [imagehash.phash(o).hash for o in (thumb, ImageOps.mirror(thumb))]
    return np.array_equal(perceptual_hash(thumb), np.packbits(np.reshape(both, (2, 64)), axis=1))


def test_hashes_are_those_of_imagehash(spoilt):
    "Also where rounding decides: plain pictures, halves, stripes."
    _, m, _ = spoilt
    assert all(same_bits(Image.fromarray(t)) for t in m.thumbs)
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    for a in (x*0, x*0+255, x*0+77, (x < 32)*255, (y < 32)*200, x*4, y*3, abs(2*x-63)*4, (x//8+y//8) % 2*255, (x == 5)*255): assert same_bits(Image.fromarray(a.astype(np.uint8)))


@pytest.mark.parametrize('name', ['guitars', 'paintings'])
def test_hashes_of_photographs_are_those_of_imagehash(name, photos):
    images = ImageSet.from_folder(photos/name)
    m = Measures.of(images.where(np.arange(len(images)) % 5 == 0))
    assert len(m) > 100 and all(same_bits(Image.fromarray(t)) for t in m.thumbs)


def test_one_within_the_other():
    "Turned, and reaching out beyond the edge on either side: no copy that was cut to fit. Crops may overlap, and the larger may lie in the smaller."
    window = lambda left, right, top, bottom, turn=0: cp._frames([[left, right, top, bottom]]) @ np.array([[[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]], np.float32)
    within = lambda *o: bool(cp._within(window(*o))[0])
    assert within(0, 1, 0, 1) and within(.1, .9, .05, .95) and within(.1, .9, .1, .9, .1) and within(-.05, .9, 0, 1) and within(-.05, 1.05, -.05, 1.05, .04)
    assert not within(0, 1, 0, 1, .1) and not within(.02, 1.04, -.03, .98, -.08)


# Clusters and groups

def test_groups_join(tmp_path):
    "Copies of copies are one cluster; groups that were there are joined where a copy connects them, and keep a name."
    im = scene(1)
    for i, o in enumerate([im, im.resize((80, 60)), ImageOps.mirror(im)]): save(o, tmp_path/'a'/f'{i}.png')
    for i in range(2, 6): save(scene(i), tmp_path/'b'/f'{i}.png')
    images = ImageSet.from_folder(tmp_path).replace(group=['', 'x', '', 'x', 'y', 'y', ''])
    c = find_copies(images, Measures.of(images))
    assert together(c) == {frozenset(['a/0.png', 'a/1.png', 'a/2.png'])}
    assert c.group().df.group.tolist() == ['x', 'x', 'x', 'x', 'y', 'y', '']
    plain = find_copies(images.replace(group=''), Measures.of(images)).group().df
    assert plain.group[:3].nunique() == 1 and plain.group[0].startswith('copies-') and (plain.group[3:] == '').all() and (plain.sha256 != '').all()


def test_groups_of_equal_files_are_those_of_group_copies(tmp_path):
    for i in range(6): save(scene(i % 3), tmp_path/'a'/f'{i}.png')
    images = ImageSet.from_folder(tmp_path)
    assert find_copies(images, Measures.of(images)).group().df.group.tolist() == images.verify().group_copies().df.group.tolist()


# Pictures of every kind

def test_all_identical(tmp_path):
    save(scene(0), tmp_path/'a'/'0000.png')
    for i in range(1, 300): (tmp_path/'a'/f'{i:04}.png').write_bytes((tmp_path/'a'/'0000.png').read_bytes())
    c = found(tmp_path)
    assert len(c) == 299 and set(c.pairs.kind) == {'exact'} and len(c.clusters) == 1 and len(c.clusters[0]) == 300


def test_many_copies_of_one(tmp_path):
    "More copies than neighbours are asked for: still one cluster."
    (tmp_path/'a').mkdir()
    for q in range(30, 70): scene(0).save(tmp_path/'a'/f'{q}.jpg', quality=q)
    for i in range(1, 30): save(scene(i), tmp_path/'b'/f'{i}.png')
    c = found(tmp_path)
    assert [len(o) for o in c.clusters] == [40] and all(f.startswith('a/') for f in c.clusters[0])


@pytest.mark.parametrize('n', [0, 1, 2])
def test_hardly_any_picture(tmp_path, n):
    for i in range(2): save(scene(0, 160+40*i), tmp_path/'a'/f'{i}.png')
    images = ImageSet.from_folder(tmp_path).where(np.arange(2) < n)
    m = Measures.of(images)
    for f in (None, Features(np.eye(n, 8, dtype=np.float32)+1, m.files, m.facts, Backbone.named(pretrained=False))):
        c = find_copies(images, m, f)
        assert isinstance(c, Copies) and len(c) == (n == 2) and list(c.pairs.columns) == ['a', 'b', 'kind', 'score', 'evidence']
        assert len(c.issues) == 2*len(c) and list(c.issues.columns) == ['file', 'kind', 'score', 'evidence', 'other']
        assert len(c.group()) == n and c.clusters == [['a/0.png', 'a/1.png']]*(n == 2) and repr(c).startswith('Copies:') and c._repr_html_()


def test_strangers_are_strangers(tmp_path):
    for i in range(120): save(scene(i), tmp_path/'a'/f'{i}.png')
    assert len(found(tmp_path)) == 0


def test_plain_pictures_are_copies_only_of_their_own_colour(tmp_path):
    "Their hashes are rounding, and there is nothing to correlate: colours decide. Equal greys of other hues are no copies."
    colours = dict(white='#ffffff', black='#000000', red='#c80000', green='#006600', grey='#3c3c3c', beige='#f5f5dc')
    for name, c in colours.items():
        for i, size in enumerate([(90, 60), (64, 64)]): save(Image.new('RGB', size, c), tmp_path/name/f'{i}.png')
    for k in range(0, 60, 3): save(Image.new('RGB', (50, 50), (100+k, 90, 90)), tmp_path/'series'/f'{k}.png')
    c = found(tmp_path)
    assert together(c) == {frozenset([f'{name}/0.png', f'{name}/1.png']) for name in colours} and (c.pairs.score == 1).all()
    assert set(c.pairs.evidence) == {'both are one even colour, the same'}


def test_hundreds_of_plain_pictures(tmp_path):
    for i in range(300): save(Image.new('RGB', (20+i, 20), 'white'), tmp_path/'a'/f'{i:03}.png')
    c = found(tmp_path)
    assert len(c) == 299 and len(c.clusters) == 1


@pytest.mark.parametrize('gain', [.04, .1])
def test_faint_pictures_are_told_apart(tmp_path, gain):
    "Hardly any contrast, but not plain: copies are found, strangers are not."
    for i in range(30): save(scene(i).point(lambda v: 120+gain*(v-128)), tmp_path/'a'/f'{i:02}.png')
    save(scene(3, 200, 150).point(lambda v: 120+gain*(v-128)), tmp_path/'b'/'copy.png')
    assert together(found(tmp_path)) == {frozenset(['a/03.png', 'b/copy.png'])}


@pytest.mark.parametrize('size', [(1, 1), (10_000, 1), (1, 10_000), (3, 2)])
def test_shapes_at_the_edge(tmp_path, size):
    rng = np.random.default_rng(0)
    for i in range(3): save(Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)), tmp_path/'a'/f'{i}.png')
    save(Image.open(tmp_path/'a'/'0.png'), tmp_path/'b'/'same.bmp')
    for i in range(5): save(scene(i), tmp_path/'c'/f'{i}.png')
    assert frozenset(['a/0.png', 'b/same.bmp']) in {frozenset(o) & {'a/0.png', 'b/same.bmp'} for o in found(tmp_path).clusters}


def test_unreadable_files_are_no_copies(tmp_path):
    "Two broken files of equal content are nobody's copies, and bear their reason."
    for i in range(4): save(scene(i), tmp_path/'a'/f'{i}.png')
    for i in range(2): (tmp_path/'a'/f'broken{i}.png').write_text('Forbidden')
    c = found(tmp_path)
    assert len(c) == 0 and sorted(c.images.problems.file) == ['a/broken0.png', 'a/broken1.png'] and (c.group().df.group == '').all()


def test_quarantined_pictures_are_left_out(tmp_path):
    for i in range(3): save(scene(0), tmp_path/'a'/f'{i}.png')
    images = ImageSet.from_folder(tmp_path).replace(status=['ok', 'quarantined', 'ok'])
    c = find_copies(images, Measures.of(images))
    assert c.pairs[['a', 'b']].to_numpy().tolist() == [['a/0.png', 'a/2.png']] and c.group().df.group[1] == ''


def test_says_which_picture_was_not_measured(tmp_path):
    for i in range(3): save(scene(i), tmp_path/'a'/f'{i}.png')
    images = ImageSet.from_folder(tmp_path)
    m = Measures.of(images.where([True, True, False]))
    with pytest.raises(KeyError, match=r'a/2\.png.*Measures\.of'): find_copies(images, m)
    few = Features(np.eye(2, 8, dtype=np.float32), m.files, m.facts, Backbone.named(pretrained=False))
    with pytest.raises(KeyError, match=r'a/2\.png.*no embedding'): find_copies(images, Measures.of(images), few)


def test_shows_pairs(tmp_path):
    for i in range(3): save(scene(0, 100+20*i), tmp_path/'a'/f'{i}.png')
    c = found(tmp_path)
    assert c.show(1).image.width < c.show(3).image.width and 'pairs of copies' in c.show().alt and c.show(kind='exact').alt.startswith('0 pairs')


# Neighbours, and growth

def test_neighbours_are_the_nearest():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 24), dtype=np.float32)
    a, b, far = neighbours(X, X, 5)
    U = X/np.linalg.norm(X, axis=1, keepdims=True)
    exact = {(i, j) for i, row in enumerate(U @ U.T) for j in np.argsort(-row)[:5]}
    assert len(exact & set(zip(a, b)))/len(exact) > .98 and np.allclose(far, 1-(U[a]*U[b]).sum(1), atol=1e-4)
    bits = rng.integers(0, 256, (300, 8), dtype=np.uint8)
    a, b, far = neighbours(bits, bits, 1, 'hamming')
    assert (a == b).all() and (far == 0).all() and len(a) == 300


def test_the_work_grows_as_pictures_do():
    "So many candidates for each picture, however many pictures, and also where hashes are all the same."
    rng = np.random.default_rng(0)
    each = {n: len(candidates(rng.integers(0, 256, (n, 2, 8), dtype=np.uint8), rng.standard_normal((n, 128), dtype=np.float32)))/n for n in (500, 4000)}
    assert each[4000] < 1.5*each[500]+1
    assert len(candidates(np.zeros((3000, 2, 8), np.uint8))) <= 3000*2*(cp.NEIGHBOURS+1)


# Photographs

def test_photographs(photos, tmp_path, cache):
    images = ImageSet.from_names(photos/'pet_breeds'/'images', r'^(.+)_\d+\.jpg$')
    images = images.where(np.arange(len(images)) % 8 == 0)
    s = plant(images, tmp_path/'set', dict(near_copy=7, exact_copy=7, copy_across_classes=7), seed=11)
    f = embed(s, look=look)
    t = marks(s, find_copies(s, Measures.from_looks(f.facts, f.looks), f))
    assert (t.loc['exact', ['recall', 'precision']] == 1).all() and t.recall['near_copy'] >= .95 and t.precision['near_copy'] >= .97, t


def test_product_photographs(photos):
    "Guitars on white, two models that only an expert tells apart: pairs of the same photograph only, which hashes alone cannot say."
    images = ImageSet.from_folder(photos/'guitars')
    images = images.where(images.df.label.isin(['fender_jaguar', 'fender_jazzmaster']))
    m = Measures.of(images)
    assert len(candidates(m.hashes)) > 200 and len(find_copies(images, m)) <= 2
