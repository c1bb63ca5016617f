"Opening pictures: an upright RGB picture, or one `ImageError` that says which file and why; nothing else, whatever the file."
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import troublesome as tr
from conftest import WHOLE
from PIL import Image

from lookalikes.picture import FORMATS, ImageError, Preprocess, _quiet, contact_sheet, open_image, read_bytes, show_name, sniff

# A warning that escapes is an error here: nobody can tell from it which of 10,000 files it is about.
pytestmark = pytest.mark.filterwarnings('error', 'ignore::PIL.Image.DecompressionBombWarning')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('troublesome')/'files'
    made = {c.name for c in tr.make(path)}
    return path, made


def within(seconds, f, *args, **kw):
    "What `f` returns or raises, if it does so in time."
    out = []

    def run():
        try: out.append((f(*args, **kw), None))
        except BaseException as e: out.append((None, e))
    t = threading.Thread(target=run, daemon=True)
    t.start()
    t.join(seconds)
    if t.is_alive(): pytest.fail(f'still busy after {seconds} s')
    if out[0][1] is not None: raise out[0][1]
    return out[0][0]


def attempt(src, **kw):
    "The picture or the `ImageError`; anything else is raised, an error that says too little fails."
    try: im = open_image(src, **kw)
    except ImageError as e:
        assert str(e).isprintable() and e.reason and str(e) == f'{show_name(e.file)}: {e.reason}'
        return e
    assert im.mode == 'RGB' and im.width*im.height
    im.load()
    return im


# Every kind of trouble

@pytest.mark.parametrize('name', tr.CASES, ids=ascii)
def test_open(name, folder):
    path, made = folder
    if name not in made: pytest.skip('this system holds no such file')
    case, got = tr.CASES[name], within(20, attempt, path/name)
    if case.reason:
        assert isinstance(got, ImageError), f'opened as {got}'
        assert case.reason in got.reason and got.file == path/name
    else:
        assert isinstance(got, Image.Image), got
        assert not (wrong := case.check(got)), wrong
        assert got.info['full_size'] == got.size


def test_bytes_are_opened_like_files(folder):
    path, made = folder
    for name in made:
        if not (path/name).is_file(): continue
        a, b = attempt(path/name), attempt((path/name).read_bytes(), name=name)
        if isinstance(a, ImageError): assert isinstance(b, ImageError) and b.file == name
        else: assert isinstance(b, Image.Image) and np.array_equal(a, b), name


def test_opening_leaves_the_warning_filters_alone(folder):
    before = list(warnings.filters)
    files = [folder[0]/name for name in ('exif_far.jpg', 'exif_cut.jpg', 'turned_6.jpg')]*20
    with ThreadPoolExecutor(8) as ex: list(ex.map(attempt, files))
    assert list(warnings.filters) == before


def test_what_others_set_while_a_picture_is_opened_stays():
    "tqdm, say, which hides a warning of its own while the first pictures are opened behind its bar."
    before = list(warnings.filters)
    _quiet.__enter__()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', category=ResourceWarning)
        mine = warnings.filters[0]
        _quiet.__exit__()
        assert mine in warnings.filters and _quiet.own not in warnings.filters
    with _quiet: assert warnings.filters[0] == _quiet.own
    assert list(warnings.filters) == before


def test_huge_claims_take_no_memory(tmp_path):
    resource = pytest.importorskip('resource', reason='Windows has no resource module')
    assert resource
    for name, data in tr.HUGE.items(): (tmp_path/name).write_bytes(data)
    code = '''
import resource, sys, pathlib
from lookalikes.picture import open_image, ImageError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 2**10)
for p in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try: open_image(pathlib.Path(sys.argv[2]))
    except ImageError: pass
    before = peak()
    try: open_image(p)
    except ImageError: pass
    if peak()-before > 48: print(f'{p.name}: {peak()-before:.0f} MB')
'''
    (warm := tmp_path.parent/f'{tmp_path.name}-warm.png').write_bytes(tr.encode(tr.noise(2000, 2000), 'PNG'))
    r = subprocess.run([sys.executable, '-c', code, tmp_path, warm], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and not r.stdout, r.stdout + r.stderr


@pytest.mark.parametrize('name', tr.WHOLE)
def test_cut_anywhere_nothing_is_lost_silently(name):
    data = tr.WHOLE[name]
    full = np.asarray(open_image(data))
    for n in {*range(1, len(data), max(1, len(data)//250)), *range(max(1, len(data)-24), len(data))}:
        im = attempt(data[:n])
        assert isinstance(im, ImageError) or np.array_equal(im, full), f'{n} of {len(data)} bytes gave another picture'


@pytest.mark.parametrize('name', ['jpeg.jpg', 'progressive.jpg'])
def test_cut_is_seen_at_reduced_size_too(name):
    data = tr.encode(tr.noise(512, 384), 'JPEG', progressive=name == 'progressive.jpg')
    for n in range(len(data)//20, len(data)-2, len(data)//20): assert isinstance(attempt(data[:n], min_side=40), ImageError)


@pytest.mark.parametrize('name', [*tr.WHOLE, 'palette.png', 'rgba.png', 'animated.gif', 'turned_6.jpg', 'turned_6.tif', 'stereo.mpo', 'wide.jpg'])
def test_fuzz(name, folder):
    data = tr.WHOLE.get(name) or (folder[0]/name).read_bytes()
    rng = random.Random(name)
    for _ in range(2000 if WHOLE else 500):
        b = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            i = rng.randrange(rng.choice((64, 600, 10**9)))%max(1, len(b))  # the header more often than its share
            how, n = rng.randrange(5), rng.randrange(1, 40)
            if how == 0: b[i:i+1] = bytes([rng.randrange(256)])
            elif how == 1: b[i:i+1] = bytes([b[i] ^ 1 << rng.randrange(8)]) if b else b''
            elif how == 2: del b[i:i+n]
            elif how == 3: b[i:i] = b[(j := rng.randrange(len(b)+1)):j+n]
            else: b[i:i+4] = rng.choice((b'\xff'*4, bytes(4), b'\x7f\xff\xff\xff', b'\x80\0\0\0'))
        if rng.random() < .1: del b[rng.randrange(len(b)+1):]
        got = attempt(bytes(b), max_pixels=10**6, min_side=rng.choice((None, 16)))
        assert isinstance(got, ImageError) or got.width*got.height <= 10**6


# Which way is up

@pytest.mark.parametrize('n', range(1, 9))
@pytest.mark.parametrize('fmt,kw,tol', [('JPEG', dict(quality=95), 6), ('PNG', {}, 0), ('WEBP', dict(lossless=True), 0), ('TIFF', {}, 0), ('TIFF', dict(compression='tiff_lzw'), 0),
                                        ('AVIF', dict(quality=95), 8)], ids=lambda o: o if isinstance(o, str) else '')
def test_turned(fmt, kw, tol, n):
    im = open_image(tr.oriented(tr.scene(), fmt, n, **kw))
    assert not (wrong := tr.same(tr.scene(), tol)(im)), wrong
    assert im.info['full_size'] == (tr.W, tr.H)


def test_turned_and_reduced():
    im = open_image(tr.oriented(tr.scene(640, 480), 'JPEG', 6, quality=95), min_side=100)
    assert im.size == (160, 120) and im.info['full_size'] == (640, 480)
    assert tr.near(im, tr.scene(640, 480).resize(im.size, Image.Resampling.BOX)) < 6


# Reduced decoding

@pytest.mark.parametrize('size', [(1600, 1200), (1601, 1003), (300, 1999), (257, 255), (40, 30)])
@pytest.mark.parametrize('kw', [{}, dict(progressive=True)], ids=['baseline', 'progressive'])
def test_min_side(size, kw):
    data = tr.encode(tr.noise(8, 6).resize(size, Image.Resampling.BICUBIC), 'JPEG', quality=95, **kw)
    full = np.asarray(open_image(data)).astype(float)
    for side in 1, 16, 100, 224, 256, 999, 5000:
        im = open_image(data, min_side=side)
        assert min(im.size) >= min(side, *size) and im.info['full_size'] == size
        if min(size) >= 2*side: assert im.width < size[0], 'decoded at full size although half was enough'
        k, (w, h) = round(max(size)/max(im.size)), im.size
        blocks = np.pad(full, ((0, k*h-size[1]), (0, k*w-size[0]), (0, 0)), 'edge').reshape(h, k, w, k, 3)
        assert k in (1, 2, 4, 8) and tr.near(im, blocks.mean((1, 3))) < 3


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
def test_min_side_of_other_modes(mode):
    data = tr.encode(tr.scene(640, 480).convert(mode), 'JPEG', quality=95)
    a, b = open_image(data, min_side=100), open_image(data)
    assert a.size == (160, 120) and tr.near(a, b.resize(a.size, Image.Resampling.BOX)) < 6


def test_min_side_leaves_other_formats(folder):
    for name in 'plain.tif', 'png.jpg', 'animated.gif': assert open_image(folder[0]/name, min_side=8).size == (tr.W, tr.H)


# Limits

def test_max_pixels():
    data = tr.encode(tr.scene(), 'PNG')
    assert open_image(data, max_pixels=tr.W*tr.H).size == (tr.W, tr.H)
    with pytest.raises(ImageError, match='too large: 64 x 48 pixels, over the limit of 3,071'): open_image(data, max_pixels=tr.W*tr.H-1)


def test_max_bytes(tmp_path):
    (p := tmp_path/'x.jpg').write_bytes(bytes(1001))
    assert read_bytes(p, max_bytes=1001) == bytes(1001)
    with pytest.raises(ImageError, match='1,001 bytes, over the limit of 1,000'): read_bytes(p, max_bytes=1000)


def test_file_that_grows_while_read(tmp_path, monkeypatch):
    (p := tmp_path/'x.jpg').write_bytes(bytes(5000))
    stat = os.fstat
    monkeypatch.setattr(os, 'fstat', lambda fd: os.stat_result((*stat(fd)[:6], 100, *stat(fd)[7:])))  # as it was a moment ago
    with pytest.raises(ImageError, match='limit'): read_bytes(p, max_bytes=1000)


@pytest.mark.skipif(os.name == 'nt', reason='permissions of another kind')
def test_no_permission():
    code = '''
import os, sys
from lookalikes.picture import open_image, ImageError
if os.geteuid() == 0: os.setuid(65534)
for p in sys.argv[1:]:
    try: open_image(p)
    except ImageError as e: print(e.reason)
'''
    with tempfile.TemporaryDirectory() as d:
        (a := Path(d)/'a.jpg').write_bytes(tr.encode(tr.scene(), 'JPEG'))
        (b := Path(d)/'b'/'b.jpg').parent.mkdir()
        b.write_bytes(a.read_bytes())
        for p, mode in ((d, 0o755), (a, 0), (b.parent, 0)): os.chmod(p, mode)
        r = subprocess.run([sys.executable, '-c', code, a, b], capture_output=True, text=True, timeout=60)
        os.chmod(b.parent, 0o755)
    assert r.stdout.splitlines() == ['no permission to read it']*2, r.stdout + r.stderr


# Names

@pytest.mark.parametrize('name', ['nul\0.jpg', 'lone\ud800.jpg', '', 'x'*300 + '.jpg', 'file.jpg/x.jpg', 'missing.jpg'], ids=['nul', 'surrogate', 'empty', 'long', 'inside a file', 'missing'])
def test_names_that_cannot_be(name, tmp_path):
    (tmp_path/'file.jpg').write_bytes(tr.encode(tr.scene(), 'JPEG'))
    assert isinstance(attempt(os.path.join(tmp_path, name) if name else ''), ImageError)


def test_the_error_fits_one_line():
    for name in 'a\nb', 'a\x1b[31mb', '\u202ea', '', os.fsdecode(b'\xff') if os.name == 'posix' else '\ud800': assert str(ImageError(name, 'why')).isprintable()
    assert str(ImageError('dir/caf\xe9 \N{CAT FACE}.jpg', 'why')) == 'dir/caf\xe9 \N{CAT FACE}.jpg: why'


@pytest.mark.parametrize('file', ['a.jpg', Path('a\n.jpg'), b'a.jpg'])
def test_the_error_pickles(file):
    e = pickle.loads(pickle.dumps(ImageError(file, 'truncated JPEG file')))
    assert type(e) is ImageError and (e.file, e.reason) == (file, 'truncated JPEG file') and str(e) == str(ImageError(file, e.reason))


# What the bytes say

@pytest.mark.parametrize('name,kind', [('jpeg.jpg', 'JPEG'), ('png.png', 'PNG'), ('gif.gif', 'GIF'), ('webp.webp', 'WEBP'), ('plain.tif', 'TIFF'), ('avif.avif', 'AVIF'), ('bmp.bmp', 'BMP'),
                                       ('jp2.jp2', 'JPEG2000'), ('ico.ico', 'ICO'), ('ppm.ppm', 'PPM')])
def test_sniff(name, kind): assert sniff(tr.WHOLE[name][:512]) == kind and kind in FORMATS


@pytest.mark.parametrize('text', [b'BMW, Audi and Fiat\nare cars', b'BM', b'BMI,age\n21,40\n'])
def test_text_is_no_bmp(text): assert sniff(text) not in FORMATS


# What a model sees

@pytest.mark.parametrize('size', [(1, 1), (1, 20_000), (20_000, 1), (2, 3), (7, 5), (223, 224)], ids=lambda s: f'{s[0]}x{s[1]}')
@pytest.mark.parametrize('prep', [Preprocess(), Preprocess(size=8, crop_pct=1), Preprocess(size=96, crop_pct=.5, interpolation='lanczos'), Preprocess(size=33, crop_pct=.01, interpolation='bilinear')], ids=str)
def test_preprocess_any_shape(size, prep):
    a = prep(Image.new('RGB', size, (10, 200, 30)))
    assert a.shape == (prep.size, prep.size, 3) and a.dtype == np.uint8 and (a == (10, 200, 30)).all()


def test_preprocess_takes_the_centre():
    im = Image.new('RGB', (400, 300), 'black')
    im.paste('white', (50, 0, 350, 300))
    for o in im, im.transpose(Image.Transpose.ROTATE_90): assert (Preprocess(size=64, crop_pct=1)(o)[1:-1, 1:-1] > 250).all()
    pics = tr.noise(301, 200)
    flip = Preprocess(size=50)(pics.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[:, ::-1]
    assert np.abs(flip.astype(int)-Preprocess(size=50)(pics)).max() <= 1


@pytest.mark.parametrize('prep', [Preprocess(), Preprocess(size=160, crop_pct=.9), Preprocess(size=97, crop_pct=.33)], ids=str)
def test_preprocess_of_a_reduced_picture(prep):
    data = tr.encode(tr.noise(12, 9).resize((1201, 899), Image.Resampling.BICUBIC), 'JPEG', quality=95)
    reduced = open_image(data, min_side=prep.min_side)
    assert min(reduced.size)*prep.crop_pct >= prep.size, 'the crop had to be enlarged'
    assert tr.near(prep(reduced), prep(open_image(data))) < 2


@pytest.mark.parametrize('kw', [dict(size=7), dict(size=5000), dict(size=224.), dict(size='224'), dict(crop_pct=0), dict(crop_pct=1.01), dict(crop_pct=float('nan')), dict(interpolation='nearest')], ids=str)
def test_preprocess_refuses(kw):
    with pytest.raises(ValueError, match=next(iter(kw))): Preprocess(**kw)


def test_preprocess_survives_json():
    p = Preprocess(size=160, crop_pct=.9, mean=(.1, .2, .3), std=(.4, .5, .6))
    q = Preprocess.from_dict(json.loads(json.dumps(p.to_dict())))
    assert p == q and hash(p) == hash(q)


# Looking at many

def test_contact_sheet_of_everything(folder):
    path, made = folder
    names = sorted(made)
    sheet = within(60, contact_sheet, [path/n for n in names], captions=[show_name(n) for n in names], size=40, cols=20)
    assert sheet.image.size == (20*46+6, -(-len(names)//20)*64+6)
    html = sheet._repr_html_()
    assert html.startswith('<img src="data:image/jpeg;base64,') and html.count('"') == 6 and '<' not in html[1:]


def test_contact_sheet_shows_the_reason_in_place_of_a_broken_file(folder):
    page = contact_sheet([tr.scene(), folder[0]/'html.jpg', tr.scene()], size=100, cols=3).image
    tiles = [np.asarray(page.crop((6+i*106, 6, 106+i*106, 106))).astype(int) for i in range(3)]
    assert (tiles[0] == tiles[2]).all() and ((tiles[1][..., 0]-tiles[1][..., 1]) > 60).any(), 'no red text'


@pytest.mark.parametrize('size', [1, 5, 16])
def test_contact_sheet_of_tiny_tiles(size, folder): assert contact_sheet([tr.scene(), folder[0]/'html.jpg'], size=size).image.height == size+12


def test_contact_sheet_of_nothing(): assert contact_sheet([]).image.size


def test_contact_sheet_wants_a_caption_each():
    with pytest.raises(ValueError, match='2 pictures but 1 captions'): contact_sheet([tr.scene()]*2, ['one'])
