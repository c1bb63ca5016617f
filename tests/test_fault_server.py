"The fault server does what it declares: seen through raw sockets, and by a small careful client that gets every good picture and no other."
import asyncio
import gzip
import hashlib
import http.client
import io
import ipaddress
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import zlib
from collections import Counter
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urljoin, urlsplit
from urllib.robotparser import RobotFileParser

import fault_server as fs
import psutil
import pytest
from fault_server import BEHAVIOURS, FaultServer, expected, picture, spawn, urls
from PIL import Image

from lookalikes.picture import ImageError, open_image

httpx = pytest.importorskip('httpx')
pytest.importorskip('trustme')
BAD = [b for b in BEHAVIOURS.values() if not b.good]


@pytest.fixture(scope='module')
def server():
    with FaultServer() as s:
        yield s
        assert not s.log().errors


def dial(server, name, i=17, limit=5, method='GET', host=None):
    "A connection that has asked for one URL."
    url = urlsplit(server.url(name, i, host))
    s = socket.create_connection((url.hostname, url.port), limit)
    s.sendall(f'{method} {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n'.encode())
    return s


def drain(s, n=10**6):
    "All bytes until the other side closes, or `n`."
    data = b''
    while len(data) < n and (got := s.recv(2**16)): data += got
    return data


def get(server, name, i=17, method='GET', **headers):
    "One answer, redirects not followed."
    url = urlsplit(server.url(name, i))
    c = http.client.HTTPConnection(url.hostname, url.port, timeout=5)
    try:
        c.request(method, url.path, headers={k.replace('_', '-'): v for k, v in headers.items()})
        r = c.getresponse()
        return SimpleNamespace(status=r.status, headers=r.headers, body=r.read())
    finally: c.close()


def test_declared():
    assert len(BEHAVIOURS) >= 100 and sum(b.good for b in BEHAVIOURS.values()) >= 30
    for b in BEHAVIOURS.values():
        assert b.about and bool(b.why) != b.good and (b.body or not b.good)
        re.compile(b.why)
    assert BEHAVIOURS['status-404'].fits('HTTP 404') and not BEHAVIOURS['status-404'].fits('HTTP 403') and not BEHAVIOURS['good'].fits('')


def test_pictures_are_distinct_and_open():
    some = [picture(i) for i in range(300)]
    assert len(set(some)) == 300 and max(map(len, some)) < 10_000
    assert picture(5) == fs.picture.__wrapped__(5) and open_image(picture(5)).size == (96, 96) and open_image(picture(5, 300)).size == (300, 300)
    assert Image.open(io.BytesIO(fs.cmyk(1))).mode == 'CMYK' and Image.open(io.BytesIO(fs.animation(1))).n_frames == 4 and Image.open(io.BytesIO(fs.webp(1))).format == 'WEBP'
    assert open_image(fs.tiny(1)).size == (10, 10) and fs.reencoded(1) != picture(1)


# A careful client in short

class Refused(Exception): pass


def check(url, hosts):
    u = httpx.URL(url)
    if u.scheme not in ('http', 'https') or not u.host: raise Refused(f'{u.scheme}: not allowed, only http and https')
    if not 0 < (u.port or 80) < 2**16: raise Refused(f'no port {u.port}')
    try: found = {o[4][0] for o in socket.getaddrinfo(u.host, u.port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as e: raise Refused(f'{u.host} does not resolve: {e}') from None
    for o in found:
        if not ipaddress.ip_address(o).is_global and o not in hosts: raise Refused(f'private address {o} refused')


class Again(Refused):
    def __init__(self, reason, wait):
        self.wait = wait
        super().__init__(reason)


def patience(r):
    "How many seconds the server asks for."
    after = r.headers.get('retry-after', '0')
    return float(after) if after.isdigit() else parsedate_to_datetime(after).timestamp() - time.time()


async def careful(client, url, hosts, cap=5_000_000):
    "The bytes of a picture, or `Refused` with the reason."
    for _ in range(6):
        check(url, hosts)
        async with client.stream('GET', url) as r:
            if r.status_code in (301, 302, 303, 307, 308):
                if 'location' not in r.headers: raise Refused('redirect without location')
                url = urljoin(url, r.headers['location'])
                continue
            if r.status_code in (429, 500, 503): raise Again(f'HTTP {r.status_code}', patience(r))
            if r.status_code != 200: raise Refused(f'HTTP {r.status_code}')
            if (coding := r.headers.get('content-encoding', 'identity')) not in ('identity', 'gzip'): raise Refused(f'content-encoding {coding}')
            z, data = zlib.decompressobj(31), b''
            async for part in r.aiter_raw():
                data += part if coding == 'identity' else z.decompress(part, cap+1)
                if len(data) > cap: raise Refused('over the limit')
            if coding == 'gzip' and not z.eof: raise Refused('gzip cut short')
            if not data: raise Refused('empty')
            open_image(data, name='picture')
            return data
    raise Refused('too many redirects')


async def fetch_all(server, items, limit=2.6):
    "What the careful client makes of `items`: bytes, or a reason. The limit is for each attempt: what the server asks to wait comes on top."
    async def attempt(item): return await asyncio.wait_for(careful(client, item.url, server.hosts), limit)
    async def tries(item):
        for _ in range(2):
            try: return await attempt(item)
            except Again as e: last, wait = e, e.wait
            except httpx.NetworkError as e: last, wait = e, 0
            if wait > 2: break
            await asyncio.sleep(max(0, wait))
        else: return await attempt(item)
        raise last
    async def one(item):
        try: return await tries(item)
        except (Refused, ImageError) as e: return str(e)
        except (asyncio.TimeoutError, httpx.TimeoutException): return 'time limit'
        except zlib.error as e: return f'damaged gzip ({e})'
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as e:
            return f'{type(e).__name__}: {e}' + (', protocol' if isinstance(e, httpx.ProtocolError) else ', connection broken' if isinstance(e, httpx.ReadError) else '')
    agent = {'User-Agent': 'careful/1 (+https://example.org/contact)', 'Accept-Encoding': 'identity'}
    async with httpx.AsyncClient(headers=agent, timeout=1.5, trust_env=False, verify=ssl.create_default_context(cadata=server.ca), limits=httpx.Limits(max_connections=None)) as client:
        client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        return await asyncio.gather(*map(one, items))


def test_careful_client_gets_the_good_and_only_these(server):
    server.reset()
    items = [fs.Item(server.url(b.name, 1000+k, server.hosts[k % len(server.hosts)]), '', b.good, b.name) for k, b in enumerate(BEHAVIOURS.values()) if server.has(b.name)]
    assert len(items) == len(BEHAVIOURS) or sys.platform != 'linux'
    wrong = []
    for item, got in zip(items, asyncio.run(fetch_all(server, items))):
        b = BEHAVIOURS[item.behaviour]
        if b.good or b.option in ('robots', 'noai', 'min_side'): ok = got == expected(item.url) is not None  # this client has none of these options
        else: ok = isinstance(got, str) and b.fits(got)
        if not ok: wrong.append((b.name, got if isinstance(got, str) else f'{len(got)} bytes', b.why))
    assert not wrong
    log = server.log()
    assert not log.secrets and not log.errors
    assert all('cookie' not in h for h in log.headers.values())
    assert set(log.connections) <= set(server.hosts)
    assert log.started[f"/good/{1000+list(BEHAVIOURS).index('good')}.jpg"] == 1


# One behaviour each, through raw sockets

def test_trickle(server):
    with dial(server, 'slow-trickle') as s:
        data, t = drain(s, 1), time.perf_counter()
        while b'\r\n\r\n' not in data: data += s.recv(1000)
        body, n = data.split(b'\r\n\r\n')[1], 0
        while time.perf_counter() - t < .5: n += len(s.recv(1000))
        assert 2 <= n + len(body) <= 4 and b'Content-Length: %d' % len(picture(17)) in data
    with dial(server, 'slow-headers') as s: assert s.recv(1000) == b'H' and s.recv(1000) == b'T'


def test_silence(server):
    for name in 'never-answers', 'length-hang', 'chunked-no-end':
        with dial(server, name, limit=.15) as s, pytest.raises(socket.timeout):
            while True: assert s.recv(2**16)
    if server.has('never-accepts'):
        for _ in range(2):
            with pytest.raises(socket.timeout): socket.create_connection((server.hosts[0], server.ports['full']), .15)


def test_broken_connections(server):
    with dial(server, 'reset') as s, pytest.raises(ConnectionResetError): s.recv(1)
    with dial(server, 'reset-body') as s:
        assert s.recv(100).startswith(b'HTTP/1.1 200')
        with pytest.raises(ConnectionResetError): drain(s)
    with dial(server, 'closes') as s: assert s.recv(1) == b''
    with socket.create_connection((server.hosts[0], server.ports['closing']), 5) as s: assert s.recv(1) == b''
    with pytest.raises(ConnectionRefusedError): socket.create_connection((server.hosts[0], server.ports['dead']), 5)
    with dial(server, 'closes-after') as s:
        data = drain(s)
        assert b'keep-alive' in data and data.endswith(picture(17))


def test_lengths(server):
    def length(data): return int(re.search(rb'Content-Length: (\d+)', data)[1])
    for name, sign in ('length-long', 1), ('length-short', -1):
        with dial(server, name) as s: data = drain(s)
        assert (length(data) - len(data.split(b'\r\n\r\n', 1)[1]))*sign > 1000
    with dial(server, 'truncated', method='GET') as s:
        data = s.recv(2**16)
        with pytest.raises(ImageError, match='truncated'): open_image(data.split(b'\r\n\r\n', 1)[1])
    with dial(server, 'length-two') as s: assert s.recv(2**16).count(b'Content-Length') == 2
    with dial(server, 'no-length') as s: assert b'Length' not in (data := drain(s)).split(b'\r\n\r\n')[0] and data.endswith(picture(17))


def test_nonsense(server):
    with dial(server, 'no-status') as s: assert drain(s) == picture(17)
    with dial(server, 'garbage') as s: assert not drain(s).startswith(b'HTTP')
    with dial(server, 'header-nonsense') as s: assert b'\nContent-Type image/jpeg\r\nX-\x01\x02: \0\x1b[31m\r\n' in drain(s)
    with dial(server, 'chunked-bad-size') as s: assert b'\r\n\r\nZZZ\r\n' in drain(s)
    with dial(server, 'early-hints') as s: assert re.findall(rb'HTTP/1.1 (\d+)', s.recv(2**16)) == [b'100', b'103', b'200']


def test_without_end(server):
    for name in 'endless', 'endless-chunked', 'endless-headers':
        with dial(server, name, 18) as s:
            data = drain(s, 5_000_000)
            assert len(data) >= 5_000_000 and (b'\r\n\r\n' in data) == (name != 'endless-headers')
        target = f'/{name}/18.jpg'
        assert server.log().started[target] == 1 and target not in server.log().completed


def test_large_picture_opens(server):
    with dial(server, 'large', 3, method='HEAD') as s: assert b'Content-Length: 60000054' in s.recv(1000)
    r = get(server, 'large-unsaid', 3)
    assert r.headers['Transfer-Encoding'] == 'chunked' and 'Content-Length' not in r.headers and len(r.body) == 60_000_054
    assert Image.open(io.BytesIO(r.body)).size == (5000, 4000) and open_image(r.body, min_side=64).size == (5000, 4000)
    assert hashlib.sha256(r.body).digest() == hashlib.sha256(expected(server.url('large-unsaid', 3))).digest()


def test_gzip_bombs(server):
    assert gzip.decompress(fs.gzip_bomb(3, 10**6+7)) == picture(3) + bytes(10**6+7)  # whole and honest, so made at this size too:
    r = get(server, 'gzip-bomb')
    z = zlib.decompressobj(31)
    assert r.headers['Content-Encoding'] == 'gzip' and len(r.body) < 3_000_000
    data = z.decompress(r.body, 10**8)
    assert len(data) == 10**8 and data.startswith(picture(17)) and z.unconsumed_tail
    assert int.from_bytes(r.body[-4:], 'little') == 2**31 + len(picture(17))
    twice = get(server, 'gzip-bomb-twice')
    assert twice.headers['Content-Encoding'] == 'gzip, gzip' and len(twice.body) < 50_000 and gzip.decompress(twice.body) == r.body
    assert gzip.decompress(get(server, 'gzip').body) == picture(17)


def test_bomb_picture(server):
    data = get(server, 'bomb-picture').body
    assert len(data) < 400_000 and data[16:24] == (50_000).to_bytes(4, 'big')*2
    with pytest.raises(ImageError, match='too large'): open_image(data)
    assert open_image(fs.bomb_png(1, 9000), max_pixels=10**9).size == (9000, 9000)  # nothing is wrong with it but its size


def test_redirects(server):
    def to(name): return (lambda r: (r.status//100, r.headers.get('Location')))(get(server, name))
    assert to('redirect-metadata') == (3, 'http://169.254.169.254/latest/meta-data/17') and to('redirect-file') == (3, 'file:///etc/passwd')
    assert to('redirect-no-location') == (3, None) and to('redirect-loop') == (3, '/redirect-loop/17.jpg') and to('redirect-relative') == (3, 'done/17.jpg')
    assert to('redirect-20') == (3, '/redirect-20/1/17.jpg') and to('redirect-private') == (3, 'http://10.0.0.1/17.jpg')
    server.reset()
    for name in fs.PRIVATE:  # every spelling does lead back to this machine, where the log tells
        url = urlsplit(to(f'redirect-{name}')[1])
        if '/secret/' not in url.path: continue
        try: c = socket.create_connection((url.hostname, url.port), 2)
        except OSError: continue  # no IPv6, or another system's idea of addresses
        with c:
            c.sendall(f'GET /secret/{name}/17.jpg HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'.encode())
            assert drain(c).endswith(picture(17))
    assert '/secret/loopback/17.jpg' in server.log().secrets and (len(server.log().secrets) >= 8 or sys.platform != 'linux')


def test_patience(server):
    server.reset()
    assert [get(server, '500-once').status for _ in range(2)] == [500, 200]
    first, date = get(server, '429-seconds'), get(server, '429-date')
    assert (first.status, first.headers['Retry-After']) == (429, '1') and date.headers['Retry-After'].endswith(' GMT')
    assert get(server, '429-seconds').status == get(server, '429-date').status == 429  # too soon
    assert get(server, '429-a-day').headers['Retry-After'] == '86400'
    time.sleep(1)
    assert get(server, '429-seconds').body == picture(17)


def test_walls(server):
    wall = get(server, 'cookie-wall')
    assert wall.status == 302 and wall.headers['Location'] == '/cookie-wall/17.jpg'
    assert get(server, 'cookie-wall', Cookie=wall.headers['Set-Cookie'].split(';')[0]).body == picture(17)
    assert [get(server, 'agent-wall', User_Agent=o).status for o in ('Mozilla/5.0', 'x/1 (+https://example.org)', 'x/1 (me@example.org)')] == [403, 200, 200]
    assert [get(server, 'head-405', method=o).status for o in ('HEAD', 'GET')] == [405, 200]
    assert b'<form' in get(server, 'html-as-jpeg').body and get(server, 'noai').headers['X-Robots-Tag'].startswith('noai')
    with dial(server, 'good') as s:
        s.recv(2**16)
        s.sendall(b'GET /robots.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
        robots = RobotFileParser()
        robots.parse(drain(s).decode().split('\r\n\r\n')[1].splitlines())
    assert robots.can_fetch('x', server.url('good')) and not robots.can_fetch('x', server.url('robots'))


def test_tls(server):
    trusting = ssl.create_default_context(cadata=server.ca)
    def shake(port, context=trusting):
        with socket.create_connection((server.hosts[0], server.ports[port]), 5) as s, context.wrap_socket(s, server_hostname=server.hosts[0]) as t:
            t.sendall(b'GET /tls/17.jpg HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
            return drain(t)
    assert shake('tls').endswith(picture(17))
    for port, why in ('tls-self-signed', 'self.signed'), ('tls-unknown-ca', 'unable to get local issuer'), ('tls-expired', 'expired'), ('tls-wrong-name', 'mismatch'):
        with pytest.raises(ssl.SSLCertVerificationError, match=why): shake(port)
    with pytest.raises((ssl.SSLError, ConnectionError)): shake('http')
    with dial(server, 'plain-to-tls') as s, pytest.raises((ConnectionError, AssertionError)): assert drain(s)  # closed or reset, without a word


def test_log_counts_connections():
    with FaultServer(tls=False) as server:
        held = [dial(server, 'never-answers', k) for k in range(7)]
        while len(server.log().started) < 7: time.sleep(.005)
        assert server.log().most == {server.hosts[0]: 7} and not server.log().completed
        for s in held: s.close()
        host = server.hosts[-1]
        time.sleep(.1)
        server.reset()
        for k in range(20):  # one after another never counts as two, however quickly
            with dial(server, 'never-answers', k, host=host): pass
        while (log := server.log()).connections[host] < 20: time.sleep(.005)
        assert log.most[host] == 1
        with dial(server, 'good', 99, host=host) as s: assert s.recv(2**16)
        log = server.log()
        assert log.headers['/good/99.jpg'] == {'host': f"{host}:{server.ports['http']}"} and log.completed == {'/good/99.jpg': 1} and not log.errors


def test_urls(server):
    items = urls(server)
    assert items == urls(server) != urls(server, seed=1) and len(items) == 2000 and len({o.url for o in items}) == 2000
    seen = Counter(o.behaviour for o in items)
    assert sum(not o.good for o in items) == 667 and set(seen) == {b.name for b in BEHAVIOURS.values() if b.option != 'ca' and server.has(b.name)}
    assert {o.behaviour for o in items[:200]} != {o.behaviour for o in items[-200:]} and len({o.label for o in items}) == 3
    if len(server.hosts) > 1: assert min(Counter(urlsplit(o.url).hostname for o in items if o.behaviour == 'good').values()) > 50
    good = [expected(o.url) for o in items if o.good]
    assert None not in good and len(good) - len(set(good)) == seen['copy'] == 100
    assert not {'private', 'large', 'ca'} & {n for o in urls(server, 500, skip=['private', 'large', 'ca']) for n in (o.behaviour, BEHAVIOURS[o.behaviour].option)}
    assert all(o.good for o in urls(server, 100, faulty=0)) and {urlsplit(o.url).hostname for o in urls(server, 50, faulty=0, hosts=server.hosts[:1], skip=['ca', 'redirect-host'])} == {server.hosts[0]}


def test_process_serves_quickly():
    "2,000 answers a second on one core, were it idle: counted in the time that its process took, so that a busy machine does no harm."
    with spawn(hosts=['127.0.0.1'], tls=False, prepare=200) as at:
        assert not at.has('tls') and at.hosts == ('127.0.0.1',)
        p, n = psutil.Process(at.pid), 4000
        async def ask(k):
            reader, writer = await asyncio.open_connection(at.hosts[0], at.ports['http'])
            for j in range(n//16):
                i = (j*16+k) % 200
                writer.write(f'GET /good/{i}.jpg HTTP/1.1\r\nHost: x\r\n\r\n'.encode())
                head = await reader.readuntil(b'\r\n\r\n')
                assert len(picture(i)) == int(head.split(b'Content-Length: ')[1]) and await reader.readexactly(len(picture(i))) == picture(i)
            writer.close()
        async def everyone(): await asyncio.gather(*map(ask, range(16)))
        start = sum(p.cpu_times()[:2])
        asyncio.run(everyone())
        assert (sum(p.cpu_times()[:2]) - start)/n < 1/2000
        log = at.log()
        assert sum(log.completed.values()) == n and log.started == log.completed and log.most == {'127.0.0.1': 16} and not log.errors
        at.reset()
        assert not at.log().started
    with pytest.raises(OSError): socket.create_connection((at.hosts[0], at.ports['http']), 1)


def test_script_and_delay():
    p = subprocess.Popen([sys.executable, Path(fs.__file__), '--port', '0', '--json', '--hosts', '127.0.0.1', '--delay', '.2', '--no-tls'], stdout=subprocess.PIPE, text=True)
    try:
        d = json.loads(p.stdout.readline())
        at, t = fs.Addresses(tuple(d['hosts']), d['ports'], d['inner'], d['ca']), time.perf_counter()
        assert get(at, 'good', 3).body == picture(3) and time.perf_counter() - t >= .2
        assert p.poll() is None
    finally:
        p.send_signal(signal.SIGTERM)
        p.wait(10)
        p.stdout.close()
