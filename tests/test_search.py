"Searches that meet refusals, rubbish and silence: the real clients against real servers on this machine."
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import trustme
from PIL import Image

from lookalikes import search
from lookalikes.gallery import Gallery
from lookalikes.imageset import ImageSet
from lookalikes.search import LICENSES, Ask, DuckDuckGo, Folder, Found, Hit, Openverse, Pages, SearchError, Urls, Wikimedia, allows, find, source

RECORDED = Path(__file__).parent/'recorded'
HTML = '<!DOCTYPE html><title>Sorry</title><h1>Are you a robot?</h1>'


def recorded(name): return (RECORDED/name).read_text(encoding='utf-8')


def quick(src, ask, **kw): return find(src, ask, **{'wait': .01, **kw})


class Scripted:
    "A server that answers with what `script(number, path, query)` says: (status, body[, headers]), or None to say nothing at all."
    def __init__(self, script):
        self.asked, me = [], self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm, wbufsize = 'HTTP/1.1', True, -1

            def do_GET(self):
                u = urlsplit(self.path)
                query = {k: v[-1] for k, v in parse_qs(u.query, keep_blank_values=True).items()}
                me.asked.append((u.path, query, dict(self.headers), time.monotonic()))
                if (said := script(len(me.asked), u.path, query)) is None:
                    me.over.wait(20)
                    return
                status, body, *more = said
                body = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                for k, v in {'Content-Type': 'application/json', 'Content-Length': len(body), **(more[0] if more else {})}.items(): self.send_header(k, str(v))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args): pass

        self.over = threading.Event()
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads, self.server.handle_error = True, lambda *a: None
        self.port = self.server.server_port
        self.base = f'http://127.0.0.1:{self.port}'
        threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': .02}, daemon=True).start()

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


class Impostor:
    "An HTTP proxy that ends TLS itself, in the name of the host asked for, and passes the rest to a local port: ddgs's own client believes it speaks with duckduckgo.com."
    def __init__(self, port, ca):
        self.port, self.context = port, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert('duckduckgo.com').configure_cert(self.context)
        self.door, self.hosts = socket.create_server(('127.0.0.1', 0)), []
        self.url = f'http://127.0.0.1:{self.door.getsockname()[1]}'
        threading.Thread(target=self.welcome, daemon=True).start()

    def welcome(self):
        while True:
            try: line, _ = self.door.accept()
            except OSError: return
            threading.Thread(target=self.serve, args=(line,), daemon=True).start()

    def serve(self, line):
        try:
            head = b''
            while b'\r\n\r\n' not in head: head += line.recv(1) or b'\r\n\r\n'
            if not head.startswith(b'CONNECT '): return line.close()
            self.hosts.append(head.split()[1].decode())
            line.sendall(b'HTTP/1.1 200 Connection established\r\n\r\n')
            secure, plain = self.context.wrap_socket(line, server_side=True), socket.create_connection(('127.0.0.1', self.port))
            threading.Thread(target=self.pump, args=(plain, secure), daemon=True).start()
            self.pump(secure, plain)
        except OSError: line.close()  # a client that does not trust us hangs up

    @staticmethod
    def pump(a, b):
        try:
            while data := a.recv(65536): b.sendall(data)
        except OSError: pass
        for o in (a, b):
            try: o.shutdown(socket.SHUT_RDWR)
            except OSError: pass


@pytest.fixture
def scripted():
    made = []

    def make(script):
        made.append(Scripted(script))
        return made[-1]
    yield make
    for o in made: o.close()


@pytest.fixture(scope='module')
def authority(tmp_path_factory):
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(pem := tmp_path_factory.mktemp('ca')/'ca.pem'))
    return ca, str(pem)


@pytest.fixture
def duck(authority):
    "A `DuckDuckGo` whose requests end at a local port."
    made = []

    def make(port, **kw):
        made.append(Impostor(port, authority[0]))
        return DuckDuckGo(proxy=made[-1].url, verify=authority[1], **kw)
    yield make
    for o in made: o.door.close()


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "130 muffins and 30 cats of various sizes, a folder each."
    path = tmp_path_factory.mktemp('pictures')
    for label, n in (('muffin', 130), ('cat', 30)):
        (path/label).mkdir()
        for i in range(n): Image.new('RGB', (160+40*(i % 5), 120+40*(i % 5)), (200, 3*i % 256, 40)).save(path/label/f'{label} {i:03}.png')
    return ImageSet.from_folder(path)


@pytest.fixture
def gallery(pictures):
    with Gallery(pictures) as g: yield g


@pytest.fixture(params=['openverse', 'wikimedia', 'duckduckgo'])
def service(request, gallery, duck):
    "Each of the web's sources, with the gallery at its other end."
    return {'openverse': lambda: Openverse(gallery.base), 'wikimedia': lambda: Wikimedia(gallery.base), 'duckduckgo': lambda: duck(gallery.server.server_port)}[request.param]()


# What a question and an answer may hold

@pytest.mark.parametrize('bad', [{'query': ''}, {'query': ' \n'}, {'query': None}, {'query': 'a', 'n': 0}, {'query': 'a', 'n': '5'}, {'query': 'a', 'n': True},
                                 {'query': 'a', 'license': 'cc'}, {'query': 'a', 'min_side': -1}, {'query': 'a\ud800'}])
def test_questions_that_no_source_could_answer(bad):
    with pytest.raises(ValueError, match=f"{next(k for k in reversed(bad))} "): Ask(**bad)


@pytest.mark.parametrize('license,most', [
    ('CC0', 5), ('cc-zero', 5), ('Public domain', 5), ('Public Domain Mark 1.0', 5), ('PDM', 5), ('PD-old', 5), ('CC0-1.0', 5), ('https://creativecommons.org/publicdomain/zero/1.0/', 5),
    ('CC BY 2.0', 4), ('by-sa', 4), ('GFDL', 4), ('FAL', 4), ('Attribution', 4), ('MIT', 4), ('GPLv2', 4), ('No restrictions', 4), ('https://creativecommons.org/licenses/by/4.0/', 4),
    ('CC BY-NC 2.0', 2), ('CC BY-ND 4.0', 2), ('Attribution-NonCommercial 4.0 International', 2), ('Attribution-NoDerivs 2.0', 2), ('CC BY-NC-ND 4.0', 1),
    ('', 0), ('All rights reserved', 0), ('Non-free use rationale', 0), ('Copyright 2020 by-line', 4), ('ask me', 0)])
def test_licences(license, most):
    assert allows(license, 'any') and sum(allows(license, w) for w in LICENSES[1:]) == most


def test_licences_in_detail():
    assert [w for w in LICENSES if allows('by-nc', w)] == ['any', 'share', 'modify']
    assert [w for w in LICENSES if allows('by-nd', w)] == ['any', 'share', 'share-commercially']
    assert [w for w in LICENSES if allows('by-nc-nd', w)] == ['any', 'share']


def test_a_hit_is_plain_text_on_one_line():
    h = Hit(' https://x.org/a b.jpg\n', title='<p>Two</p><p>lines</p>\n<script>alert(1)</script>', creator={'name': 'x'}, license=None, width='640.5', height=float('inf'), page=7)
    assert h == Hit('https://x.org/a b.jpg', page='7', title='Two lines', width=640)
    assert Hit('u', title='1 < 2 > 0 & \x00\x1b[31m').title == '1 < 2 > 0 & [31m'
    assert Hit('u', creator='\ud83d').creator == '?' and Hit('u', width=-3, height=True).height == 1
    assert Hit('u', local='/tmp/two  spaces\udcff.jpg').local == '/tmp/two  spaces\udcff.jpg'


# The services, page by page

@pytest.mark.parametrize('n', [1, 20, 21, 119, 130])
def test_as_many_as_were_asked_for(service, n):
    found = quick(service, Ask('muffin', n=n))
    assert len(found) == len({h.url for h in found.hits}) == n and found.reason == ''
    assert {h.source for h in found.hits} == {service.name} and all(h.page and h.width and h.height and h.title.startswith('muffin') for h in found.hits)


def test_same_question_same_order(service, gallery):
    a, b = [quick(service, Ask('muffin', n=130)) for _ in range(2)]
    assert a == b and [h.title for h in a.hits] == [p.title for p in gallery.search('muffin')]
    assert [h.title for h in quick(service, Ask('a muffin', n=130)).hits] != [h.title for h in a.hits]


def test_fewer_than_asked_says_how_many_and_why(service):
    found = quick(service, Ask('cats', n=200))
    assert len(found) == 30 and found.reason == 'only 30 of 200: no more results'


def test_too_small_is_counted(service):
    found = quick(service, Ask('muffin', n=130, min_side=200))
    assert len(found) == 78 and all(min(h.width, h.height) >= 200 for h in found.hits)
    assert found.reason == 'only 78 of 130: no more results; 52 smaller than 200 px'


@pytest.mark.parametrize('wanted', LICENSES)
def test_licence_filter(service, gallery, wanted):
    found = quick(service, Ask('muffin', n=130, license=wanted))
    assert sorted(h.title for h in found.hits) == sorted(p.title for p in gallery.pictures if 'muffin' in p.words and allows(p.license, wanted))
    assert 0 < len(found) <= 130 and (len(found) < 130) == (wanted not in ('any', 'share'))
    if service.name != 'duckduckgo': assert all(allows(h.license, wanted) and h.license and h.creator and h.license_url for h in found.hits)


@pytest.mark.parametrize('query', ['muffin "blueberry" \'x\' & = ? # % + ; <b> \\', 'muffin 松饼 кекс ☕ é', 'muffin\u202e\n\tx', 'muffin ' + 'x'*300])
def test_queries_with_anything_in_them(service, query):
    found = quick(service, Ask(query, n=25))
    assert len(found) == 25 and found.reason == ''


def test_nothing_found_says_what_to_try(service):
    found = quick(service, Ask('zebra'))
    assert found.hits == [] and re.match('nothing found: (no results|an empty answer)', found.reason)
    others = {'duckduckgo', 'openverse', 'wikimedia'} - {service.name}
    assert all(o in found.reason for o in (*others, 'folder:PATH', 'lookalikes draw')) and f'source: {service.name}' not in found.reason


def test_every_address_leads_to_a_picture(service, gallery):
    for h in quick(service, Ask('cat', n=3)).hits:
        r, page = httpx.get(h.url), httpx.get(h.page)
        assert r.status_code == page.status_code == 200 and r.headers['content-type'].startswith('image/') and h.url in page.text


# Refusals

def test_a_rate_limit_that_passes(service, gallery):
    gallery.limit = 1
    found = quick(service, Ask('muffin', n=5))
    at = [t for t, _, path in gallery.log if not path.startswith('/?q')]
    assert len(found) == 5 and found.reason == '' and len(at) == 2 and at[1]-at[0] >= 1


def test_a_rate_limit_that_does_not_pass(service, gallery):
    gallery.limit, gallery.retry_after = 99, 0
    found = quick(service, Ask('muffin', n=5))
    assert not found.hits and 'rate limited (HTTP 429) after 3 attempts' in found.reason and gallery.searches == 3


def test_a_server_that_asks_for_too_much_patience(service, gallery):
    gallery.limit, gallery.retry_after = 99, 3600
    start = time.monotonic()
    found = quick(service, Ask('muffin', n=5))
    assert 'rate limited (HTTP 429); it asks to wait 3,600 s, longer than the 60 s allowed' in found.reason and gallery.searches == 1 and time.monotonic()-start < 2


def test_a_refusal_on_a_later_page_keeps_the_earlier_ones(scripted):
    def script(k, path, q):
        if q['page'] == '2': return 500, {'detail': 'Internal server error'}
        return 200, {'page_count': 9, 'results': [{'url': f'https://x.org/{i}.jpg'} for i in range(20)]}
    s = scripted(script)
    found = quick(Openverse(s.base), Ask('x', n=50))
    assert len(found) == 20 and found.reason == 'only 20 of 50: 127.0.0.1 refused (HTTP 500: Internal server error) after 3 attempts'
    assert [q['page'] for _, q, _, _ in s.asked] == ['1', '2', '2', '2']  # a page that was had is not asked for again


def test_500_then_200(scripted):
    s = scripted(lambda k, path, q: (503, HTML, {'Retry-After': 'Wed, 21 Oct 2015 07:28:00 GMT'}) if k == 1 else (200, recorded('openverse_images.json')))
    assert len(quick(Openverse(s.base), Ask('x', n=1))) == 1 and len(s.asked) == 2


@pytest.mark.parametrize('status,body,said', [
    (401, 'openverse_401.json', 'refused (HTTP 401: Authentication credentials were not provided.)'), (400, 'openverse_400.json', "License type 'free' does not exist."),
    (403, HTML, 'refused (HTTP 403)'), (404, '', 'refused (HTTP 404)'), (418, '[]', 'refused (HTTP 418)')])
def test_what_asking_again_cannot_help(scripted, status, body, said):
    s = scripted(lambda k, path, q: (status, recorded(body) if body.endswith('.json') else body))
    found = quick(Openverse(s.base), Ask('x'))
    assert said in found.reason and 'attempts' not in found.reason and len(s.asked) == 1


RUBBISH = {'html': (200, HTML), 'captcha': (200, HTML, {'Content-Type': 'text/html'}), 'empty': (200, ''), 'half': (200, '{"results": [{"url": "https://x.o'), 'list': (200, '[1, 2]'),
           'number': (200, '3'), 'null': (200, 'null'), 'text': (200, 'try later'), 'picture': (200, b'\x89PNG\r\n\x1a\n' + bytes(99)), 'latin1': (200, '{"a": "é"}'.encode('latin-1')),
           'not gzip': (200, 'plain', {'Content-Encoding': 'gzip'}), 'deep': (200, '['*100_000)}


@pytest.mark.parametrize('what', RUBBISH)
@pytest.mark.parametrize('cls', [Openverse, Wikimedia])
def test_answers_that_are_none(cls, what, scripted):
    s = scripted(lambda k, path, q: RUBBISH[what])
    found = quick(cls(s.base), Ask('x'))
    assert found.hits == [] and found.reason.startswith('nothing found: 127.0.0.1 ') and 'after 3 attempts' in found.reason and len(s.asked) == 3
    if what in ('html', 'empty', 'half'): assert {'html': 'HTML page', 'empty': 'empty', 'half': 'damaged JSON'}[what] in found.reason


@pytest.mark.parametrize('rows', [None, {}, 'x', 7, [None, 1, 'x', []], [{}], [{'url': None}], [{'url': 5}], [{'url': ['https://x.org/1.jpg']}], [{'url': 'ftp://x.org/1.jpg'}, {'url': 'file:///etc/passwd'},
                         {'url': '/1.jpg'}, {'url': 'https://'}]], ids=str)
def test_rows_that_are_none(rows, scripted):
    s = scripted(lambda k, path, q: (200, {'page_count': 1, 'results': rows, 'query': {'pages': rows}}))
    for src in (Openverse(s.base), Wikimedia(s.base)):
        found = quick(src, Ask('x'))
        assert found.hits == [] and found.reason.startswith('nothing found: no ')


def test_pages_that_repeat(scripted):
    s = scripted(lambda k, path, q: (200, {'page_count': 99, 'results': [{'url': f'https://x.org/{i}.jpg'} for i in range(20)]}))
    found = quick(Openverse(s.base), Ask('x', n=50))
    assert len(found) == 20 and found.reason == 'only 20 of 50: page 2 only repeats what came before' and len(s.asked) == 2


def test_a_page_repeated_in_part_is_counted_once(scripted):
    s = scripted(lambda k, path, q: (200, {'page_count': 99, 'results': [{'url': f'https://x.org/{i+10*k}.jpg'} for i in [3, 1, 3, *range(20)]]}))
    found = quick(Openverse(s.base), Ask('x', n=50))
    assert len({h.url for h in found.hits}) == 50 and [h.url[14:] for h in found.hits[:4]] == ['13.jpg', '11.jpg', '10.jpg', '12.jpg']


def test_a_service_that_goes_on_for_ever(scripted):
    small = scripted(lambda k, path, q: (200, {'page_count': 10**9, 'results': [{'url': f'https://x.org/{k}/{i}.jpg', 'width': 9, 'height': 9} for i in range(500)]}))
    found = quick(Openverse(small.base), Ask('x', n=5, min_side=50))
    assert re.match(r'nothing found: gave up after 1,500 results; \d+ smaller than 50 px', found.reason)
    none = scripted(lambda k, path, q: (200, {'page_count': 10**9, 'results': []}))
    assert 'no results' in quick(Openverse(none.base), Ask('x')).reason and len(none.asked) == 5


def test_openverse_shows_240(tmp_path):
    for i in range(300): (tmp_path/f'{i}.png').touch()
    with Gallery([('muffin', *tmp_path.iterdir())]) as g:
        found = quick(Openverse(g.base), Ask('muffin', n=300))
        assert len(found) == 240 and found.reason == 'only 240 of 300: no more results (openverse shows 240 at most: ask with other words too)'
        assert len(quick(Openverse(g.base, token='secret'), Ask('muffin', n=240))) == 240 and len(g.log) == 12+5


# Silence

@pytest.mark.parametrize('cls', [Openverse, Wikimedia])
def test_no_answer_in_time(cls, scripted):
    s = scripted(lambda k, path, q: None)
    start = time.monotonic()
    found = quick(cls(s.base, timeout=.2), Ask('x'), attempts=2)
    assert 'no answer from 127.0.0.1 in time after 2 attempts' in found.reason and len(s.asked) == 2 and time.monotonic()-start < 3


def test_an_answer_that_does_not_end(scripted):
    s = scripted(lambda k, path, q: (200, b' '*3_000_000))
    with pytest.raises(SearchError, match='does not end'): search.get_json(httpx.Client(), s.base, {}, max_bytes=1_000_000)
    with pytest.raises(SearchError, match='does not end'): search.get_json(httpx.Client(), s.base, {}, whole=0)


@pytest.mark.parametrize('make', [Openverse, Wikimedia, lambda base: DuckDuckGo(proxy=base)], ids=['openverse', 'wikimedia', 'duckduckgo'])
def test_connection_refused(make):
    with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
    found = quick(make(f'http://127.0.0.1:{port}'), Ask('x'), attempts=2)
    assert 'cannot be reached' in found.reason and 'refused' in found.reason and 'after 2 attempts' in found.reason


def test_no_host_of_that_name():
    assert 'nowhere.invalid cannot be reached' in quick(Openverse('https://nowhere.invalid'), Ask('x'), attempts=1).reason


def test_a_redirect_loop(scripted):
    s = scripted(lambda k, path, q: (302, '', {'Location': path}))
    assert 'cannot be reached' in quick(Wikimedia(s.base), Ask('x'), attempts=1).reason and len(s.asked) <= 6


def test_waits_grow(scripted):
    s = scripted(lambda k, path, q: (500, ''))
    find(Openverse(s.base), Ask('x'), attempts=4, wait=.1, max_wait=.25)
    at = [t for *_, t in s.asked]
    first, second, third = [b-a for a, b in zip(at, at[1:])]
    assert .1 <= first < .3 and .2 <= second < .4 and .25 <= third < .4


# Recorded shapes

def test_openverse_recorded(scripted):
    s = scripted(lambda k, path, q: (200, recorded('openverse_images.json')))
    found = quick(Openverse(s.base, token='t0ken'), Ask('muffin & tea', license='modify-commercially', safe=False, n=9))
    path, q, headers, _ = s.asked[0]
    assert path == '/v1/images/' and q == {'q': 'muffin & tea', 'page': '1', 'page_size': '50', 'mature': 'true', 'license_type': 'commercial,modification'}
    assert headers['Authorization'] == 'Bearer t0ken' and re.match(r'lookalikes/\d.* \(\+https://', headers['User-Agent'])
    a, b = found.hits
    assert a == Hit('https://live.example.org/1/muffin%20one.jpg', 'https://photos.example.org/p/1', 'Blueberry muffins & tea', 'CC BY-SA 4.0',
                    'https://creativecommons.org/licenses/by-sa/4.0/', 'Åsa Öberg', 1024, 768, 'openverse')
    assert b == Hit('https://live.example.org/2.png', license='Public Domain Mark 1.0', source='openverse')
    assert found.reason == 'only 2 of 9: no more results; 1 without a usable address; 1 under another licence'
    plain = quick(Openverse(s.base), Ask('muffin', n=9))
    assert [h.width for h in plain.hits] == [1024, 0, 640] and plain.hits[2].title == '? half a letter' and plain.hits[2].license == 'CC NC-SAMPLING+ 1.0'
    assert s.asked[1][1] == {'q': 'muffin', 'page': '1', 'page_size': '20', 'mature': 'false'} and 'Authorization' not in s.asked[1][2]


def test_wikimedia_recorded(scripted):
    s = scripted(lambda k, path, q: (200, recorded('wikimedia_search.json')) if k == 1 else (200, {'batchcomplete': True}))
    found = quick(Wikimedia(s.base), Ask('chihuahua', min_side=200, n=9))
    (path, q, headers, _), (_, second, _, _) = s.asked
    assert path == '/w/api.php' and q['gsrsearch'] == 'chihuahua filetype:bitmap' and (q['gsrnamespace'], q['formatversion'], q['iiurlwidth'], q['maxlag']) == ('6', '2', '960', '5')
    assert 'github.com/lookalikes' in headers['User-Agent'] and second == q | {'gsroffset': '5', 'continue': 'gsroffset||'}
    panorama, sofa, odd = found.hits
    assert sofa == Hit('https://upload.example.org/commons/thumb/a/ab/Chihuahua_on_sofa.jpg/960px-Chihuahua_on_sofa.jpg', 'https://commons.example.org/wiki/File:Chihuahua_on_sofa.jpg',
                       'Chihuahua on sofa', 'CC BY-SA 3.0', 'https://creativecommons.org/licenses/by-sa/3.0', 'José & Co.', 960, 640, 'wikimedia')
    assert (panorama.url, panorama.width, panorama.creator) == ('https://upload.example.org/Panorama.jpg', 8000, 'Unknown author')  # scaled down it would be too low
    assert (odd.url, odd.license, odd.creator) == ('https://upload.example.org/Odd.png', '', '')
    assert found.reason == 'only 3 of 9: no more results'


def test_wikimedia_leaves_out_what_states_no_licence(scripted):
    s = scripted(lambda k, path, q: (200, recorded('wikimedia_search.json') if k == 1 else '{}'))
    found = quick(Wikimedia(s.base, width=300), Ask('chihuahua', license='public-domain', n=9))
    assert [h.title for h in found.hits] == ['Panorama of dogs'] and '1 under another licence' in found.reason and '1 of unstated licence' in found.reason
    assert s.asked[0][1]['iiurlwidth'] == '330'


@pytest.mark.parametrize('name', ['ratelimited', 'maxlag'])
def test_wikimedia_errors_that_pass(name, scripted):
    s = scripted(lambda k, path, q: (200, recorded(f'wikimedia_{name}.json') if k < 3 else recorded('wikimedia_search.json')))
    assert len(quick(Wikimedia(s.base), Ask('x', n=2))) == 2 and len(s.asked) == 3
    always = scripted(lambda k, path, q: (200, recorded(f'wikimedia_{name}.json')))
    assert f'{name}: ' in (reason := quick(Wikimedia(always.base), Ask('x')).reason) and 'after 3 attempts' in reason


def test_wikimedia_errors_that_do_not(scripted):
    s = scripted(lambda k, path, q: (200, {'error': {'code': 'badvalue', 'info': 'Unrecognized value'}}))
    assert 'refused (badvalue: Unrecognized value)' in quick(Wikimedia(s.base), Ask('x')).reason and len(s.asked) == 1


def front_or(answer): return lambda k, path, q: (200, recorded('duckduckgo_front.html'), {'Content-Type': 'text/html'}) if path == '/' else answer(k, path, q)


def test_duckduckgo_recorded(scripted, duck):
    s = scripted(front_or(lambda k, path, q: (200, recorded('duckduckgo_i.json') if 's' not in q else {'results': []})))
    found = quick(duck(s.port), Ask('muffin "x" é', license='share-commercially', min_side=500, n=9))
    assert [(h.url, h.width) for h in found.hits] == [('https://cdn.example.org/a%20b%2Fc.jpg?w=1&h=%23', 1800), ('https://cdn.example.org/2.jpg', 0), ('https://cdn.example.org/3.jpg', 700)]
    assert found.hits[0] == Hit('https://cdn.example.org/a%20b%2Fc.jpg?w=1&h=%23', 'https://blog.example.org/best', "The 'best' muffins", width=1800, height=1200, source='duckduckgo')
    assert found.reason == 'only 3 of 9: no more results; 2 without a usable address'
    (p0, q0, *_), (p1, q1, *_), _, (p3, q3, *_) = s.asked
    assert (p0, p1, p3) == ('/', '/i.js', '/i.js') and q0['q'] == q1['q'] == 'muffin "x" é' and q1['vqd'] == '4-271828182845904523536028747135266249775' and q1['p'] == '1'
    assert 'license:ShareCommercially' in q1['f'] and 'size:Large' in q1['f'] and q3['s'] == '100'
    quick(duck(s.port), Ask('muffin', safe=False, n=1))
    assert s.asked[-1][1]['p'] == '-1' and 'license' not in s.asked[-1][1].get('f', '')


@pytest.mark.parametrize('status', [202, 403, 418, 429])
def test_duckduckgo_limits(status, scripted, duck):
    s = scripted(front_or(lambda k, path, q: (status, '') if k < 6 else (200, recorded('duckduckgo_i.json'))))
    assert len(quick(src := duck(s.port), Ask('muffin', n=1))) == 1
    at_front = scripted(lambda k, path, q: (status, HTML))
    assert f'rate limited (HTTP {status}) after 3 attempts' in quick(duck(at_front.port), Ask('muffin')).reason
    assert len(quick(src, Ask('muffin', n=1))) == 1


@pytest.mark.parametrize('what,said', [('empty answer', 'empty answer'), ('no token', 'handed out no token'), ('html', 'did not answer with JSON'), ('list', 'an empty answer'),
                                       ('500', 'refused (HTTP 500)'), ('nothing', 'an empty answer')])
def test_duckduckgo_rubbish(what, said, scripted, duck):
    rubbish = {'empty answer': (200, '{"results": []}'), 'html': (200, HTML), 'list': (200, '[]'), '500': (500, ''), 'nothing': (200, '')}
    s = scripted(lambda k, path, q: (200, HTML) if what == 'no token' else front_or(lambda *a: rubbish[what])(k, path, q))
    found = quick(duck(s.port), Ask('muffin'))
    assert found.hits == [] and said in found.reason and 'after 3 attempts' in found.reason


def test_duckduckgo_silence(scripted, duck):
    s = scripted(lambda k, path, q: None)
    found = quick(duck(s.port, timeout=.3), Ask('muffin'), attempts=1)
    assert 'nothing found: no answer from duckduckgo.com in time.' in found.reason


def test_duckduckgo_believes_no_stranger(gallery, authority):
    impostor = Impostor(gallery.server.server_port, authority[0])
    found = quick(DuckDuckGo(proxy=impostor.url), Ask('muffin'), attempts=1)
    assert 'certificate' in found.reason and set(impostor.hosts) == {'duckduckgo.com:443'} and not gallery.log


def test_ddgs_itself_reads_the_gallery(gallery, duck):
    "Its own search function, as a user would call it, so that the shapes are those that the package expects."
    from ddgs import DDGS
    src = duck(gallery.server.server_port)
    rows = DDGS(proxy=src.proxy, verify=src.verify).images('muffin', backend='duckduckgo', max_results=None, page=2)
    assert len(rows) == 30 and set(rows[0]) >= {'title', 'image', 'thumbnail', 'url', 'height', 'width', 'source'}


# Lists and folders

def csv(path, text, name='list.csv'):
    (path/name).write_text(text, encoding='utf-8')
    return path/name


def test_a_text_file(tmp_path):
    f = csv(tmp_path, '\ufeff# mine\n\nhttps://x.org/1.jpg\n  HTTP://x.org/ü 2.jpg?a=1#b \n#https://x.org/3.jpg\nhttps://x.org/1.jpg\n', 'list.txt')
    found = quick(Urls(f), Ask('anything', n=2))
    assert [h.url for h in found.hits] == ['https://x.org/1.jpg', 'HTTP://x.org/ü 2.jpg?a=1#b'] and found.reason == '' and found.hits[0].source == 'urls'


def test_rows_go_where_label_or_query_says(tmp_path):
    f = csv(tmp_path, 'URL, Label ,query,creator,width\nhttps://x.org/1.jpg,muffin,breakfast,Ada,300\nhttps://x.org/2.jpg,scone,breakfast,Ben,\nhttps://x.org/3.jpg,MUFFIN,tea,"Cleo, Jr",x\nhttps://x.org/4.jpg,,,,\n')
    assert [h.url[14:] for h in quick(Urls(f), Ask('breakfast', label='muffin')).hits] == ['1.jpg', '3.jpg', '4.jpg']
    assert [h.url[14:] for h in quick(Urls(f), Ask('breakfast')).hits] == ['1.jpg', '2.jpg', '4.jpg']
    h = quick(Urls(f), Ask('muffin', label='muffin')).hits
    assert (h[0].creator, h[0].width, h[1].creator, h[1].width) == ('Ada', 300, 'Cleo, Jr', 0)
    only = csv(tmp_path, 'label,url\nmuffin,https://x.org/1.jpg\nscone,https://x.org/2.jpg\n', 'only.csv')
    assert len(quick(Urls(only), Ask('muffin'))) == 1
    reason = quick(Urls(only), Ask('q', label='bun')).reason
    assert "only.csv has no row with label 'bun' (it has muffin, scone)" in reason and 'attempts' not in reason


def test_a_csv_without_either_answers_everything(tmp_path):
    assert len(quick(Urls(csv(tmp_path, 'url,note\nhttps://x.org/1.jpg,x\nhttps://x.org/2.jpg,y\n')), Ask('bun', label='bun'))) == 2


def test_a_csv_may_not_name_files_of_this_machine(tmp_path):
    f = csv(tmp_path, 'url,local,source\nhttps://x.org/1.jpg,/etc/passwd,bank\n')
    h = quick(Urls(f), Ask('x')).hits[0]
    assert h.local == '' and h.source == 'urls'


@pytest.mark.parametrize('text,said', [
    ('', 'no column url'), ('a,b\n1,2\n', 'line 1: no column url among'), ('url\n', 'no addresses in it'), ('url,label\nhttps://x.org/1.jpg\n', 'line 2: 1 values where the first line names 2 columns'),
    ('url\nhttps://x.org/1.jpg\n\nx.org/2.jpg\n', "line 4: 'x.org/2.jpg' is no http:// or https:// address"), ('url\nfile:///etc/passwd\n', 'line 2'), ('url,t\nhttps://x.org/1,"a\nb"\nhttps://x.org/2,"c"d\n', 'line 4: not a CSV'),
    ('url,label\nhttps://x.org/1.jpg,a\n,b\n', "line 3: '' is no"), ('url,t\nhttps://x.org/1.jpg,"open\n', 'not a CSV file')])
def test_mistakes_in_a_csv_are_named_by_line(text, said, tmp_path):
    with pytest.raises(ValueError, match=re.escape(said)) as e: Urls(csv(tmp_path, text))
    assert 'list.csv' in str(e.value)


def test_mistakes_in_a_text_file_are_named_by_line(tmp_path):
    with pytest.raises(ValueError, match='list.txt, line 2'): Urls(csv(tmp_path, '# list\nnot an address\n', 'list.txt'))
    (tmp_path/'latin.txt').write_bytes('https://x.org/1.jpg\nhttps://x.org/café.jpg\n'.encode('latin-1'))
    with pytest.raises(ValueError, match='latin.txt, line 2: not UTF-8'): Urls(tmp_path/'latin.txt')
    with pytest.raises(FileNotFoundError, match='gone.txt: no such file'): Urls(tmp_path/'gone.txt')
    with pytest.raises(OSError, match='cannot be read'): Urls(tmp_path)
    with pytest.raises(ValueError, match='no addresses'): Urls(csv(tmp_path, '# nothing\n', 'empty.txt'))


def test_folder(tmp_path):
    for name in ('Ice Cream_Cone/1.jpg', 'Ice Cream_Cone/deep/2.png', 'mine/blueberry-Muffin_12.JPG', 'mine/muffins.jpg', 'mine/notes.txt', 'cat.jpg', 'catalogue.jpg', '.hidden/cat.jpg', 'straße #1%.jpg'):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith('.txt'): (tmp_path/name).write_text('cat')
        else: Image.new('RGB', (9, 9)).save(tmp_path/name)

    def names(*args, **kw): return [Path(h.local).relative_to(tmp_path).as_posix() for h in quick(Folder(tmp_path), Ask(*args, **kw)).hits]
    assert names('ice cream cone') == names('anything', label='ice_cream_cone') == names('ICE_CREAM  CONE') == ['Ice Cream_Cone/1.jpg', 'Ice Cream_Cone/deep/2.png']
    assert names('muffin blueberry') == ['mine/blueberry-Muffin_12.JPG'] and names('12 muffin') == ['mine/blueberry-Muffin_12.JPG'] and names('cat') == ['cat.jpg']
    assert names('muffin', label='mine') == ['mine/blueberry-Muffin_12.JPG', 'mine/muffins.jpg']
    assert names('jpg') == names('zebra') == names('"?"') == []
    h = quick(Folder(tmp_path), Ask('strasse 1', license='public-domain', min_side=5)).hits[0]
    assert h.url.startswith('file:///') and '%23' in h.url and Path(h.local).read_bytes() and h.source == 'folder'
    found = quick(Folder(tmp_path), Ask('zebra'))
    assert 'nothing found: no results' in found.reason


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(NotADirectoryError, match='gone: no such folder'): Folder(tmp_path/'gone')


def test_a_folder_of_real_photographs(photos):
    if not (photos/'chihuahua_or_muffin').is_dir(): pytest.skip('no photos of chihuahua_or_muffin')
    found = quick(Folder(photos/'chihuahua_or_muffin'), Ask('a small dog', label='Chihuahua', n=10))
    assert len(found) == 10 and {Path(h.local).parent.name for h in found.hits} == {'chihuahua'}


# Names and sources of one's own

def test_sources_by_name(tmp_path, gallery):
    f = csv(tmp_path, 'https://x.org/1.jpg\n', 'my list.txt')
    assert [source(o).name for o in ('duckduckgo', 'openverse', 'wikimedia', f'urls:{f}', f'folder:{tmp_path}')] == list(search.SOURCES)
    assert source('wikimedia', width=330).width == 330 and source(f'openverse:{gallery.base}').base == gallery.base
    own = Urls(f)
    assert source(own) is own
    for bad, said in (('bing', "no source is called 'bing'"), ('', 'need one of duckduckgo'), ('urls', 'urls:list.csv'), ('folder:', 'folder:photos'), ('openverse:localhost', 'need an address'), (7, 'no source')):
        with pytest.raises(ValueError, match=said): source(bad)


def test_a_generator_that_fails_starts_over(scripted):
    "A source of a few lines: httpx's own errors are understood, and pages that were had are skipped."
    s = scripted(lambda k, path, q: (503, '') if k in (1, 3) else (200, [f'https://x.org/{path[1:]}/{i}.jpg' for i in range(4)]))

    class Tiny:
        name = 'tiny'

        def pages(self, ask):
            for k in range(3): yield [Hit(o) for o in httpx.get(f'{s.base}/{k}').raise_for_status().json()]
    found = quick(Tiny(), Ask('x', n=10))
    assert [h.url[14:] for h in found.hits] == [f'{k}/{i}.jpg' for k in range(3) for i in range(4)][:10] and found.hits[0].source == 'tiny' and found.reason == ''
    assert [p for p, *_ in s.asked] == ['/0', '/0', '/1', '/0', '/1', '/2']


@pytest.mark.parametrize('answer,said', [((429, '', {'Retry-After': '999'}), 'asks to wait 999 s'), ((404, ''), 'HTTP 404'), ((200, HTML), 'not JSON'), (None, 'no answer from 127.0.0.1 in time')])
def test_errors_of_a_source_of_ones_own(answer, said, scripted):
    s = scripted(lambda k, path, q: answer)

    class Tiny:
        name = 'tiny'
        def pages(self, ask): yield httpx.get(s.base, timeout=.2).raise_for_status().json()
    assert said in quick(Tiny(), Ask('x'), attempts=2).reason


def test_a_mistake_in_a_source_is_not_hidden():
    class Wrong:
        name = 'wrong'
        def pages(self, ask): return iter(ask.nonsense)
    with pytest.raises(AttributeError, match='nonsense'): find(Wrong(), Ask('x'))


def test_pages_asks_again_for_the_page_that_failed():
    asked = []

    def fetch(k):
        asked.append(k)
        if len(asked) == 2: raise SearchError('busy', True)
        return [Hit(f'https://x.org/{k}.jpg')], k+1 if k < 3 else None
    pages = Pages(fetch, 1)
    assert next(pages)[0].url.endswith('1.jpg')
    with pytest.raises(SearchError): next(pages)
    assert [h.url[14:] for page in pages for h in page] == ['2.jpg', '3.jpg'] and asked == [1, 2, 2, 3] and list(pages) == []


def test_found_shows_itself_safely():
    f = Found('x', Ask('<script>'), [Hit('https://x.org', title='&lt;img src=x onerror=1&gt;')], 'only 1 & no more')
    assert '<script>' not in f._repr_html_() and '<img' not in f._repr_html_() and len(f) == 1 and '1 of 100' in repr(f)


def test_retries_are_silent(scripted):
    s = scripted(lambda k, path, q: (500, ''))
    code = f"from lookalikes.search import *; find('openverse:{s.base}', Ask('x'), wait=.01)"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert (r.returncode, r.stdout, r.stderr) == (0, '', '') and len(s.asked) == 3


# The gallery itself

def raw(gallery, target, method='GET'):
    "The status of a request whose target no client has tidied up."
    with socket.create_connection(('127.0.0.1', gallery.server.server_port)) as s:
        s.sendall(f'{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'.encode())
        answer = b''
        while part := s.recv(65536): answer += part
    return int(answer.split()[1]) if answer else None, answer


@pytest.mark.parametrize('target', ['/picture/0/../../../../etc/passwd', '/picture/..%2f..%2fetc%2fpasswd', '//etc/passwd', '/../../etc/passwd', '/picture/-1/x', '/picture/99999999999/x', '/picture/0x1/x',
                                    '/thumb/0/99999px-x', '/thumb/0/x', '/page/160', '/picture/٣/x', '/v1/images', '/%00'])
def test_nothing_leads_out_of_the_gallery(gallery, target):
    status, answer = raw(gallery, target)
    assert status in (400, 404) and b'root:' not in answer


def test_a_picture_is_found_by_number_whatever_its_name_says(gallery, pictures):
    for name in ('anything', '..%2f..%2fetc%2fpasswd', ''):
        status, answer = raw(gallery, f'/picture/0/{name}')
        assert status == 200 and answer.endswith(Path(pictures.paths[0]).read_bytes())
    status, head = raw(gallery, '/picture/0/x', 'HEAD')
    assert status == 200 and head.endswith(b'\r\n\r\n') and raw(gallery, '/', 'DELETE')[0] == 501


def test_only_this_machine_and_then_nobody(pictures):
    g = Gallery(pictures).start()
    assert g.server.server_address[0] == '127.0.0.1' and g.start() is g
    with pytest.raises(OSError, match=f':{g.server.server_port}: no server can listen there'): Gallery(pictures, port=g.server.server_port).start()
    with httpx.Client() as c:
        assert c.get(f'{g.base}/robots.txt').text.startswith('User-agent: *')
        g.stop()
        with pytest.raises(httpx.TransportError): c.get(f'{g.base}/robots.txt')
    g.stop()
    with g: assert httpx.get(g.base).status_code == 200


def test_services_refuse_as_the_real_ones_do(gallery):
    def get(path, agent='me/1 (+https://x.org)', **q): return httpx.get(gallery.base+path, params=q, headers={'User-Agent': agent})
    assert get('/v1/images/', q='muffin', page_size=21).status_code == 401 and get('/v1/images/', q='muffin', license_type='free').status_code == 400
    assert get('/v1/images/', q='muffin', page=99).status_code == 404 and get('/v1/images/', q='muffin', page='x').status_code == 400
    assert get('/w/api.php', agent='python-httpx/0.28').status_code == 403 and get('/w/api.php').json()['error']['code'] == 'missingparam'
    assert get('/i.js', q='muffin', vqd='4-1').status_code == 403


def test_wikimedia_takes_the_size_it_needs(tmp_path):
    for name, size in (('large', (2000, 1500)), ('wide', (3000, 200)), ('small', (400, 300))): Image.new('RGB', size, 'tan').save(tmp_path/f'muffin {name}.png')
    with Gallery([('muffin', *tmp_path.iterdir())]) as g:
        hits = {h.title.split()[1]: h for h in quick(Wikimedia(g.base), Ask('muffin', min_side=150, n=3)).hits}
        for h in hits.values():
            from io import BytesIO
            assert Image.open(BytesIO(httpx.get(h.url).content)).size == (h.width, h.height)
        assert {k: (h.width, h.height) for k, h in hits.items()} == {'large': (960, 720), 'wide': (3000, 200), 'small': (400, 300)}


def test_noise_at_its_rate(pictures):
    cats, muffins = [pictures.where(pictures.df.label == o) for o in ('cat', 'muffin')]
    g = Gallery(muffins, noise=cats, rate=.1, terms={f: 'muffin tin' for f in cats.df.file})
    hits = g.search('blueberry muffin')
    stray = [i for i, p in enumerate(hits) if p.title.startswith('cat')]
    assert len(stray) == 14 and len(hits) == 144 and min(stray) < 48 and max(stray) > 96 and hits == g.search('blueberry muffin')
    assert g.search('cat') == []
    assert len(Gallery(muffins, noise=cats, rate=.5).search('muffin')) == 130  # cats answer to cat alone when nothing else is said


def test_words_of_ones_own_and_credits_of_the_manifest(pictures):
    own = pictures.replace(terms=['breakfast']*len(pictures), license='CC-BY-4.0', creator='Zoë')
    with Gallery(own) as g:
        h = quick(Openverse(g.base), Ask('breakfasts', n=1)).hits[0]
        assert (h.license, h.creator, h.license_url) == ('CC BY 4.0', 'Zoë', 'https://creativecommons.org/licenses/by/4.0/') and g.search('muffin') == []


def test_many_at_a_time(gallery):
    "Searches in parallel neither mix nor fail."
    from concurrent.futures import ThreadPoolExecutor
    src = Openverse(gallery.base)
    with ThreadPoolExecutor(8) as pool: found = list(pool.map(lambda q: quick(src, Ask(q, n=25)), ['muffin', 'cat']*8))
    assert all(f == found[i % 2] and f.reason == '' for i, f in enumerate(found)) and found[0] != found[1]
