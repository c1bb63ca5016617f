"""A web server on loopback that goes wrong in every way a downloader will meet, and in ways it only seems to.

`BEHAVIOURS` says what each does and what a careful client should make of it; `FaultServer` serves them from a thread, `spawn`
from a process; `urls` mixes a list of them. A behaviour answers at /NAME/NUMBER.jpg, and NUMBER decides the picture.

`python tests/fault_server.py --port 0 --json` prints one line with its addresses and serves until it is killed."""
import argparse
import asyncio
import contextlib
import functools
import gzip
import http.client
import inspect
import io
import ipaddress
import json
import math
import random
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import formatdate
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageDraw

JPEG = 'image/jpeg'
HTML = b'<!DOCTYPE html>\n<html><head><title>Please sign in</title></head><body><form method="post"><input name="password"></form></body></html>\n'
RANDOM = random.Random(0).randbytes(2**16)

# Pictures: everything about one follows from its number


def image(i, side=96):
    "Picture number `i`: soft patches, two shapes and a little grain, unlike any other number's."
    rng = np.random.default_rng(i)
    im = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(im)
    for shape in draw.ellipse, draw.rectangle:
        x, y, w, h = (rng.random(4)*side*.6).astype(int).tolist()
        shape((x, y, x+w+side//12, y+h+side//12), fill=tuple(rng.integers(0, 256, 3).tolist()))
    grain = rng.integers(-12, 13, (side, side, 1), dtype=np.int16)
    return Image.fromarray(np.clip(np.asarray(im)+grain, 0, 255).astype(np.uint8))


def encode(im, fmt=JPEG, **kw):
    b = io.BytesIO()
    im.save(b, fmt.removeprefix('image/'), **kw)
    return b.getvalue()


@functools.lru_cache(4096)
def picture(i, side=96):
    "Picture number `i` as the JPEG that `/good/i.jpg` serves, or `/sized/side/i.jpg`."
    return encode(image(i, side), quality=85)


def reencoded(i): return encode(image(i), quality=60)
def webp(i): return encode(image(i), 'webp', quality=80)
def png(i): return encode(image(i), 'png')
def cmyk(i): return encode(image(i).convert('CMYK'), quality=85)
def animation(i): return encode(image(i).quantize(32), 'gif', save_all=True, append_images=[image(i+10**6+k).quantize(32) for k in range(3)], duration=80)
def tiny(i): return encode(image(i, 10), 'png')


# 60 MB that open: an uncompressed BMP of 5,000 x 4,000 pixels, its strips all alike

LARGE, STRIP = (5000, 4000), 50


@functools.lru_cache(4)
def strip(i): return np.asarray(image(i).resize((LARGE[0], STRIP)))[:, :, ::-1].tobytes()


def large_head():
    n = LARGE[0]*LARGE[1]*3
    return b'BM' + struct.pack('<IIIIiiHHIIiiII', n+54, 0, 54, 40, *LARGE, 1, 24, 0, n, 2835, 2835, 0, 0)


def large(i): return large_head() + strip(i)*(LARGE[1]//STRIP)


# Bombs, made without ever holding what they inflate to

@functools.lru_cache
def deflated_zeros(n, piece=2**20):
    "`n` zero bytes as raw deflate: one piece compressed once and repeated, since a full flush forgets what went before."
    z = zlib.compressobj(9, zlib.DEFLATED, -15)
    one, end = z.compress(bytes(piece)) + z.flush(zlib.Z_FULL_FLUSH), zlib.compressobj(9, zlib.DEFLATED, -15)
    return one*(n//piece) + end.compress(bytes(n % piece)) + end.flush()


def crc_then_zeros(crc, n):
    "The CRC-32 of data with this `crc` and `n` zero bytes after it, in log(n) steps: a zero bit is a linear map of the register."
    def apply(m, v): return functools.reduce(lambda a, k: a ^ m[k] if v >> k & 1 else a, range(32), 0)
    step, v, bits = [0xEDB88320, *(1 << k for k in range(31))], crc ^ 0xFFFFFFFF, 8*n
    while bits:
        if bits & 1: v = apply(step, v)
        step, bits = [apply(step, o) for o in step], bits >> 1
    return v ^ 0xFFFFFFFF


def gzip_bomb(i, n=2**31):
    "A gzip stream that begins with picture `i` and goes on with `n` zero bytes: sniffing its first bytes finds nothing wrong."
    data, z = picture(i), zlib.compressobj(0, zlib.DEFLATED, -15)
    return (b'\x1f\x8b\x08\0\0\0\0\0\0\xff' + z.compress(data) + z.flush(zlib.Z_FULL_FLUSH) + deflated_zeros(n)
            + struct.pack('<II', crc_then_zeros(zlib.crc32(data), n), (n+len(data)) & 0xFFFFFFFF))


def bomb_png(i, side=50_000):
    "A valid one-bit PNG of 2.5 billion pixels in some 300 kB."
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind+data))
    n = side*(side//8 + 1)
    data = b'\x78\xda' + deflated_zeros(n) + struct.pack('>HH', n % 65521, 1)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)) + chunk(b'tEXt', b'Title\0%d' % i)
            + chunk(b'IDAT', data) + chunk(b'IEND', b''))


# Answers

def reply(body=b'', kind=JPEG, status='200 OK', length=None, **headers):
    "A whole answer as bytes. `kind` and `length` None leave a header out; `length` may lie."
    lines = [f'HTTP/1.1 {status}', *([f'Content-Type: {kind}'] if kind else []), *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    return '\r\n'.join([*lines, f'Content-Length: {len(body) if length is None else length}', '', '']).encode('latin-1') + body


def error(status, **headers): return reply(f'<html><h1>{status}</h1></html>\n'.encode(), 'text/html', status, **headers)
def redirect(to, status='302 Found', **headers): return reply(b'', None, status, Location=to.encode().decode('latin-1'), **headers)
def chunk(data): return b'%x\r\n%b\r\n' % (len(data), data)
def head(*lines): return '\r\n'.join(['HTTP/1.1 200 OK', *lines, '', '']).encode('latin-1')


CHUNKED = head(f'Content-Type: {JPEG}', 'Transfer-Encoding: chunked')


@dataclass(frozen=True)
class Behaviour:
    name: str
    about: str  # what it does
    good: bool  # a careful client ends up with the picture
    why: str  # for the others, a regular expression (ignore case) that loosely fits a downloader's reason
    url: str  # a template; see `Addresses.fields`
    option: str  # the setting of the client that `good` hangs on, where there is one
    body: Callable | None  # from the number, the bytes that a client has who gets through; None when there are none
    answer: Callable | None  # f(i) gives the answer; async f(visit, i) may, or sends it itself: b'' is then a whole answer, None a broken one

    def fits(self, reason): return bool(self.why and re.search(self.why, reason, re.I))


BEHAVIOURS: dict[str, Behaviour] = {}
FOLDERS: dict[str, Behaviour] = {}  # the first part of a path
ROOT = 'http://{host}:{http}/'


def _add(name, about, good, why='', url=None, option='', body=picture, folder=None):
    def add(f):
        assert name not in BEHAVIOURS
        BEHAVIOURS[name] = FOLDERS[folder or name] = Behaviour(name, about, good, why, url or ROOT + f'{folder or name}/{{i}}.jpg', option, body, f)
    return add


def good(name, about, **kw): return _add(name, about, True, **kw)
def bad(name, why, about, body=None, **kw): return _add(name, about, False, why, body=body, **kw)


@dataclass
class Visit:
    "One request, with the means to mishandle it."
    server: 'FaultServer'
    stream: '_Stream'
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    method: str
    target: str  # as it came, without fragment check or decoding
    head: bytes
    before: int  # how often this target was asked for before

    @functools.cached_property
    def headers(self): return headers(self.head)
    @property
    def host(self): return self.stream.address
    @property
    def since(self): return time.time() - self.server.first[self.target]  # seconds, from the first request for this target
    def at(self, template, i): return self.server.format(template, i, self.host)

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def pause(self, seconds=3600.):
        "Wait; true as soon as the client has gone."
        try: await asyncio.wait_for(self.stream.gone.wait(), seconds)
        except asyncio.TimeoutError: return False
        return True

    async def reset(self):
        "Leave with RST rather than FIN."
        await asyncio.sleep(.02)  # what was sent before must arrive: RST overtakes it
        self.writer.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('hh' if sys.platform == 'win32' else 'ii', 1, 0))
        self.writer.transport.abort()


def headers(raw):
    "Header names in lower case to values."
    return {k.strip().lower(): v.strip() for k, _, v in (o.partition(':') for o in raw.decode('latin-1').split('\r\n')[1:] if o)}


def number(target):
    "The last number in a path or URL, however it is spelled."
    found = re.findall(r'\d+', unquote(target.partition('#')[0]))
    return int(found[-1]) if found else 0


# Good, plainly

good('good', 'a picture, honestly served')(lambda i: reply(picture(i)))
good('copy', 'the bytes of /good/ under another URL')(lambda i: reply(picture(i)))
good('reencoded', 'the picture of /good/ at another JPEG quality', body=reencoded)(lambda i: reply(reencoded(i)))
good('webp', 'a WebP picture that is called .jpg', body=webp)(lambda i: reply(webp(i), 'image/webp'))
good('animated-gif', 'a GIF of four frames', body=animation)(lambda i: reply(animation(i), 'image/gif'))
good('cmyk', 'a JPEG for printers', body=cmyk)(lambda i: reply(cmyk(i)))
good('png-as-jpeg', 'a PNG served as image/jpeg', body=png)(lambda i: reply(png(i)))
good('text-plain', 'a picture served as text/plain')(lambda i: reply(picture(i), 'text/plain'))
good('html-type', 'a picture served as text/html')(lambda i: reply(picture(i), 'text/html; charset=utf-8'))
good('no-type', 'a picture without a content type')(lambda i: reply(picture(i), None))
good('gzip', 'gzip although identity was asked for, honestly declared')(lambda i: reply(gzip.compress(picture(i), mtime=0), Content_Encoding='gzip'))
good('chunked', 'chunked, with an extension and a trailer')(lambda i: CHUNKED + (lambda d: b'%x;x=1\r\n%b\r\n' % (100, d[:100]) + chunk(d[100:]))(picture(i)) + b'0\r\nX-Sum: 1\r\n\r\n')
good('early-hints', '100 and 103 before the 200')(lambda i: b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n' + reply(picture(i)))
good('tls', 'https with a certificate of `ca`, which the client has to know', url='https://{host0}:{tls}/tls/{i}.jpg', option='ca')(lambda i: reply(picture(i)))


@good('no-length', 'neither length nor chunks: the end of the connection ends it')
async def _(c, i):
    await c.send(head(f'Content-Type: {JPEG}', 'Connection: close') + picture(i))
    c.writer.close()
    return b''


@good('closes-after', 'promises keep-alive, and closes after one answer')
async def _(c, i):
    await c.send(reply(picture(i), Connection='keep-alive', Keep_Alive='timeout=60'))
    c.writer.close()
    return b''


@good('slow-start', 'half a second for headers and body together, in ten pieces')
async def _(c, i):
    data = reply(picture(i))
    for k in range(10):
        if await c.pause(.05): return
        await c.send(data[k*len(data)//10:(k+1)*len(data)//10])
    return b''


@good('head-405', 'HEAD is not allowed; GET is')
async def _(c, i): return reply(picture(i)) if c.method == 'GET' else reply(b'', None, '405 Method Not Allowed', Allow='GET')


@good('agent-wall', '403 unless the User-Agent names a contact (URL or e-mail address)')
async def _(c, i): return reply(picture(i)) if re.search(r'https?://\w|\w@\w', c.headers.get('user-agent', '')) else error('403 Forbidden')


@good('sized', 'a picture of another size: /sized/SIDE/NUMBER.jpg', url=ROOT+'sized/128/{i}.jpg', body=lambda i: picture(i, 128))
async def _(c, i): return reply(picture(i, min(2000, int(c.target.split('/')[2]))))


# Odd URLs, all good: each is 404 unless it arrives the way it was meant

ODD = {'odd-space': ('a picture {i}.jpg', 'spaces'), 'odd-unicode': ('größe/猫 № {i}.jpg', 'letters beyond ASCII'), 'odd-no-ending': ('{i}', 'no ending'),
       'odd-query': ('show.php?size=640x480&name=a+b&id={i}', 'a query string'), 'odd-fragment': ('{i}.jpg#top', 'a fragment, which is not to be sent'),
       'odd-percent': ('a%2Fb%20%C3%A9%25{i}.jpg', 'escapes that must neither be decoded nor escaped again'),
       'odd-long': ('x'*4000 + '{i}.jpg', '4,000 characters'), 'odd-marks': ("a'b(c),d;e!~*@:$&+={i}.jpg", 'punctuation that a path may hold')}


def odd(name, path):
    want = ('/' + name + '/' + path).split('#')[0]
    async def answer(c, i):
        ok = c.target.isascii() and unquote(c.target) == unquote(want.format(i=i)) and c.target.upper().count('%2F') == want.count('%2F')
        return reply(picture(i)) if ok else error('404 Not Found')
    return answer


for _name, (_path, _about) in ODD.items(): good(_name, f'an odd URL: {_about}', url=ROOT + f'{_name}/{_path}')(odd(_name, _path))

# Redirects

for _n, _kw in (3, dict(f=good)), (20, dict(f=functools.partial(bad, why='redirect'))):
    async def _hops(c, i, n=_n):
        at = c.target.split('/')
        k = int(at[2]) if len(at) > 3 else 0
        return reply(picture(i)) if k == n else redirect(f'/redirect-{n}/{k+1}/{i}.jpg', ('302 Found', '301 Moved Permanently', '303 See Other', '307 Temporary Redirect', '308 Permanent Redirect')[k % 5])
    _kw['f'](name=f'redirect-{_n}', about=f'{_n} redirects, then a picture')(_hops)


def lands(to):
    "Redirect to the template `to`; whatever lies in the folder done/ is a picture."
    async def answer(c, i): return reply(picture(i)) if '/done/' in c.target else redirect(c.at(to, i))
    return answer


good('redirect-relative', 'a redirect to a relative address')(lands('done/{i}.jpg'))
good('redirect-dots', 'a redirect to ../ from a deeper folder', url=ROOT+'redirect-dots/a/b/{i}.jpg')(lands('../done/./{i}.jpg'))
good('redirect-host', 'a redirect to another host of the server')(lands('http://{other}:{http}/redirect-host/done/{i}.jpg'))
good('redirect-no-scheme', 'a redirect to //host/')(lands('//{host}:{http}/redirect-no-scheme/done/{i}.jpg'))
good('redirect-unicode', 'a redirect to an address with raw UTF-8 and a space in it')(lands('/redirect-unicode/done/é 猫 {i}.jpg'))

_SCHEME = 'scheme|not allowed|refused|only http|URL|address'
for _name, (_to, _why, _about) in {
    'redirect-loop': ('/redirect-loop/{i}.jpg', 'redirect', 'itself'),
    'redirect-circle': ('/redirect-circle/{next}/{i}.jpg', 'redirect', 'a circle of three'),
    'redirect-file': ('file:///etc/passwd', _SCHEME, 'file:'),
    'redirect-ftp': ('ftp://{host}/{i}.jpg', _SCHEME, 'ftp:'),
    'redirect-data': ('data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAAC', _SCHEME, 'data:'),
    'redirect-malformed': ('http://[::1/{i}.jpg', 'URL|redirect|address|invalid|malformed', 'an address that is none'),
    'redirect-nowhere': ('http://no-such-host.invalid/{i}.jpg', 'resolve|no such host|name', 'a name that does not resolve')}.items():
    async def _away(c, i, to=_to):
        at = c.target.split('/')
        return redirect(c.at(to.replace('{next}', str((int(at[2])+1) % 3 if len(at) > 3 else 0)), i))
    bad(_name, _why, f'a redirect to {_about}')(_away)
bad('redirect-no-location', 'redirect|location', 'a redirect without Location')(lambda i: reply(b'', None, '302 Found'))

# Addresses that a search result must not reach. `inner` is a loopback address that is not among the server's hosts; what
# arrives there, or at any address under /secret/, got past the guard: `Log.secrets` lists it

PRIVATE = {'metadata': ('http://169.254.169.254/latest/meta-data/{i}', "a cloud's metadata service"), 'private': ('http://10.0.0.1/{i}.jpg', 'a private address'),
           'loopback': ('http://{inner}:{http}/secret/{i}.jpg', 'a loopback address that is none of the hosts'),
           'short': ('http://{inner_short}:{http}/secret/{i}.jpg', 'a loopback address in three parts, as 127.1'),
           'hex': ('http://{inner_hex}:{http}/secret/{i}.jpg', 'a loopback address in hexadecimal, as 0x7f000001'),
           'octal': ('http://{inner_octal}:{http}/secret/{i}.jpg', 'a loopback address in octal'),
           'decimal': ('http://{inner_decimal}:{http}/secret/{i}.jpg', 'a loopback address as one number'),
           'ipv6': ('http://[::1]:{http}/secret/{i}.jpg', 'IPv6 loopback'),
           'mapped': ('http://[::ffff:{inner}]:{http}/secret/{i}.jpg', 'IPv4 loopback inside IPv6'),
           'mapped-hex': ('http://[::ffff:{inner_words}]:{http}/secret/{i}.jpg', 'IPv4 loopback inside IPv6, in hexadecimal'),
           'any': ('http://0.0.0.0:{http}/secret/{i}.jpg', 'the unspecified address, which reaches this machine on Linux'),
           'user': ('http://{host}@{inner}:{http}/secret/{i}.jpg', 'a loopback address behind a user name that looks like a host')}
for _name, (_to, _about) in PRIVATE.items():
    bad(f'redirect-{_name}', 'private|not allowed|refused|loopback|link-local|address', f'a redirect to {_about}', option='private')(lands(_to))
    bad(f'direct-{_name}', 'private|not allowed|refused|loopback|link-local|address', f'straight to {_about}', url=_to, option='private')(None)

# Statuses, and servers that ask for patience

for _status in '401 Unauthorized', '403 Forbidden', '404 Not Found', '410 Gone', '451 Unavailable For Legal Reasons', '503 Service Unavailable', '999 Request Denied':
    _n = _status[:3]
    bad(f'status-{_n}', _n, f'always {_status}')(functools.partial(lambda i, s, **kw: error(s, **kw), s=_status, **({'WWW_Authenticate': 'Basic realm="pictures"'} if _n == '401' else {})))
bad('status-304', '304|not modified|status|empty', '304, unasked')(lambda i: reply(b'', None, '304 Not Modified', ETag='"1"'))
bad('partial-206', '206|partial|truncated|cut|damaged|status', 'half a picture as 206, unasked')(lambda i: (lambda d: reply(d[:len(d)//2], JPEG, '206 Partial Content', Content_Range=f'bytes 0-{len(d)//2-1}/{len(d)}'))(picture(i)))
bad('429-always', '429|rate', 'always 429, and no Retry-After')(lambda i: error('429 Too Many Requests'))
bad('429-a-day', '429|rate|day|wait', '429 with a Retry-After of a day')(lambda i: error('429 Too Many Requests', Retry_After=86400))


async def _patience(c, i, status='429 Too Many Requests'): return reply(picture(i)) if c.before and c.since > .95 else error(status, Retry_After=1)


good('429-seconds', '429 with Retry-After: 1, and 200 only when that second is over')(_patience)
good('503-seconds', '503 with Retry-After: 1, and 200 only when that second is over')(functools.partial(_patience, status='503 Service Unavailable'))


@good('429-date', '429 with Retry-After as a date one to two seconds away, and 200 only from then on')
async def _(c, i):
    due = math.ceil(c.server.first[c.target]) + 1
    return reply(picture(i)) if time.time() > due-.05 else error('429 Too Many Requests', Retry_After=formatdate(due, usegmt=True))


@good('500-once', '500, then 200')
async def _(c, i): return reply(picture(i)) if c.before else error('500 Internal Server Error')


@good('reset-once', 'a reset, then 200')
async def _(c, i): return reply(picture(i)) if c.before else await c.reset()


# Walls

bad('login-wall', 'HTML', 'a login page with status 200')(lambda i: reply(HTML, 'text/html; charset=utf-8'))
bad('html-as-jpeg', 'HTML', 'a web page as image/jpeg')(lambda i: reply(HTML))
bad('robots', 'robots', 'a folder that robots.txt disallows', folder='private', option='robots', body=picture)(lambda i: reply(picture(i)))
bad('noai', 'robots|noai', 'X-Robots-Tag: noai', option='noai', body=picture)(lambda i: reply(picture(i), X_Robots_Tag='noai, noimageai'))


@bad('cookie-wall', 'redirect|cookie', 'redirects to itself until its cookie comes back', option='cookies', body=picture)
async def _(c, i):
    if f'seen={i}' in c.headers.get('cookie', ''): return reply(picture(i))
    return redirect(c.target, Set_Cookie=f'seen={i}; Path=/cookie-wall/')


# Bodies that are no pictures, or no good ones

bad('empty', 'empty|no bytes', '200 and not a byte')(lambda i: reply())
bad('status-204', '204|empty', '204 No Content')(lambda i: b'HTTP/1.1 204 No Content\r\n\r\n')
bad('svg', 'SVG', 'a drawing')(lambda i: reply(b'<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="9"/>' % (i+9), 'image/svg+xml'))
bad('pdf', 'PDF', 'a document')(lambda i: reply(b'%%PDF-1.7\n%%\xe2\xe3\xcf\xd3\n%d 0 obj\n' % i))
bad('json', 'JSON', 'an error in JSON with status 200')(lambda i: reply(b'{"error": "no picture %d"}' % i))
bad('zeros', 'zero bytes|not a picture|unknown|damaged', 'as many zero bytes as a picture has')(lambda i: reply(bytes(len(picture(i)))))
bad('truncated', 'truncated|damaged|cut', 'half a picture, of the length that was promised')(lambda i: reply(picture(i)[:len(picture(i))//2]))
bad('too-small', 'small|10 x 10|side|pixels', '10 x 10 pixels', option='min_side', body=tiny)(lambda i: reply(tiny(i), 'image/png'))
bad('bomb-picture', 'too large|over the limit|pixels', 'a PNG of 50,000 x 50,000 pixels in 300 kB')(lambda i: reply(bomb_png(i), 'image/png'))
bad('gzip-bomb', 'too large|over the limit|encoding|inflate', '2 MB of gzip that inflate to 2 GB, a picture in front')(lambda i: reply(gzip_bomb(i), Content_Encoding='gzip'))
bad('gzip-bomb-twice', 'too large|over the limit|encoding|inflate', 'a few kB, gzipped twice, that inflate to 2 GB')(lambda i: reply(gzip.compress(gzip_bomb(i), mtime=0), Content_Encoding='gzip, gzip'))
bad('gzip-cut', 'encoding|gzip|truncated|damaged|cut|not a picture|decod', 'gzip that stops half way, of the length that was promised')(lambda i: (lambda d: reply(d[:len(d)//2], Content_Encoding='gzip'))(gzip.compress(picture(i), mtime=0)))
bad('encoding-unknown', 'encoding|unknown|not a picture|damaged', 'a Content-Encoding that nobody knows')(lambda i: reply(bytes(b ^ 0x55 for b in picture(i)), Content_Encoding='x-rot85'))
bad('encoding-garbage', 'encoding|gzip|unknown|not a picture|damaged|decod', 'noise that calls itself gzip')(lambda i: reply(RANDOM[:3000], Content_Encoding='gzip'))


async def _large(c, i, chunked=False):
    data = strip(i)
    await c.send(head('Content-Type: image/bmp', 'Transfer-Encoding: chunked') + chunk(large_head()) if chunked
                 else head('Content-Type: image/bmp', f'Content-Length: {len(large_head()) + len(data)*LARGE[1]//STRIP}') + large_head())
    for _ in range(LARGE[1]//STRIP): await c.send(chunk(data) if chunked else data)
    if chunked: await c.send(b'0\r\n\r\n')
    return b''


async def _endless(c, i, chunked=False):
    await c.send((CHUNKED if chunked else head(f'Content-Type: {JPEG}', 'Connection: close')) + (chunk(picture(i)) if chunked else picture(i)))
    while True: await c.send(chunk(RANDOM) if chunked else RANDOM)


bad('large', 'too large|over the limit', 'a picture of 60 MB', option='max_bytes', body=large)(_large)
bad('large-unsaid', 'too large|over the limit', 'a picture of 60 MB in chunks: its size shows as it comes', option='max_bytes', body=large)(functools.partial(_large, chunked=True))
bad('endless', 'too large|over the limit', 'a body that never ends')(_endless)
bad('endless-chunked', 'too large|over the limit', 'chunks that never end')(functools.partial(_endless, chunked=True))

# Lengths and chunks that lie

_CUT = 'truncated|damaged|cut|closed|incomplete|ended|length|early'
_BROKEN = 'closed|disconnect|reset|connect|broken|no answer|without|protocol'
_NONSENSE = 'protocol|HTTP|header|status|malformed|invalid|illegal|nonsense'

for _name, (_make, _hang, _why, _about) in {
    'length-long': (lambda d: reply(d[:len(d)//2], length=len(d)), 0, _CUT, 'the connection closes before the promised length'),
    'length-hang': (lambda d: reply(d[:len(d)//2], length=len(d)), 1, 'time|slow', 'silence before the promised length'),
    'length-short': (lambda d: reply(d, length=len(d)//2), 0, 'truncated|damaged|cut', 'half the length is promised, all of it sent'),
    'length-words': (lambda d: reply(d, length='twelve'), 0, _NONSENSE + '|length', 'Content-Length: twelve'),
    'length-two': (lambda d: reply(d, Content_Length='17'), 0, _NONSENSE + '|length', 'two lengths that differ'),
    'chunked-bad-size': (lambda d: CHUNKED + b'ZZZ\r\n' + d, 0, _NONSENSE + '|chunk', 'a chunk size that is no number'),
    'chunked-cut': (lambda d: CHUNKED + chunk(d)[:len(d)//2], 0, _CUT + '|chunk', 'the connection closes inside a chunk'),
    'chunked-no-end': (lambda d: CHUNKED + chunk(d), 1, 'time|slow', 'every byte of the picture, but no last chunk')}.items():
    async def _lie(c, i, make=_make, hang=_hang):
        await c.send(make(picture(i)))
        if hang: await c.pause()
    bad(_name, _why, _about)(_lie)

# Time

bad('never-accepts', 'time|slow|connect', 'a full queue: the connection is never made', url='http://{host0}:{full}/{i}.jpg')(None)


@bad('never-answers', 'time|slow', 'reads the request and says nothing')
async def _(c, i): await c.pause()


async def _trickle(c, i, whole):
    data = reply(picture(i))
    n = 0 if whole else data.index(b'\r\n\r\n') + 4
    await c.send(data[:n])
    for k in range(n, len(data)):
        if await c.pause(.2): return
        await c.send(data[k:k+1])
    return b''


bad('slow-trickle', 'time|slow', 'a byte of the body each 0.2 s')(functools.partial(_trickle, whole=False))
bad('slow-headers', 'time|slow', 'a byte of the headers each 0.2 s')(functools.partial(_trickle, whole=True))

# Broken connections, broken HTTP

bad('closes-at-once', _BROKEN, 'accepts and closes', url='http://{host0}:{closing}/{i}.jpg')(None)


@bad('closes', _BROKEN, 'reads the request and closes')
async def _(c, i): pass


@bad('reset', _BROKEN, 'RST before any header')
async def _(c, i): await c.reset()


@bad('reset-body', _BROKEN + '|truncated|cut', 'RST half way through the body')
async def _(c, i):
    data = reply(picture(i))
    await c.send(data[:len(data)//2])
    await c.reset()


@bad('endless-headers', _NONSENSE + '|too large|too long|limit|time', 'headers that never end')
async def _(c, i):
    await c.send(b'HTTP/1.1 200 OK\r\n')
    for k in range(10**9): await c.send(b''.join(b'X-Filler-%d-%d: %b\r\n' % (k, j, b'x'*60) for j in range(100)))


for _name, (_make, _about) in {
    'header-nonsense': (lambda i: head(f'Content-Type {JPEG}', 'X-\x01\x02: \x00\x1b[31m', 'Content-Length: 3') + b'abc', 'a header line without a colon, and one of control characters'),
    'no-status': (picture, 'HTTP/0.9: a body and nothing else'),
    'garbage': (lambda i: bytes([i % 256]) + RANDOM[i % 999:][:500] + b'\r\n\r\n', 'noise instead of a status line')}.items():
    async def _talk(c, i, make=_make): await c.send(make(i))
    bad(_name, _NONSENSE + '|cut|closed', _about)(_talk)

# TLS

_TLS = 'certificate|TLS|SSL|verif'
bad('tls-self-signed', _TLS, 'a certificate signed by itself', url='https://{host0}:{tls-self-signed}/secret/{i}.jpg')(None)
bad('tls-unknown-ca', _TLS, 'a certificate of an authority that nobody knows', url='https://{host0}:{tls-unknown-ca}/secret/{i}.jpg')(None)
bad('tls-expired', _TLS, 'a certificate of `ca` that ran out', url='https://{host0}:{tls-expired}/secret/{i}.jpg')(None)
bad('tls-wrong-name', _TLS, 'a certificate of `ca` for another host', url='https://{host0}:{tls-wrong-name}/secret/{i}.jpg')(None)
bad('tls-to-plain', _TLS + '|protocol|record', 'https spoken to an http port', url='https://{host}:{http}/secret/{i}.jpg')(None)
bad('plain-to-tls', _BROKEN, 'http spoken to an https port', url='http://{host0}:{tls-self-signed}/secret/{i}.jpg')(None)

# Nobody there, or not even an address

bad('no-such-host', 'resolve|no such host|name', 'a name that does not resolve', url='http://no-such-host.invalid/{i}.jpg')(None)
bad('no-listener', 'refused|connect', 'a port at which nobody listens', url='http://{host0}:{dead}/{i}.jpg')(None)
for _name, (_url, _about) in {'no-host': ('http:///{i}.jpg', 'no host'), 'no-url': ('not a url {i}', 'words'), 'javascript': ('javascript:alert({i})', 'a script'),
                              'data': ('data:image/png;base64,iVBORw0KGgo{i:0>5}', 'the data itself'), 'file': ('file:///etc/passwd?{i}', 'a file'),
                              'ftp': ('ftp://{host}/{i}.jpg', 'FTP'), 'bracket': ('http://[::1/{i}.jpg', 'half an IPv6 address'),
                              'port': ('http://{host}:99999/{i}.jpg', 'a port beyond 65535'), 'label': ('http://' + 'a'*70 + '.invalid/{i}.jpg', 'a host name too long to exist'),
                              'newline': (ROOT + 'url-newline/{i}.jpg\r\nX-Evil: 1', 'a line end, and a header after it')}.items():
    bad(f'url-{_name}', 'URL|address|scheme|host|port|invalid|malformed|not allowed|only http|resolve|character', f'an address that is none: {_about}', url=_url)(None)


def expected(url):
    "The bytes that a client should have from `url`, or would have whose options let it; None where there is no picture."
    try: at = urlsplit(url).path.split('/')
    except ValueError: return None
    b = FOLDERS.get(at[1]) if len(at) > 1 else None
    if b is None or b.body is None: return None
    return picture(number(url), int(at[2])) if b.name == 'sized' else b.body(number(url))


# The server

@dataclass
class Log:
    "What the server saw. Targets are as they were sent: path and query."
    started: dict = field(default_factory=Counter)  # target to answers begun
    completed: dict = field(default_factory=Counter)  # target to answers sent to their end
    most: dict = field(default_factory=Counter)  # address to the most connections at once
    connections: dict = field(default_factory=Counter)  # address to connections made
    headers: dict = field(default_factory=dict)  # target to the headers of its first request, names in lower case
    errors: list = field(default_factory=list)  # what went wrong in the server itself

    @property
    def secrets(self): return [o for o in self.started if o.startswith('/secret/')]  # requests that a guard should have stopped
    @classmethod
    def load(cls, d): return cls(*(Counter(d[k]) for k in ('started', 'completed', 'most', 'connections')), d['headers'], d['errors'])


@dataclass
class Addresses:
    "Where a server is, whichever process it is in."
    hosts: tuple = ()
    ports: dict = field(default_factory=dict)  # 'http', 'control' (its connections are not counted), 'closing', 'dead', 'full', and, with TLS, 'tls', 'tls-self-signed', ...
    inner: str = ''
    ca: str = field(default='', repr=False)  # the authority of 'tls', PEM

    def fields(self, i, host):
        "What templates may name."
        a = [int(o) for o in self.inner.split('.')]
        n = int(ipaddress.ip_address(self.inner))
        return dict(self.ports, i=i, host=host, host0=self.hosts[0], other=self.hosts[(self.hosts.index(host)+1) % len(self.hosts)] if host in self.hosts else self.hosts[0],
                    inner=self.inner, inner_short=f'{a[0]}.{a[1]}.{a[2]*256 + a[3]}', inner_hex=f'0x{n:08x}', inner_decimal=n,
                    inner_octal='.'.join(f'0{o:03o}' if o else '0' for o in a), inner_words=f'{n >> 16:x}:{n & 65535:x}')

    def format(self, template, i, host=None): return template.format(**self.fields(i, host or self.hosts[0]))
    def url(self, name, i=0, host=None): return self.format(BEHAVIOURS[name].url, i, host)
    def sized(self, i, side, host=None): return self.format(ROOT + f'sized/{side}/{{i}}.jpg', i, host)
    def has(self, name):
        "Whether this system, and this server's options, can show the behaviour."
        try: return bool(self.url(name))
        except KeyError: return False  # a port that is not there

    def to_dict(self): return dict(hosts=self.hosts, ports=self.ports, inner=self.inner, ca=self.ca)
    def _get(self, name):
        c = http.client.HTTPConnection(self.hosts[0], self.ports['control'], timeout=30)  # no proxy may come between, as it may with urllib
        with contextlib.closing(c):
            c.request('GET', f'/{name}')
            return json.load(c.getresponse())
    def log(self): return Log.load(self._get('__log__'))
    def reset(self): self._get('__reset__')


class _Stream(asyncio.StreamReaderProtocol):
    "A connection that knows when the other side has gone, and is counted from the moment it is made to that."
    def __init__(self, server, counted=True):
        self.server, self.gone, self.address, self.talked, self.counted = server, asyncio.Event(), '', False, counted
        super().__init__(asyncio.StreamReader(loop=server.loop), self._serve, loop=server.loop)

    def connection_made(self, transport):
        self.transport, self.address, s = transport, transport.get_extra_info('sockname')[0], self.server
        s.streams.add(self)
        if self.counted:
            s.open[self.address] += 1
            s.seen.connections[self.address] += 1
            if s.open[self.address] > s.seen.most[self.address]: s.seen.most[self.address] = max(s.seen.most[self.address], s.live(self.address), 1)
        super().connection_made(transport)

    def data_received(self, data):
        if not self.talked and data[:2] == b'\x16\x03' and not self.transport.get_extra_info('sslcontext'):  # a TLS greeting
            self.transport.write(error('400 Bad Request', Connection='close'))
            return self.transport.close()
        self.talked = True
        super().data_received(data)

    @property
    def alive(self):
        "Whether the client still holds its end. A busy server hears late that one was closed before the next was opened; the kernel knows (TCP_INFO begins with the state)."
        if self.gone.is_set(): return False
        try: return sys.platform != 'linux' or self.transport.get_extra_info('socket').getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1
        except OSError: return False

    def _leave(self):
        if self.counted and not self.gone.is_set(): self.server.open[self.address] -= 1
        self.gone.set()

    def eof_received(self):
        self._leave()
        return super().eof_received()

    def connection_lost(self, exc):
        self._leave()
        self.server.streams.discard(self)
        super().connection_lost(exc)

    async def _serve(self, reader, writer):
        try:
            while await self.server.answer(self, reader, writer, await reader.readuntil(b'\r\n\r\n')): pass
        except (OSError, EOFError, asyncio.LimitOverrunError): pass  # the client left, or talks without end
        except Exception as e: self.server.seen.errors.append(repr(e))
        finally: writer.close()


class _Closing(asyncio.Protocol):
    def connection_made(self, transport): transport.abort()


def _listen(host, port, backlog=1024):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    try:
        if sys.platform != 'win32': s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((host, port))
        if backlog is not None: s.listen(backlog)
    except OSError:
        s.close()
        raise
    s.setblocking(False)
    return s


def _answers_to(host):
    try: _listen(host, 0).close()
    except OSError: return False
    return True


LOOPBACK = tuple(f'127.0.0.{k}' for k in range(1, 10))


class FaultServer(Addresses):
    "The server, in a thread of this process while a `with` lasts."
    def __init__(self, hosts=LOOPBACK, port=0, delay=0., tls=True, prepare=0, side=96):
        "`delay` seconds before each answer; `tls` needs trustme; the first `prepare` of /good/ (or, if `side` is not 96, /sized/side/) are made beforehand."
        super().__init__(tuple(o for o in hosts if _answers_to(o)))
        if not self.hosts: raise OSError(f'none of {", ".join(hosts)} is an address of this machine: ask for hosts=["127.0.0.1"]')
        self.inner = next(o for o in ('127.99.0.1', '127.0.0.1') if _answers_to(o))
        self.port, self.delay, self.with_tls = port, delay, tls
        self.seen, self.first, self.ready, self.open, self.streams, self.listeners = Log(), {}, {}, Counter(), set(), []
        robots = reply(b'User-agent: *\nDisallow: /private/\nAllow: /\n', 'text/plain')
        self.ready |= {'/robots.txt': robots, '/favicon.ico': error('404 Not Found')}
        for i in range(prepare): self.ready[f'/good/{i}.jpg' if side == 96 else f'/sized/{side}/{i}.jpg'] = reply(picture(i, side))

    async def answer(self, stream, reader, writer, raw):
        "Answer one request; true while the connection may go on."
        line = raw[:raw.index(b'\r\n')].decode('latin-1').split(' ')
        if len(line) != 3: return writer.write(error('400 Bad Request', Connection='close'))
        method, target, version = line
        keep = version == 'HTTP/1.1' and b'connection: close' not in raw.lower()
        if target.startswith('/__'):
            await self._control(target, writer)
            return keep
        seen = self.seen
        before = seen.started[target]
        seen.started[target] += 1
        if not before: seen.headers[target], self.first[target] = headers(raw), time.time()
        if self.delay: await asyncio.sleep(self.delay)
        data = self.ready.get(target)
        if data is None: data = await self._behave(Visit(self, stream, reader, writer, method, target, raw, before))
        if data is None: return False
        if data:
            writer.write(data if method != 'HEAD' else data[:data.index(b'\r\n\r\n')+4])
            await writer.drain()
        seen.completed[target] += 1
        return keep and not writer.is_closing()

    async def _behave(self, visit):
        folder, i = visit.target[1:].split('?')[0].split('/')[0], number(visit.target)
        b = FOLDERS.get(folder)
        if folder == 'secret': return reply(picture(i))
        if b is None or b.answer is None: return error('404 Not Found')
        f = b.answer.func if isinstance(b.answer, functools.partial) else b.answer
        if inspect.iscoroutinefunction(f): return await b.answer(visit, i)
        if len(data := b.answer(i)) < 2**20: self.ready[visit.target] = data
        return data

    async def _control(self, target, writer):
        for _ in range(5): await asyncio.sleep(0)
        body = json.dumps(vars(self.seen)).encode()
        if target == '/__reset__': self.reset()
        writer.write(reply(body, 'application/json'))
        await writer.drain()

    def live(self, address): return sum(o.counted and o.address == address and o.alive for o in list(self.streams))

    def log(self):
        "A copy of the log, once the server has taken note of everything that reached it until now."
        async def copy():
            for _ in range(5): await asyncio.sleep(0)
            s = self.seen
            return Log(Counter(s.started), Counter(s.completed), Counter(s.most), Counter(s.connections), dict(s.headers), list(s.errors))
        return asyncio.run_coroutine_threadsafe(copy(), self.loop).result(30)

    def reset(self):
        "Forget what was asked; connections that are open stay counted."
        self.first = {}
        held = {o: n for o in list(self.open) if (n := self.live(o))}
        self.seen = Log(most=Counter(held), connections=Counter(held))

    def bind(self):
        "Open every listening socket, so that all addresses are known before the first request."
        for attempt in range(50):  # one port must be free at all hosts
            try:
                http = [_listen(self.hosts[0], self.port)]
                port = http[0].getsockname()[1]
                http += [_listen(o, port) for o in (*self.hosts[1:], *([self.inner] if self.inner not in self.hosts else []))]
                break
            except OSError:
                for o in http: o.close()
                if self.port or attempt == 49: raise
        with contextlib.suppress(OSError): http.append(_listen('::1', port))
        self.sockets, self.ports = [(o, None) for o in http], {'http': port}
        self.listeners = list(http)
        def more(name, **kw):
            self.listeners.append(s := _listen(self.hosts[0], 0, **kw))
            self.ports[name] = s.getsockname()[1]
            return s
        self.closing, self.control = more('closing'), more('control')
        more('dead', backlog=None)  # bound, so that nobody else takes it, but not listening
        if sys.platform == 'linux':  # elsewhere a queue of none still takes some
            full = more('full', backlog=0)
            for _ in range(2):
                self.listeners.append(s := socket.socket())
                s.setblocking(False)
                s.connect_ex(full.getsockname())
        for name, context in (self._contexts() if self.with_tls else {}).items(): self.sockets.append((more(name), context))

    def _contexts(self):
        import trustme
        ca, other, host, past = trustme.CA(), trustme.CA(), self.hosts[0], [datetime(y, 1, 1, tzinfo=timezone.utc) for y in (2001, 2002)]
        self.ca = ca.cert_pem.bytes().decode()
        certificates = {'tls': ca.issue_cert(host), 'tls-unknown-ca': other.issue_cert(host), 'tls-wrong-name': ca.issue_cert('elsewhere.example'),
                        'tls-expired': ca.issue_cert(host, not_before=past[0], not_after=past[1])}
        contexts = {k: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for k in (*certificates, 'tls-self-signed')}
        for k, v in certificates.items(): v.configure_cert(contexts[k])
        with other.cert_pem.tempfile() as cert, other.private_key_pem.tempfile() as key: contexts['tls-self-signed'].load_cert_chain(cert, key)
        return contexts

    async def serve(self, ready=lambda: None):
        "Serve until `stop`, in the running loop."
        self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
        self.loop.set_exception_handler(lambda loop, d: self.seen.errors.append(f"{d['message']}: {d.get('exception')!r}"))
        servers = [await self.loop.create_server(lambda: _Stream(self), sock=s, ssl=c, backlog=1024) for s, c in self.sockets]
        servers += [await self.loop.create_server(_Closing, sock=self.closing),
                    await self.loop.create_server(lambda: _Stream(self, counted=False), sock=self.control)]
        ready()
        await self.stopped.wait()
        for o in servers: o.close()
        for o in list(self.streams): o.transport.abort()
        await asyncio.sleep(.01)  # for what waits to see that its client has gone
        for o in self.listeners: o.close()

    def __enter__(self):
        self.bind()
        up = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve(up.set)), daemon=True, name='fault server')
        self.thread.start()
        if not up.wait(30): raise RuntimeError('the fault server did not start')
        return self

    def __exit__(self, *args):
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join(30)


@contextlib.contextmanager
def spawn(**kw):
    "The server in a process of its own, with the arguments of `FaultServer`; gives its `Addresses`."
    kw = {k: ','.join(v) if k == 'hosts' else v for k, v in kw.items()}
    args = [f'--{k}={v}' for k, v in kw.items() if not isinstance(v, bool)] + [f'--no-{k}' for k, v in kw.items() if v is False]
    p = subprocess.Popen([sys.executable, __file__, '--json', *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        d = json.loads(p.stdout.readline() or 'null')
        if d is None: raise RuntimeError(f'the fault server ended with {p.wait()}')
        at = Addresses(tuple(d['hosts']), d['ports'], d['inner'], d['ca'])
        at.pid = p.pid
        yield at
    finally:
        p.kill()
        p.wait()
        p.stdout.close()


# Lists of URLs

class Item(NamedTuple):
    url: str
    label: str
    good: bool
    behaviour: str  # a name in `BEHAVIOURS`


def urls(server, n=2000, faulty=1/3, seed=0, hosts=None, skip=('ca',), labels=('cherry', 'plum', 'quince'), copies=.05):
    """`n` shuffled items, `faulty` of them bad over all behaviours in turn; `skip` leaves out names and options. Of the good ones a third
    takes the odd behaviours in turn, and `copies` of `n` repeat the bytes of another; all others are distinct, by number and by bytes."""
    rng, hosts, n_bad = random.Random(seed), tuple(hosts or server.hosts), round(n*faulty)
    some = [b for b in BEHAVIOURS.values() if server.has(b.name) and not {b.name, b.option} & set(skip)]
    bads, goods = [b.name for b in some if not b.good], [b.name for b in some if b.good and b.name not in ('good', 'copy')]
    for o in bads, goods: rng.shuffle(o)
    n_odd = (n-n_bad)//3
    n_copies = min(round(n*copies), (n-n_bad-n_odd)//2)
    names = [bads[k % len(bads)] for k in range(n_bad)] + [goods[k % len(goods)] for k in range(n_odd)]
    plain = range(len(names), n-n_copies)
    made = [(name, rng.choice(plain) if name == 'reencoded' and plain else i) for i, name in enumerate(names)]
    made += [('good', i) for i in plain] + [('copy', i) for i in rng.sample(plain, n_copies)]
    rng.shuffle(made)
    return [Item(server.url(name, i, rng.choice(hosts)), labels[i % len(labels)], BEHAVIOURS[name].good, name) for name, i in made]


def main():
    p = argparse.ArgumentParser(description='A web server on loopback that goes wrong in every way a downloader will meet.')
    p.add_argument('--port', type=int, default=0, help='of plain http; 0 takes a free one')
    p.add_argument('--hosts', default=','.join(LOOPBACK), help='loopback addresses, with commas between')
    p.add_argument('--delay', type=float, default=0., help='seconds before each answer')
    p.add_argument('--prepare', type=int, default=0, help='so many good pictures are made before the first request')
    p.add_argument('--side', type=int, default=96, help='of the prepared pictures, pixels; not 96: at /sized/SIDE/NUMBER.jpg')
    p.add_argument('--no-tls', action='store_true', help='without the https ports, which need trustme')
    p.add_argument('--json', action='store_true', help='print the addresses as one line of JSON, not the list of behaviours')
    a = p.parse_args()
    server = FaultServer(a.hosts.split(','), a.port, a.delay, not a.no_tls, a.prepare, a.side)
    server.bind()
    def ready():
        if a.json: print(json.dumps(server.to_dict()), flush=True)
        else:
            for b in BEHAVIOURS.values():
                if server.has(b.name): print(f"{'good' if b.good else 'bad ':4} {server.url(b.name, 17)[:100]:100} {b.about}", flush=True)
    with contextlib.suppress(KeyboardInterrupt): asyncio.run(server.serve(ready))


if __name__ == '__main__': main()
