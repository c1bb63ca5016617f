"Files that go wrong, and a few that only look wrong: `make` puts them into a folder and says what opening each must give."
import io
import os
import random
import socket
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

W, H = 64, 48
T = Image.Transpose


def scene(w=W, h=H):
    "A picture without symmetry: red, green, blue and yellow quarters, a black mark in the first."
    a = np.zeros((h, w, 3), np.uint8)
    a[:h//2, :w//2], a[:h//2, w//2:], a[h//2:, :w//2], a[h//2:, w//2:] = (200, 40, 40), (40, 160, 60), (40, 60, 190), (220, 200, 60)
    a[h//8:h//4, w//8:w//4] = 0
    return Image.fromarray(a)


def noise(w=W, h=H, seed=0): return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8))


def encode(im, fmt, **kw):
    b = io.BytesIO()
    im.save(b, fmt, **kw)
    return b.getvalue()


def oriented(im, fmt, n, **kw):
    "`im` stored the way a camera held in position `n` (1-8) stores it."
    undo = {1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90, 7: T.TRANSVERSE, 8: T.ROTATE_270}[n]
    exif = Image.Exif()
    exif[0x0112] = n
    return encode(im if undo is None else im.transpose(undo), fmt, exif=exif, **kw)


def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind+data))


def png(w, h, rows, colour=2, bits=8, extra=b''):
    "A PNG by hand: `rows` are its unfiltered bytes, a 0 before each row."
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, bits, colour, 0, 0, 0)) + extra
            + chunk(b'IDAT', zlib.compress(rows, 9)) + chunk(b'IEND', b''))


GAMMA, ADOBE = 563/256, np.array([[.60974, .20528, .14919], [.31111, .62567, .06322], [.01947, .06087, .74457]])  # to XYZ, D50
SRGB = np.array([[.43607, .38515, .14307], [.22249, .71687, .06061], [.01392, .09708, .71410]])


def wide_gamut():
    "The Adobe RGB colour space as an ICC profile."
    fixed = lambda *v: struct.pack(f'>{len(v)}i', *(round(o*65536) for o in v))
    xyz = lambda v: b'XYZ \0\0\0\0' + fixed(*v)
    text = b'wide\0'
    tags = {b'desc': b'desc\0\0\0\0' + struct.pack('>I', len(text)) + text + bytes(78), b'cprt': b'text\0\0\0\0' + text, b'wtpt': xyz((.9642, 1, .8249)),
            **{c+b'XYZ': xyz(ADOBE[:, i]) for i, c in enumerate((b'r', b'g', b'b'))},
            **{c+b'TRC': b'curv\0\0\0\0' + struct.pack('>IH', 1, 563) for c in (b'r', b'g', b'b')}}
    table, body, start = b'', b'', 128+4+12*len(tags)
    for sign, data in tags.items():
        table += sign + struct.pack('>II', start+len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack('>I4sI4s4s4s', start+len(body), b'\0\0\0\0', 0x02100000, b'mntr', b'RGB ', b'XYZ ') + bytes(12) + b'acsp' + bytes(28) + fixed(.9642, 1, .8249)
    return head + bytes(128-len(head)) + struct.pack('>I', len(tags)) + table + body


def to_srgb(rgb):
    "What an Adobe RGB colour is in sRGB."
    lin = np.clip(np.linalg.solve(SRGB, ADOBE @ (np.array(rgb)/255)**GAMMA), 0, 1)
    return np.where(lin <= .0031308, lin*12.92, 1.055*lin**(1/2.4)-.055)*255


# What an opened picture must look like: functions that say what is wrong, or nothing.

def near(a, b): return float(np.abs(np.asarray(a).astype(float)-np.asarray(b).astype(float)).mean())


def same(want, tol=0.):
    def check(im):
        if im.size != want.size: return f'size {im.size}, not {want.size}'
        if (d := near(im, want.convert('RGB'))) > tol: return f'{d:.1f} levels off on average'
    return check


def colour(rgb, size=None, tol=4):
    def check(im):
        if size and im.size != size: return f'size {im.size}, not {size}'
        if (d := np.abs(np.asarray(im).astype(float)-np.array(rgb)).max()) > tol: return f'a colour {d:.0f} levels off {rgb}; first pixel {im.getpixel((0, 0))}'
    return check


def ramp(im):
    "Grey from black at the left to white at the right."
    return same(Image.fromarray(np.tile(np.linspace(0, 255, im.width).round().astype(np.uint8), (im.height, 1))), 1.)(im)


@dataclass(frozen=True)
class Case:
    name: str  # of the file
    make: Callable  # gives the file's bytes, or makes the file itself at the path it gets
    reason: str = ''  # a word of the reason why it cannot be opened
    check: Callable | None = None  # for a picture that must open: says what is wrong with it
    odd: bool = False  # some systems cannot hold such a file


CASES: dict[str, Case] = {}


def _add(name, make, *args, **kw):
    assert name not in CASES
    CASES[name] = Case(name, make, *args, **kw)


def bad(name, reason, odd=False): return lambda f: _add(name, f, reason, odd=odd)
def good(name, check, odd=False): return lambda f: _add(name, f, check=check, odd=odd)
def static(data): return lambda path: data


def make(folder):
    "Put every case that this system can hold into `folder`; the list of these."
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [c for c in CASES.values() if _make(Path(folder)/c.name, c)]


def _make(path, c):
    try:
        data = c.make(path)
        if data is not None: path.write_bytes(data)
    except (OSError, AttributeError, NotImplementedError, UnicodeError):
        if not c.odd: raise
        return False
    return True


# No pictures at all

bad('empty.jpg', 'empty')(static(b''))
bad('zeros.jpg', 'zero bytes')(static(bytes(5000)))
bad('html.jpg', 'HTML')(static(b'\n<!DOCTYPE html>\n<html><body>404 Not Found</body></html>'))
bad('json.jpg', 'JSON')(static(b'{"error": "no such picture"}'))
bad('text.jpg', 'text')(static(b'Forbidden\n'))
bad('xml.jpg', 'XML')(static(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'))
bad('svg.jpg', 'SVG')(static(b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'))
bad('pdf.jpg', 'PDF')(static(b'%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n'))
bad('gzip.jpg', 'gzip')(static(b'\x1f\x8b\x08\0'+bytes(60)))
bad('heic.jpg', 'HEIC')(static(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic'+bytes(40)))
bad('random.jpg', 'not a picture')(static(random.Random(0).randbytes(4000)))
bad('jpeg_magic.jpg', 'JPEG')(static(b'\xff\xd8\xff\xe0'+random.Random(1).randbytes(4000)))
bad('png_magic.png', 'PNG')(static(b'\x89PNG\r\n\x1a\n'+random.Random(2).randbytes(4000)))
bad('only_magic.jpg', 'JPEG')(static(b'\xff\xd8\xff'))


@bad('zip.jpg', 'ZIP')
def _(path):
    b = io.BytesIO()
    with zipfile.ZipFile(b, 'w') as z: z.writestr('cat.txt', 'meow')
    return b.getvalue()


# The wrong name for the content

for _name in 'jpeg.img', 'jpeg.txt', 'jpeg_no_ending', 'jpeg.png': good(_name, same(scene(), 6))(static(encode(scene(), 'JPEG', quality=95)))
good('png.jpg', same(scene()))(static(encode(scene(), 'PNG')))
good('upper.JPG', same(scene(), 6))(static(encode(scene(), 'JPEG', quality=95)))

# Cut short. Whether every single length is refused is for test_picture.py

WHOLE = {'jpeg.jpg': encode(noise(), 'JPEG'), 'progressive.jpg': encode(noise(), 'JPEG', progressive=True), 'png.png': encode(noise(), 'PNG'),
         'gif.gif': encode(noise(), 'GIF'), 'webp.webp': encode(noise(), 'WEBP'), 'lossless.webp': encode(noise(), 'WEBP', lossless=True),
         'plain.tif': encode(noise(), 'TIFF'), 'lzw.tif': encode(noise(), 'TIFF', compression='tiff_lzw'), 'deflate.tif': encode(noise(), 'TIFF', compression='tiff_adobe_deflate'),
         'jpeg.tif': encode(noise(), 'TIFF', compression='jpeg'), 'avif.avif': encode(noise(), 'AVIF'), 'bmp.bmp': encode(noise(), 'BMP'),
         'jp2.jp2': encode(noise(), 'JPEG2000'), 'ico.ico': encode(noise(32, 32), 'ICO', sizes=[(32, 32)]), 'ppm.ppm': encode(noise(), 'PPM')}
_kinds = {'jpg': 'JPEG', 'png': 'PNG', 'gif': 'GIF', 'webp': 'WEBP', 'tif': 'TIFF', 'avif': 'AVIF'}
for _name, _data in WHOLE.items():
    if (_kind := _kinds.get(_name.split('.')[1])):
        for _cut in 5, 30, 60, 97: bad(f'cut_{_cut}_{_name}', _kind)(static(_data[:len(_data)*_cut//100]))

# Headers that promise more than memory can hold

_big = 60_000
HUGE = {'bomb.png': png(_big, _big, bytes(10**6), colour=0),
        'huge.gif': b'GIF89a' + struct.pack('<HHBBB', 65535, 65535, 0x80, 0, 0) + bytes(6) + b',' + struct.pack('<HHHHB', 0, 0, 65535, 65535, 0) + b'\x02\x02\x44\x01\0;',
        'huge.bmp': b'BM' + struct.pack('<IIIIiiHHIIiiII', 100, 0, 54, 40, _big, _big, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(60),
        'huge.tif': b'II*\0\x08\0\0\0' + struct.pack('<H', 9) + b''.join(struct.pack('<HHII', *o) for o in (
            (256, 4, 1, _big), (257, 4, 1, _big), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, _big), (279, 4, 1, 999))) + bytes(64),
        'huge.webp': b'RIFF' + struct.pack('<I', 58) + b'WEBPVP8X' + struct.pack('<I', 10) + b'\x02\0\0\0' + b'\xff\xff\x00'*2 + b'ANIM' + struct.pack('<I', 6) + bytes(6)
                     + b'ANMF' + struct.pack('<I', 16) + bytes(16),
        'huge_lossless.webp': b'RIFF' + struct.pack('<I', 32) + b'WEBPVP8L' + struct.pack('<I', 20) + b'\x2f' + struct.pack('<I', 16382 | 16382 << 14) + bytes(15),
        'huge.jpg': (lambda d, i: d[:i+5] + struct.pack('>HH', 65500, 65500) + d[i+9:])(d := encode(scene(), 'JPEG'), d.index(b'\xff\xc0'))}
_bomb = png(12_000, 12_000, bytes(1_501*12_000), colour=0, bits=1)
HUGE['bomb.ico'] = b'\0\0\1\0\1\0' + struct.pack('<BBBBHHII', 16, 16, 0, 0, 1, 32, len(_bomb), 22) + _bomb
for _name, _data in HUGE.items(): bad(_name, 'too large')(static(_data))

# Damaged

bad('header_crc.png', 'PNG')(static((lambda d: d[:29] + bytes([d[29] ^ 1]) + d[30:])(encode(scene(), 'PNG'))))
for _at in 20, 50, 80: bad(f'flipped_{_at}.png', 'PNG')(static((lambda d, i: d[:i] + bytes([d[i] ^ 255]) + d[i+1:])(d := WHOLE['png.png'], len(d)*_at//100)))
bad('no_frames.gif', 'GIF')(static(b'GIF89a' + struct.pack('<HHBBB', 9, 9, 0, 0, 0) + b';'))
bad('no_pixels.png', 'PNG')(static(encode(scene(), 'PNG')[:33] + chunk(b'IEND', b'')))
bad('no_size.png', 'PNG')(static(png(0, 0, b'')))
bad('text_bomb.png', 'PNG')(static(encode(scene(), 'PNG')[:33] + chunk(b'zTXt', b'Comment\0\0' + zlib.compress(bytes(4*2**20), 9)) + encode(scene(), 'PNG')[33:]))
_exif = b'Exif\0\0'
for _name, _data in {'exif_garbage': _exif+random.Random(3).randbytes(300), 'exif_far': _exif+b'MM\0*\xff\xff\xff\xf0'+bytes(20), 'exif_cut': _exif+b'II*\0\x08\0\0\0\x09\0\x12\x01',
                     'exif_type': _exif+b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0'+bytes(4), 'exif_9': _exif+b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0'+bytes(4)}.items():
    good(f'{_name}.jpg', same(scene(), 6))(static(encode(scene(), 'JPEG', quality=95, exif=_data)))
    good(f'{_name}.png', same(scene()))(static(encode(scene(), 'PNG', exif=_data)))
    good(f'{_name}.webp', same(scene()))(static(encode(scene(), 'WEBP', lossless=True, exif=_data)))

# Colours that are not RGB

_red = Image.new('RGB', (W, H), (210, 50, 40))
_cmyk = encode(_red.convert('CMYK'), 'JPEG', quality=95)
good('adobe_cmyk.jpg', colour((210, 50, 40)))(static(_cmyk))
good('cmyk.jpg', colour((210, 50, 40)))(static((lambda d, i: d[:i] + d[i+16:])(_cmyk, _cmyk.index(b'\xff\xee\0\x0eAdobe'))))
_ramp16 = np.tile(np.linspace(0, 65535, W).round().astype(np.uint16), (H, 1))
good('grey16.png', ramp)(static(encode(Image.fromarray(_ramp16), 'PNG')))
good('grey16.tif', ramp)(static(encode(Image.fromarray(_ramp16), 'TIFF')))
good('grey16.pgm', ramp)(static(b'P5\n%d %d\n65535\n' % (W, H) + _ramp16.astype('>u2').tobytes()))
good('grey16_big_endian.tif', ramp)(static((lambda a: b'MM\0*\0\0\0\x08' + struct.pack('>H', 9) + b''.join(struct.pack('>HHI', t, k, 1) + (struct.pack('>HH', v, 0) if k == 3 else struct.pack('>I', v))
    for t, k, v in ((256, 3, W), (257, 3, H), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 122), (277, 3, 1), (278, 3, H), (279, 4, len(a)))) + bytes(4) + a)(_ramp16.astype('>u2').tobytes())))
good('float.tif', ramp)(static(encode(Image.fromarray(np.tile(np.linspace(-3, 7, W, dtype=np.float32), (H, 1))), 'TIFF')))
good('float_nan.tif', lambda im: None)(static(encode(Image.fromarray(np.full((H, W), np.nan, np.float32)), 'TIFF')))
good('int32.tif', ramp)(static(encode(Image.fromarray(_ramp16.astype(np.int32)*1000), 'TIFF')))
good('rgb16.png', colour((171, 18, 52), (2, 2), 0))(static(png(2, 2, (b'\0'+b'\xab\xcd\x12\x34\x34\x56'*2)*2, 2, 16)))
_bits = Image.fromarray((np.indices((H, W)).sum(0) % 2*255).astype(np.uint8)).convert('1')
good('one_bit.png', same(_bits))(static(encode(_bits, 'PNG')))
good('one_bit.tif', same(_bits))(static(encode(_bits, 'TIFF', compression='group4')))
good('grey.jpg', same(scene().convert('L'), 6))(static(encode(scene().convert('L'), 'JPEG', quality=95)))
good('lab.tif', same(scene(), 4))(static(encode(ImageCms.profileToProfile(scene(), ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), outputMode='LAB'), 'TIFF')))
good('palette.png', same(scene()))(static(encode(scene().quantize(8), 'PNG')))

# Transparent is white

def _holed(mode):
    im = scene().convert(mode)
    im.putalpha(Image.fromarray(np.where(np.arange(W)[None].repeat(H, 0) < W//2, 0, 255).astype(np.uint8)))
    return im


def _half_white(mode='RGB'):
    im = scene().convert(mode).convert('RGB')
    im.paste('white', (0, 0, W//2, H))
    return im


for _fmt, _kw in ('PNG', {}), ('WEBP', dict(lossless=True)), ('TIFF', {}): good(f'rgba.{_fmt.lower()}', same(_half_white()))(static(encode(_holed('RGBA'), _fmt, **_kw)))
good('la.png', same(_half_white('L')))(static(encode(_holed('L'), 'PNG')))
good('half_seen.png', colour((255, 128, 128), tol=2))(static(encode(Image.new('RGBA', (4, 4), (255, 0, 0, 127)), 'PNG')))
_pal = Image.fromarray(np.where(np.arange(W)[None].repeat(H, 0) < W//2, 0, 1).astype(np.uint8))
_pal.putpalette([10, 20, 30, 200, 100, 50])
_pal_seen = Image.new('RGB', (W, H), (200, 100, 50))
_pal_seen.paste('white', (0, 0, W//2, H))
good('palette_index.png', same(_pal_seen))(static(encode(_pal, 'PNG', transparency=0)))
good('palette_bytes.png', same(_pal_seen))(static(encode(_pal, 'PNG', transparency=b'\0\xff')))
good('palette_index.gif', same(_pal_seen))(static(encode(_pal, 'GIF', transparency=0)))
good('colour_key.png', colour((255, 255, 255), tol=0))(static(png(2, 2, (b'\0'+b'\xff\0\0'*2)*2, extra=chunk(b'tRNS', b'\0\xff\0\0\0\0'))))
good('grey_key.png', colour((255, 255, 255), tol=0))(static(png(2, 2, (b'\0'+b'\x12'*2)*2, 0, extra=chunk(b'tRNS', b'\0\x12'))))
good('grey16_key.png', colour((255, 255, 255), tol=0))(static(png(2, 2, (b'\0'+b'\x12\x34'*2)*2, 0, 16, chunk(b'tRNS', b'\x12\x34'))))
_icc = chunk(b'iCCP', b'wide\0\0'+zlib.compress(wide_gamut()))
good('colour_key_profile.png', colour((255, 255, 255), tol=0))(static(png(2, 2, (b'\0'+b'\xff\0\0'*2)*2, extra=_icc+chunk(b'tRNS', b'\0\xff\0\0\0\0'))))

# Several frames: the first counts

_next = noise()
good('animated.gif', same(scene()))(static(encode(scene().quantize(8), 'GIF', save_all=True, append_images=[_next.quantize(8)], duration=50)))
good('animated.webp', same(scene()))(static(encode(scene(), 'WEBP', lossless=True, save_all=True, append_images=[_next], duration=50)))
good('animated.png', same(scene()))(static(encode(scene(), 'PNG', save_all=True, append_images=[_next], duration=50)))
good('animated.avif', same(scene(), 8))(static(encode(scene(), 'AVIF', save_all=True, append_images=[_next], duration=50, quality=95)))
good('pages.tif', same(scene()))(static(encode(scene(), 'TIFF', save_all=True, append_images=[_next])))
good('stereo.mpo', same(scene(), 6))(static(encode(scene(), 'MPO', save_all=True, append_images=[_next], quality=95)))
good('stereo.jpg', same(scene(), 6))(static(encode(scene(), 'MPO', save_all=True, append_images=[_next], quality=95)))

# Colour profiles

_green = Image.new('RGB', (W, H), (120, 200, 110))
for _name, _data in {'wide.png': encode(_green, 'PNG', icc_profile=wide_gamut()), 'wide.jpg': encode(_green, 'JPEG', quality=95, icc_profile=wide_gamut()),
                     'wide_alpha.png': encode(_green.convert('RGBA'), 'PNG', icc_profile=wide_gamut()),
                     'wide_palette.png': encode(_green.quantize(2), 'PNG', icc_profile=wide_gamut())}.items():
    good(_name, colour(to_srgb((120, 200, 110)), (W, H)))(static(_data))
good('srgb.png', same(scene()))(static(encode(scene(), 'PNG', icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())))
good('broken_profile.png', same(scene()))(static(encode(scene(), 'PNG', icc_profile=b'not a profile'*20)))
good('cut_profile.jpg', same(scene(), 6))(static(encode(scene(), 'JPEG', quality=95, icc_profile=wide_gamut()[:200])))
good('wrong_profile.png', same(scene().convert('L')))(static(encode(scene().convert('L'), 'PNG', icc_profile=wide_gamut())))

# Turned by the camera

for _n in range(1, 9): good(f'turned_{_n}.jpg', same(scene(), 6))(static(oriented(scene(), 'JPEG', _n, quality=95)))
good('turned_6.tif', same(scene()))(static(oriented(scene(), 'TIFF', 6)))

# Other sizes and formats

good('one.png', colour((1, 2, 3), (1, 1), 0))(static(encode(Image.new('RGB', (1, 1), (1, 2, 3)), 'PNG')))
good('high.png', colour((1, 2, 3), (1, 20_000), 0))(static(encode(Image.new('RGB', (1, 20_000), (1, 2, 3)), 'PNG')))
good('wide_hair.png', colour((1, 2, 3), (20_000, 1), 0))(static(encode(Image.new('RGB', (20_000, 1), (1, 2, 3)), 'PNG')))
good('high.jpg', colour((100, 100, 100), (1, 20_000)))(static(encode(Image.new('RGB', (1, 20_000), (100, 100, 100)), 'JPEG')))
good('avif.avif', same(scene(), 8))(static(encode(scene(), 'AVIF', quality=95)))
good('plain.tif', same(scene()))(static(encode(scene(), 'TIFF')))
good('jp2.jp2', same(scene()))(static(encode(scene(), 'JPEG2000')))
good('ico.ico', same(scene(32, 32)))(static(encode(scene(32, 32), 'ICO', sizes=[(32, 32)])))

# Names

for _name in ('new\nline.jpg', 'return\r.jpg', 'quo"te\'s.jpg', 'comma,semi;colon.jpg', '\N{CAT FACE} \N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}.jpg', '-rf.jpg', '  two  spaces .jpg', 'back\\slash.jpg',
              'x'*196 + '.jpg', os.fsdecode(b'latin-\xe9\xff.jpg') if os.name == 'posix' else 'caf\xe9.jpg', '%s{0}$HOME~.jpg', '\u202ertl.jpg', 'NA', '=1+1.jpg'):
    good(_name, same(scene(), 6), odd=True)(static(encode(scene(), 'JPEG', quality=95)))
bad('bad\nname\x1b[31m.jpg', 'text', odd=True)(static(b'Forbidden\n'))
bad(os.fsdecode(b'bad-\xff.jpg') if os.name == 'posix' else 'bad-\xff.jpg', 'text', odd=True)(static(b'Forbidden\n'))

# Not even files

bad('folder.jpg', 'folder')(lambda path: path.mkdir())
bad('dangling.jpg', 'link', odd=True)(lambda path: path.symlink_to('nothing-here.jpg'))
bad('loop.jpg', 'link', odd=True)(lambda path: path.symlink_to('loop.jpg'))
bad('pipe.jpg', 'pipe', odd=True)(lambda path: os.mkfifo(path))


@bad('socket.jpg', 'socket', odd=True)
def _(path):
    with tempfile.TemporaryDirectory(dir=path.parent.parent if len(os.fsencode(path)) < 80 else None) as d, socket.socket(socket.AF_UNIX) as s:
        s.bind(f'{d}/s')  # its address may have 100 characters at most, so it is made elsewhere and moved
        os.rename(f'{d}/s', path)
