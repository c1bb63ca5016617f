"Planting: exact, the same each time, silent towards the tools, and whole or not there at all. And marks counted by hand."
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import troublesome as tr
from conftest import ROOT
from filelock import FileLock
from PIL import Image
from scipy.stats import mannwhitneyu

from lookalikes.defects import COPIES, FAMILIES, KINDS, TRUTH, plant, planted, spoil
from lookalikes.draw import draw, truth
from lookalikes.imageset import ImageSet, read_csv
from lookalikes.picture import ImageError, open_image, sniff
from lookalikes.scoring import score

CHANGING = [k for k in KINDS if k not in FAMILIES['exact'] and k not in ('wrong_label', 'off_topic')]
KEPT = '', 'wrong_label', *FAMILIES['exact']                    # kinds that leave the bytes as they were
posix = pytest.mark.skipif(os.name != 'posix', reason='needs a POSIX system')


@pytest.fixture(scope='module')
def sixty(tmp_path_factory):
    "Sixty drawn pictures of each of two classes, split, with their truth."
    return draw('chihuahua_or_muffin', n=60, size=64, path=tmp_path_factory.mktemp('sixty')/'set', classes=['chihuahua', 'muffin']).split(valid=.2, test=.2)


@pytest.fixture(scope='module')
def everything(sixty, tmp_path_factory): return plant(sixty, tmp_path_factory.mktemp('everything')/'set', 'all', seed=5)


def snapshot(path): return {p.relative_to(path).as_posix(): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b'') for p in path.rglob('*')}


def content(images):
    "The bytes of the pictures, the manifest and the truth."
    return {p.relative_to(images.path).as_posix(): p.read_bytes() for p in images.path.rglob('*') if p.is_file() and not p.name.endswith('.lock')}


def whole_truth(images): return read_csv(images.path/'truth.csv')


def folder(path, **classes):
    "A folder of pictures of noise: `classes` says how many each class has."
    for i, (c, n) in enumerate(classes.items()):
        (path/c).mkdir(parents=True)
        for k in range(n): tr.noise(40, 32, 100*i+k).save(path/c/f'{k}.jpg')
    return ImageSet.from_folder(path)


# Exactness

WISH = {'exact_copy': 3, 'mirrored': .05, 'copy_across_classes': 2, 'copy_across_splits': 4, 'wrong_label': .1, 'off_topic': 5, 'dark': 2, 'truncated': 3, 'harmless': 4}


def test_counts_are_as_asked_and_each_row_stands_once(sixty, tmp_path):
    before = snapshot(sixty.path)
    s = plant(sixty, tmp_path/'new', WISH)
    assert snapshot(sixty.path) == before, 'the original was changed'
    p = planted(s)
    want = {k: round(120*n) if isinstance(n, float) else n for k, n in WISH.items()}
    assert p.kind.value_counts().to_dict() == want and p.file.is_unique and list(p) == TRUTH
    added = sum(n for k, n in want.items() if k in COPIES or k == 'off_topic')
    assert len(s) == 120 + added == len(list(s.path.glob('*/*.jpg'))) and set(s.df.file) == {f.relative_to(s.path).as_posix() for f in s.path.glob('*/*')}
    assert s == ImageSet.load(s.path) == ImageSet.from_folder(s.path)
    t = whole_truth(s)
    assert list(t.file) == list(s.df.file) and list(t.label_given) == list(s.df.label)
    assert sorted(t.was[~t.kind.isin([*COPIES, 'off_topic'])]) == sorted(sixty.df.file), 'every picture is there once'


def test_the_rest_is_byte_for_byte_what_it_was(sixty, everything):
    old, seen = sixty.df.set_index('file'), 0
    for r in whole_truth(everything).itertuples():
        if r.kind == 'off_topic': continue
        same = (everything.path/r.file).read_bytes() == (sixty.path/r.was).read_bytes()
        assert same == (r.kind in KEPT), r
        assert r.label_true == old.label[r.was]
        seen += same
    assert seen > 100


def test_an_untouched_set_has_none(sixty, drawn, tmp_path):
    for s in sixty, ImageSet.from_folder(drawn), plant(sixty, tmp_path/'copy', {}):
        p = planted(s)
        assert len(p) == 0 and list(p) == TRUTH and p.amount.dtype == float
    assert len(s) == 120 and (s.df.split.value_counts() == sixty.df.split.value_counts()).all()


def test_a_picture_plays_one_part(everything):
    p = planted(everything)
    copies = p[p.kind.isin(COPIES)]
    assert copies.of.is_unique and not set(copies.of) & set(p.file) and (copies.of != '').all() and (p.of[~p.kind.isin(COPIES)] == '').all()
    assert set(p.kind) == set(KINDS)


def test_labels_say_what_was_done(sixty, everything):
    p = planted(everything)
    lied = p.kind.isin(['wrong_label', 'copy_across_classes', 'off_topic'])
    assert ((p.label_true != p.label_given) == lied).all() and set(p.label_given) <= set(sixty.classes)
    assert (p.label_true[p.kind == 'off_topic'] == '').all() and (p.note[p.kind == 'wrong_label'] == 'random').all()
    assert (everything.df.set_index('file').label[p.file].to_numpy() == p.label_given).all()


def test_copies_straddle_the_split_as_told(sixty, everything):
    p, split = planted(everything), everything.df.set_index('file').split
    for r in p[p.kind.isin(COPIES)].itertuples():
        assert (split[r.file] != split[r.of]) == (r.kind == 'copy_across_splits'), r
        if r.kind == 'copy_across_splits': assert r.note == f'{split[r.of]} -> {split[r.file]}'
    t = whole_truth(everything)
    t, old = t[~t.kind.isin(['copy_across_splits', 'off_topic'])], sixty.df.set_index('file').split
    assert (split[t.file].to_numpy() == old[t.was].to_numpy()).all()


def test_a_class_is_taken_for_another(sixty, tmp_path):
    p = planted(plant(sixty, tmp_path/'new', {'wrong_label': dict(n=30, to={'muffin': 'chihuahua'})}))
    assert p.note.value_counts().to_dict() == {'random': 15, 'confused': 15} and set(p.label_true[p.note == 'confused']) == {'muffin'}


@pytest.mark.parametrize('kind,amount', [('cropped', .2), ('reencoded', 10), ('tiny', (8, 9)), ('truncated', .3), ('resized', 2), ('brightened', (1.9, 2.))])
def test_a_strength_is_as_asked(sixty, kind, amount, tmp_path):
    s = plant(sixty, tmp_path/'new', {kind: dict(n=4, amount=amount)})
    p, (low, high) = planted(s), amount if isinstance(amount, tuple) else (amount, amount)
    assert p.amount.between(low, high).all()
    if kind in ('cropped', 'resized'): assert {Image.open(s.path/f).size for f in p.file} == {(51, 51) if kind == 'cropped' else (128, 128)}


# Silence

def test_the_manifest_says_nothing(everything):
    df = everything.df
    assert set(df.columns) == set(ImageSet(df, '.').df.columns) and set(df.status) == {'ok'}
    assert all((df[c] == '').all() for c in ('group', 'sha256', 'reason', 'query', 'url', 'page', 'retrieved')) and not df[['width', 'height']].any(axis=None)
    assert all(df[c].nunique() == 1 for c in ('license', 'creator'))      # whose they are, spoilt or not
    assert list(df.file) == sorted(df.file)
    assert all(re.fullmatch(r'(\w+)/\1_\d{4}\.jpg', f) and f.startswith(lab) for f, lab in zip(df.file, df.label))


@pytest.mark.parametrize('kind', ['exact_copy', 'cropped', 'wrong_label', 'off_topic', 'dark', 'truncated'])
def test_numbers_dates_and_endings_say_nothing(sixty, kind, tmp_path):
    s = plant(sixty, tmp_path/'new', {kind: 50}, seed=3)
    number = s.df.file.str.extract(r'_(\d+)\.')[0].astype(int)
    touched = s.df.file.isin(planted(s).file)
    assert mannwhitneyu(number[touched], number[~touched]).pvalue > .01
    for label in s.classes: assert sorted(number[s.df.label == label]) == list(range(1, (s.df.label == label).sum()+1))
    assert len({(s.path/f).stat().st_mtime_ns for f in s.df.file}) == len({(s.path/f).stat().st_mode for f in s.df.file}) == 1


def test_how_a_file_is_stored_says_nothing(sixty, tmp_path):
    s = plant(sixty, tmp_path/'new', {k: 3 for k in (*FAMILIES['near_copy'], *FAMILIES['quality'], 'off_topic') if k != 'reencoded'})
    stored = {(str(im.quantization), im.mode, im.layer[0]) for f in s.df.file for im in [Image.open(s.path/f)]}
    assert len(stored) == 1


def test_a_mixed_set_keeps_its_endings(tmp_path):
    for i in range(60):
        fmt = ['jpg', 'png', 'webp'][i % 3]
        (tmp_path/'old'/'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        tr.noise(48, 40, i).save(tmp_path/'old'/'ab'[i % 2]/f'{i}.{fmt}')
    s = plant(ImageSet.from_folder(tmp_path/'old'), tmp_path/'new', {'near_copy': 2, 'quality': 2, 'off_topic': 9}, seed=1)
    for p in s.paths: assert {'JPEG': '.jpg', 'PNG': '.png', 'WEBP': '.webp'}[sniff(p.read_bytes()[:512])] == p.suffix


# The same each time

def test_same_seed_same_bytes_whatever_the_order_of_rows(sixty, everything, tmp_path):
    again = plant(sixty, tmp_path/'again', 'all', seed=5)
    shuffled = ImageSet(sixty.df.sample(frac=1, random_state=1), sixty.path)
    assert content(again) == content(everything) == content(plant(shuffled, tmp_path/'shuffled', None, seed=5))
    assert content(plant(sixty, tmp_path/'other', 'all', seed=6)).keys() != content(everything).keys() or planted(everything).file.tolist() != planted(ImageSet.load(tmp_path/'other')).file.tolist()


@pytest.mark.parametrize('kind', CHANGING)
def test_a_spoilt_file_is_the_same_each_time(kind):
    data = tr.encode(tr.scene(), 'JPEG', quality=90)
    assert spoil(data, kind, seed=7)[0] == spoil(data, kind, seed=7)[0]
    assert len({hashlib.sha256(spoil(data, kind, seed=i)[0]).hexdigest() for i in range(8)}) > 1 or kind in ('mirrored', 'grey', 'html', 'wrong_ending')


# What opens and what does not

@pytest.mark.parametrize('name', [n for n in tr.WHOLE if n.split('.')[1].upper() != 'AVIF' or 'AVIF' in Image.SAVE])
@pytest.mark.parametrize('kind', CHANGING)
def test_every_kind_on_every_format(kind, name):
    data = tr.WHOLE[name]
    for seed in range(3):
        out, amount, note = spoil(data, kind, seed=seed)
        assert out != data
        if kind in FAMILIES['unreadable']:
            with pytest.raises(ImageError): open_image(out)
            continue
        im, was = open_image(out), open_image(data)
        if kind in ('resized', 'cropped', 'rotated', 'tiny', 'odd_aspect'): assert im.size != was.size
        else: assert im.size == was.size
        if kind == 'tiny': assert max(im.size) == round(amount)
        if kind == 'odd_aspect': assert 4 < max(im.size)/min(im.size) < 10


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (1, 400), (400, 1), (9, 9)])
@pytest.mark.parametrize('kind', CHANGING)
def test_every_kind_on_very_small_pictures(kind, size):
    out = spoil(tr.encode(tr.noise(*size), 'PNG'), kind)[0]
    assert kind in FAMILIES['unreadable'] or open_image(out)


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
@pytest.mark.parametrize('kind', CHANGING)
def test_every_kind_on_jpegs_of_other_modes(kind, mode):
    out = spoil(tr.encode(tr.noise().convert(mode), 'JPEG'), kind)[0]
    assert kind in FAMILIES['unreadable'] or open_image(out)


def test_a_file_with_much_after_its_last_pixel_is_cut_until_it_breaks():
    data = tr.encode(tr.noise(), 'JPEG')
    out, share, note = spoil(data + bytes(9*len(data)), 'truncated', amount=.5)
    with pytest.raises(ImageError): open_image(out)
    assert share < .1 and note == f'{len(out):,} of {10*len(data):,} bytes'


def test_oddities_show_the_same_picture():
    im = tr.scene()
    notes = set()
    for fmt, kw in (('JPEG', dict(quality=95)), ('PNG', {}), ('WEBP', dict(lossless=True)), ('BMP', {})):
        data = tr.encode(im, fmt, **kw)
        for seed in range(12):
            out, _, note = spoil(data, 'harmless', seed=seed)
            notes.add(note)
            assert tr.near(open_image(out), im) < 9 and open_image(out).size == im.size
        assert tr.near(open_image(spoil(data, 'wrong_ending')[0]), im) < 9 and sniff(spoil(data, 'wrong_ending')[0]) == ('PNG' if fmt == 'JPEG' else 'JPEG')
    assert notes == {'16 bits a channel', 'turned by EXIF', 'CMYK'}
    deep, turned, inks = (next(spoil(tr.encode(im, 'JPEG'), 'harmless', seed=i)[0] for i in range(40) if spoil(tr.encode(im, 'JPEG'), 'harmless', seed=i)[2] == n) for n in ('16 bits a channel', 'turned by EXIF', 'CMYK'))
    assert deep[24] == 16 and Image.open(io.BytesIO(turned)).getexif()[0x0112] in (3, 6, 8) and Image.open(io.BytesIO(inks)).mode == 'CMYK'


def levels(data): return np.asarray(open_image(data).convert('L'), float)


def test_faults_of_quality_are_what_they_are_called():
    data = tr.encode(draw_one(), 'JPEG', quality=95)
    was, now = levels(data), {k: levels(spoil(data, k)[0]) for k in FAMILIES['quality']}
    rough = lambda a: np.abs(np.diff(a, axis=1)).mean()
    assert now['dark'].mean() < .2*was.mean() and now['bright'].mean() > 215
    assert rough(now['blurred']) < .5*rough(was) < .25*rough(now['noisy']) and now['blank'].std() < 1
    assert now['low_contrast'].std() < .2*was.std() and abs(now['low_contrast'].mean()-was.mean()) < 3


def draw_one():
    from lookalikes.draw import draw_picture
    return draw_picture('chihuahua_or_muffin', 'chihuahua', 0, 1)


# Real photographs

@pytest.mark.parametrize('name', ['chihuahua_or_muffin', 'search_noise', 'kittens_or_cats', 'pet_breeds'])
def test_real_photographs(name, photos, tmp_path):
    images = ImageSet.from_names(photos/name, r'^(.+)_\d+\.jpg$') if name == 'pet_breeds' else ImageSet.from_folder(photos/name)
    if len(images) > 400: images = images.where(np.arange(len(images)) % 5 == 0)
    images = images.split(valid=.2, test=.2)
    s = plant(images, tmp_path/'new', 'all', seed=1)
    p = planted(s)
    assert set(p.kind) == set(KINDS) and len(s) == len(images) + (p.kind.isin([*COPIES, 'off_topic'])).sum()
    checked = s.verify()
    assert set(checked.problems.file) == set(p.file[p.kind.isin(FAMILIES['unreadable'])])
    small = lambda f: np.asarray(open_image(s.path/f).convert('L').resize((16, 16), Image.Resampling.BOX), float).ravel()
    alike = lambda r: np.corrcoef(small(r.file) if r.kind != 'mirrored' else small(r.file).reshape(16, 16)[:, ::-1].ravel(), small(r.of))[0, 1]
    close = [alike(r) for r in p[p.kind.isin(FAMILIES['near_copy'])].itertuples()]
    assert np.mean(close) > .85, close
    sha = checked.df.set_index('file').sha256
    assert all(sha[r.file] == sha[r.of] for r in p[p.kind.isin(FAMILIES['exact'])].itertuples())
    assert not any(sha[r.file] == sha[r.of] for r in p[p.kind.isin(FAMILIES['near_copy'])].itertuples())


# Beside the drawings' own truth

def test_the_drawings_truth_comes_along(sixty, everything):
    known, drawn_truth = truth(everything), truth(sixty).set_index('file')
    assert list(known.file) == list(everything.df.file) and set(drawn_truth.columns) <= set(known.columns)
    rows = known[known.kind != 'off_topic']
    for c in ('label', 'background', 'scale', 'angle'): assert list(rows[c]) == list(drawn_truth[c][rows.was])
    assert known.background[known.kind == 'off_topic'].isna().all() and (rows.label == rows.label_true).all()


def test_columns_of_the_same_name_do_not_clash(sixty, tmp_path):
    shutil.copytree(sixty.path, tmp_path/'old')
    t = read_csv(tmp_path/'old'/'truth.csv')
    t.assign(kind='round', amount='7', was='x').to_csv(tmp_path/'old'/'truth.csv', index=False)
    s = plant(ImageSet.from_folder(tmp_path/'old'), tmp_path/'new', {'dark': 2})
    assert len(planted(ImageSet.from_folder(tmp_path/'old'))) == 0 and len(planted(s)) == 2
    assert set(truth(s).drawn_kind) == {'round'} and set(truth(s).drawn_amount) == {7} and set(truth(s).drawn_was) == {'x'}


def test_a_part_of_a_planted_set_has_its_part_of_the_defects(everything):
    test = everything.where(everything.df.split == 'test')
    p = planted(test)
    assert 0 < len(p) < len(planted(everything)) and set(p.file) <= set(test.df.file)


# Off topic

def test_pictures_of_another_set(sixty, tmp_path):
    other = folder(tmp_path/'mops', mop=6)
    s = plant(sixty, tmp_path/'new', {'off_topic': 6}, off_topic=other)
    p = planted(s)
    assert sorted(p.note) == [f'mops/mop/{i}.jpg' for i in range(6)] and {open_image(s.path/f).size for f in p.file} == {(40, 32)}
    with pytest.raises(ValueError, match='off_topic: 7 wanted, the set given has 6'): plant(sixty, tmp_path/'more', {'off_topic': 7}, off_topic=other)
    assert not (tmp_path/'more').exists()


# Few pictures, odd names

def test_small_classes(tmp_path):
    s = folder(tmp_path/'old', one=1, two=2, many=12)
    p = planted(plant(s, tmp_path/'a', {'exact_copy': 5, 'dark': 7}))
    assert len(p) == 12 and 'one' not in set(p.label_true) and (p.label_true == 'two').sum() == 1
    with pytest.raises(ValueError, match=r"exact_copy: 13 pictures wanted and 12 left to take of 15; class 'one' has only 1"): plant(s, tmp_path/'b', {'exact_copy': 13})
    with pytest.raises(ValueError, match='two classes'): plant(s.where(s.df.label == 'many'), tmp_path/'b', {'wrong_label': 1})
    assert sorted(o.name for o in tmp_path.iterdir()) == ['a', 'old']
    assert 'wrong_label' not in set(planted(plant(folder(tmp_path/'alone', x=40), tmp_path/'b')).kind)


@posix
def test_odd_names_and_labels(tmp_path):
    labels = ['a/b', 'A_b', '..', '', '.hidden', 'caf\udce9', 'new\nline', 'x'*300, '  ', 'a_b']
    (tmp_path/'old').mkdir()
    files = [f for f in ('comma,.jpg', 'quo"te.jpg', 'new\nline.jpg', 'latin-\udce9.jpg', '-rf.jpg', 'no_ending', 'dot.', 'UPPER.JPG', 'a b.jpeg', '%s.jpg')]
    try:
        for f in files: (tmp_path/'old'/f).write_bytes(tr.encode(tr.noise(), 'JPEG'))
    except OSError: pytest.skip('this file system takes Unicode names only')
    old = ImageSet.from_df(pd.DataFrame(dict(file=files*1, label=labels), dtype=object), tmp_path/'old')
    s = plant(old, tmp_path/'new', {'off_topic': 3})
    assert len(s.verify().ok) == 13 and ImageSet.load(s.path) == s and sorted(whole_truth(s).was[lambda w: w != '']) == sorted(files)
    assert len({f.split('/')[0].lower() for f in s.df.file}) == s.df.label.nunique() and all(len(f.split('/')) == 2 and f[0] != '.' for f in s.df.file)


def test_only_usable_pictures_are_copied(tmp_path):
    s = folder(tmp_path/'old', a=9, b=9)
    s = s.replace(status=['quarantined'] + ['ok']*17, reason=['blurred'] + ['']*17, group='g', url='http://example.org', license='CC0')
    new = plant(s, tmp_path/'new', {'exact_copy': 2})
    assert len(new) == 19 and s.df.file[0] not in set(whole_truth(new).was) and (new.df.url == '').all() and (new.df.group == '').all()


# All or nothing

def test_a_picture_that_does_not_open_is_named_and_nothing_is_left(tmp_path):
    s = folder(tmp_path/'old', a=9, b=9)
    for p in s.paths: p.write_bytes(p.read_bytes()[:100])
    with pytest.raises(ImageError, match=r'jpg: truncated JPEG file; set such files aside first'): plant(s, tmp_path/'new', {'dark': 3})
    s.paths[4].unlink()
    with pytest.raises(OSError, match=f'{s.paths[4].name} cannot be copied'): plant(s, tmp_path/'new', {})
    assert [o.name for o in tmp_path.iterdir()] == ['old']


def test_a_folder_that_holds_something_is_left_alone(sixty, tmp_path):
    (tmp_path/'a').mkdir()
    assert len(plant(sixty, tmp_path/'a', {'dark': 1})) == 120        # empty is fine
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError, match='not empty'): plant(sixty, tmp_path/'a', {'dark': 1})
    with pytest.raises(FileExistsError, match='a file'): plant(sixty, tmp_path/'a'/'manifest.csv', {'dark': 1})
    with pytest.raises(ValueError, match='never changed'): plant(sixty, sixty.path/'deep'/'er', {'dark': 1})
    with pytest.raises(ValueError, match='planted in it already'): plant(ImageSet.load(tmp_path/'a'), tmp_path/'b', {'dark': 1})
    assert snapshot(tmp_path) == before and not (sixty.path/'deep').exists()


@pytest.mark.parametrize('defects,say', [('scratched', 'known are all, exact'), ({'scratched': 1}, 'known are'), ({'dark': 1.5}, 'as a whole number'), ({'dark': -1}, 'as a whole number'), ({'dark': True}, 'as a whole number'),
    ({'dark': '3'}, 'as a whole number'), ({'dark': dict(amount=.1)}, 'dark: None'), ({'dark': dict(n=1, gain=2)}, "no option 'gain'"), ({'dark': dict(n=1, amount=2)}, 'between 0 and 1'), ({'dark': dict(n=1, amount='x')}, 'between 0 and 1'),
    ({'mirrored': dict(n=1, amount=.5)}, 'no strength'), ({'dark': dict(n=1, to={'a': 'b'})}, 'wrong_label alone'), ({'wrong_label': dict(n=1, to={'muffin': 'cat'})}, 'need two classes'),
    ({'wrong_label': dict(n=1, to={'muffin': 'muffin'})}, 'need two classes'), ({'exact_copy': 200}, "has only 60")])
def test_wishes_that_make_no_sense(sixty, defects, say, tmp_path):
    with pytest.raises(ValueError, match=say): plant(sixty, tmp_path/'new', defects)
    assert not list(tmp_path.iterdir())


def test_one_at_a_time(sixty, tmp_path):
    with FileLock(tmp_path/'.new.planting.lock'):
        with pytest.raises(FileExistsError, match='another process'): plant(sixty, tmp_path/'new', {'dark': 1})
    assert len(plant(sixty, tmp_path/'new', {'dark': 1})) == 120


@pytest.mark.skipif(os.name == 'nt', reason='no SIGKILL')
def test_a_killed_run_leaves_nothing_that_looks_like_a_set(sixty, tmp_path):
    wish = {k: 5 for k in (*FAMILIES['near_copy'], *FAMILIES['quality'])}
    code = f'import sys\nfrom lookalikes.imageset import ImageSet\nfrom lookalikes.defects import plant\nprint("here", flush=True)\nplant(ImageSet.load(sys.argv[1]), sys.argv[2], {wish!r})'
    sixty.save()
    hidden = tmp_path/'.new.planting'
    def so_far():
        try: return len(list(hidden.glob('*/*.jpg')))
        except FileNotFoundError: return 0  # it was renamed while we looked
    killed = 0
    for wanted in 5, 60, 140:
        p = subprocess.Popen([sys.executable, '-c', code, sixty.path, tmp_path/'new'], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        p.stdout.readline()
        while p.poll() is None and so_far() < wanted and time.monotonic() < end: time.sleep(.001)
        p.send_signal(signal.SIGKILL)
        p.communicate()
        if p.returncode == 0: shutil.rmtree(tmp_path/'new')            # it was done before the signal came
        else: killed += hidden.exists()
        assert not list(tmp_path.glob('[!.]*'))
    assert killed
    again, whole = plant(sixty, tmp_path/'new', wish), plant(sixty, tmp_path/'whole', wish)
    assert content(again) == content(whole) and not hidden.exists()


# Marks

MARKED = pd.DataFrame([('c1', 'exact_copy', 'o1'), ('c2', 'exact_copy', 'o2'), ('c3', 'copy_across_classes', 'o3'), ('n1', 'cropped', 'o4'), ('w1', 'wrong_label', ''), ('w2', 'wrong_label', ''), ('d', 'dark', ''), ('h', 'harmless', '')],
                      columns=['file', 'kind', 'of']).assign(label_true='a', label_given='b', amount=np.nan, note='')


def test_marks_counted_by_hand():
    m = score(MARKED, {'exact_copy': ['o1', 'c1', 'c3', 'n1', 'o3', 'x', 'h', 'd'], 'wrong_label': ['w1', 'o3', 'c3', 'x', 'y', 'd', 'o1']}).set_index('kind')
    r = m.loc['exact_copy']          # c1's pair is found by both its files, c2's not; c3, o3, n1 and d bear something else; x and h are sound
    assert (r.planted, r.found, r.flagged, r.right, r.beside) == (2, 1, 8, 2, 4) and (r.recall, r.precision) == (.5, .5)
    r = m.loc['wrong_label']         # nobody can say which of c3 and o3 is labelled wrongly; o1 is sound
    assert (r.planted, r.found, r.flagged, r.right, r.beside) == (2, 1, 7, 1, 3) and (r.recall, r.precision) == (.5, .25)
    assert abs(r.precision_low-.0456) < .001 and abs(r.precision_high-.6994) < .001      # Wilson's interval of 1 in 4
    assert list(m.index) == ['exact_copy', 'wrong_label', 'copy_across_classes', 'cropped', 'dark'] and (m.found[2:] == 0).all() and m.precision[2:].isna().all()


def test_marks_of_families_and_of_a_tools_own_words():
    flagged = pd.DataFrame(dict(file=['c1', 'o2', 'o3', 'x', 'd', 'w1', 'z'], kind=['dup']*4 + ['dim', 'odd', 'odd']))
    m = score(MARKED, flagged, names={'dup': 'exact', 'dim': ['dark', 'low_contrast'], 'odd': None})
    assert list(m.kind[:3]) == ['exact', '  exact_copy', '  copy_across_classes'] and list(m.found[:3]) == [3, 2, 1] and m.precision[0] == .75
    assert m.set_index('kind').loc['dark + low_contrast', 'precision'] == 1 and m.set_index('kind').loc['wrong_label', 'found'] == 0
    with pytest.raises(ValueError, match="no kind of defect 'dup'.*names="): score(MARKED, {'dup': []})


def test_marks_for_a_tool_that_knows_all_and_one_that_knows_nothing(everything):
    p = planted(everything)
    best = score(everything, p[~p.kind.isin(FAMILIES['oddity'])])
    assert (best.recall == 1).all() and (best.precision == 1).all() and set(best.kind) == set(KINDS) - set(FAMILIES['oddity'])
    none = score(p, {})
    assert (none.recall == 0).all() and (none.recall_high < 1).all() and none.planted.sum() == best.planted.sum()
    assert len(score(planted(everything.where(~everything.df.file.isin(p.file))), {})) == 0
    loud = score(everything, {'dark': everything.df.file}).iloc[0]
    oddities = p.kind.isin(FAMILIES['oddity']).sum()
    assert loud.beside == len(p) - oddities - loud.planted and loud.flagged == len(everything)


def test_credits_travel_with_the_pictures(sixty, tmp_path):
    "A copy is its maker's, like the original; an invented picture is the library's; a set that says nothing goes on saying nothing."
    images = sixty.replace(creator=[f'maker {i}' for i in range(len(sixty))], license='CC BY 4.0', page=[f'https://example.org/{i}' for i in range(len(sixty))])
    by = dict(zip(images.df.file, images.df.creator))
    s = plant(images, tmp_path/'new', {'exact_copy': 3, 'dark': 3, 'off_topic': 3, 'wrong_label': 3})
    known, df = read_csv(s.path/'truth.csv').set_index('file'), ImageSet.load(s.path).df
    for r in df.itertuples():
        kind = known.kind[r.file]
        want = ('lookalikes.draw', 'CC0-1.0', '') if kind == 'off_topic' else (by[known.was[r.file]], 'CC BY 4.0', 'https://example.org/' + by[known.was[r.file]].split()[1])
        assert (r.creator, r.license, r.page) == want, (r.file, kind)
    assert (df.creator == 'lookalikes.draw').sum() == 3
    silent = plant(images.replace(creator='', license='', page=''), tmp_path/'silent', {'off_topic': 3})
    assert set(silent.df.creator) == set(silent.df.license) == {''}
