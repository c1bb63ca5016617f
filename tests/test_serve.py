"A bundle behind a web server: what it answers to programs, to people in a browser, and to those who mean no good."
import io
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip('fastapi', reason='the extra serve is not installed')
pytest.importorskip('python_multipart', reason='the extra serve is not installed')
psutil = pytest.importorskip('psutil')

EVIL = '<img src=x onerror=alert(1)>{{7*7}}.jpg'
LIMITS = dict(file=300_000, request=1_000_000, pixels=2_000_000, files=4, requests=24, header=1.5, stall=1., receive=3., answer=20., stop=10.)
PATIENT = LIMITS | dict(stall=15., receive=30., answer=60., stop=60.)     # for tests that count on an answer: a machine may be busy

# The server in a process of its own. Its audit hook notes every file that is opened for writing, every folder made, every look-up of a name and every connection.
SERVER = '''
import json, os, sys
sys.dont_write_bytecode = True      # Python may be the first to import a module, and keep it compiled: no doing of the server's
seen = []
def hook(event, args):
    if event == 'open' and not isinstance(args[0], int) and ((isinstance(args[1], str) and set(args[1]) & set('wax+')) or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and str(args[0]) not in ('/dev/null',): seen.append(f'{event} {args[0]}')
    elif event in ('os.mkdir', 'tempfile.mkstemp', 'tempfile.mkdtemp', 'socket.getaddrinfo', 'socket.connect', 'subprocess.Popen'): seen.append(f'{event} {args}')
from lookalikes.limits import ServerLimits
from lookalikes.serve import serve
def ready(server):
    print(server.url, flush=True)
    sys.addaudithook(hook)
settings = json.loads(sys.argv[2])
serve(sys.argv[1], port=0, limits=ServerLimits(**settings.pop('limits')), ready=ready, **settings)
print(json.dumps(seen), flush=True)
'''


@contextmanager
def serving(model, limits=LIMITS, **settings):
    "A server process; afterwards it has stopped in good order, and `seen` says what it did beside answering."
    p = subprocess.Popen([sys.executable, '-c', SERVER, str(model), json.dumps(dict(limits=limits, **settings))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = p.stdout.readline().strip()
        assert url, p.stderr.read()
        s = SimpleNamespace(url=url, port=httpx.URL(url).port, process=p, rss=psutil.Process(p.pid).memory_info, seen=None)
        for _ in range(200):
            try: httpx.get(url+'health'); break
            except httpx.TransportError: time.sleep(.05)
        yield s
        told = p.poll() is not None     # by the test, to stop
        if not told: p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=30)
        assert (told or p.returncode == 0) and 'Traceback' not in err, err[-2000:]
        if not told: s.seen = json.loads(out)
    finally:
        if p.poll() is None: p.kill()
        p.wait()


@pytest.fixture(scope='module')
def model(drawn, bundle, tmp_path_factory):
    "The session's bundle, with thumbnails, neighbours and a threshold."
    from safetensors.numpy import load_file
    from lookalikes.calibration import Calibration, unit
    from lookalikes.classifier import Classifier, Exported, Network, write_bundle
    from lookalikes.thumbnails import THUMBNAILS, pack_thumbnails
    clf, files = Classifier.load(bundle), sorted(drawn.rglob('*.jpg'))
    features, = clf.run(np.stack([clf.prep(clf.opened(f)[0]) for f in files]), 'features')
    thumbs = pack_thumbnails([f.read_bytes() for f in files], [clf.classes.index(f.parent.name) for f in files], features, ['<b>drawn</b>']*len(files))
    network = Network((bundle/'model.onnx').read_bytes(), clf.prep, load_file(bundle/'head.safetensors'))
    return write_bundle(tmp_path_factory.mktemp('served')/'chihuahua_or_muffin', Exported([network], clf.classes, dict(kind='probe', metrics=dict(test=dict(n=40, errors=2)))),
                        Calibration(threshold=.6, quantile=.9, coverage=.9, stranger=.7, neighbours=unit(features).astype(np.float16)), {THUMBNAILS: thumbs})


@pytest.fixture(scope='module')
def api(model):
    with serving(model, page=False) as s: yield s


def png(w, h, color=0): return saved(Image.new('L', (w, h), color), 'png')


def saved(im, kind):
    im.save(out := io.BytesIO(), kind)
    return out.getvalue()


def bomb(w=30_000, h=30_000):
    "A PNG of few bytes that claims 900 million pixels, and has them."
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind+data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 1, 0, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(bytes((w//8+1)*2000), 9)) + chunk(b'IEND', b'')


def post(s, *files, **kw): return httpx.post(s.url+'predict', files=[('file', (name, data)) for name, data in files], timeout=30, **kw)


def raw(port, data, wait=.0, patience=8):
    "Send bytes, perhaps one at a time; what comes back until the server hangs up."
    with socket.create_connection(('127.0.0.1', port), timeout=patience) as c:
        try:
            for piece in ([data] if not wait else [data[i:i+1] for i in range(len(data))]):
                c.sendall(piece)
                time.sleep(wait)
        except OSError: pass
        out = b''
        try:
            while piece := c.recv(65536): out += piece
        except OSError: pass
        return out


def form(data, name='a.jpg', end=True): return f'--line\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + data + b'\r\n--line--\r\n'*end


def head(length, kind='multipart/form-data; boundary=line'): return f'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n'.encode()


# For programs

def test_predict_says_what_the_classifier_says(api, model, drawn):
    from lookalikes.classifier import Classifier
    files = [*sorted(drawn.rglob('*.jpg'))[::20], model/'model.onnx']
    want = list(Classifier.load(model).predict_files(files[:2]))
    r = post(api, *((str(f), f.read_bytes()) for f in files[:2]), ('model.jpg', b'no picture'))
    assert r.status_code == 200 and r.headers['x-content-type-options'] == 'nosniff'
    *good, bad = r.json()['predictions']
    for a, b in zip(good, want):
        assert a.keys() == b.keys() and a['label'] == b['label'] and a['labels'] == b['labels'] and a['abstained'] == b['abstained'] and abs(a['confidence']-b['confidence']) < 1e-4 and a['error'] is None
    assert bad['label'] is None and bad['error'] == 'not a picture (text, 10 bytes)'
    explained = post(api, ('a.jpg', files[0].read_bytes()), params={'explain': 'true'}).json()['predictions'][0]
    assert explained['heatmap'].startswith('data:image/jpeg;base64,') and explained['nearest'][0]['distance'] < .01 and explained['nearest'][0]['label'] == good[0]['label']


def test_health_and_openapi(api):
    assert httpx.get(api.url+'health').json() == dict(status='ok', classes=2, requests=0, pictures=0)
    spec = httpx.get(api.url+'openapi.json').json()
    assert set(spec['paths']) == {'/predict', '/health'} and {'200', '408', '413', '415', '422', '503'} <= set(spec['paths']['/predict']['post']['responses'])
    for path in ('', 'docs', 'redoc', 'static/x', '../etc/passwd', '%2e%2e/%2e%2e/etc/passwd', 'gradio_api/upload', 'gradio_api/file=/etc/passwd'):
        r = httpx.get(api.url+path)
        assert r.status_code == 404 and 'nothing is here' in r.json()['error'], path
    assert httpx.get(api.url+'predict').status_code == 405 and 'error' in httpx.get(api.url+'predict').json()


def bad_requests(jpeg):
    many, big = [('a.jpg', jpeg)]*5, b'\xff\xd8\xff' + bytes(400_000)
    return dict(html=([('a.jpg', b'<html><script>alert(1)</script>')], 422, 'a.jpg: not a picture (HTML page, 31 bytes)'), bomb=([('b.png', bomb())], 422, 'too large: '),
                truncated=([('t.jpg', jpeg[:len(jpeg)//2])], 422, 'truncated'), nothing=([('e.jpg', b'')], 422, 'empty'), many=(many, 413, 'more than 4 files'), large=([('l.jpg', big)], 413, 'over the limit of 293 kB for one file'),
                both=([('a.jpg', b'x'), ('b.jpg', b'y')], 422, 'none of the 2 files'))


def test_bad_pictures(api, drawn):
    jpeg = next(drawn.rglob('*.jpg')).read_bytes()
    for kind, (files, status, reason) in bad_requests(jpeg).items():
        r = post(api, *files)
        assert r.status_code == status and reason in r.json()['error'], (kind, r.status_code, r.text[:300])


def test_bad_requests(api):
    cases = {'json': (head(2, 'application/json') + b'{}', 415), 'no form': (head(8) + b'no form!', 400), 'no end': (head(len(form(b'x', end=False))) + form(b'x', end=False), 400),
             'declared huge': (head(10**12) + b'--line', 413), 'no file': (head(60) + b'--line\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--line--'[:60].ljust(60), 400),
             'no http': (b'\x16\x03\x01 hello\r\n\r\n', 400), 'endless head': (b'GET / HTTP/1.1\r\nX: ' + b'x'*200_000, 400)}
    with ThreadPoolExecutor(len(cases)) as ex: got = {kind: ex.submit(raw, api.port, data) for kind, (data, _) in cases.items()}     # a connection is kept for seconds
    for kind, (_, status) in cases.items(): assert got[kind].result().startswith(f'HTTP/1.1 {status} '.encode()), (kind, got[kind].result()[:200])


def test_names_are_only_text(api, drawn):
    jpeg = next(drawn.rglob('*.jpg')).read_bytes()
    for name in ('../../../../tmp/owned.jpg', '/etc/passwd', 'C:\\windows\\x.jpg', EVIL, 'x'*3000, 'ä'*20, '..', 'nul\0l'):
        body = form(jpeg, name.replace('\\', '\\\\'))
        got = raw(api.port, head(len(body)).replace(b'Host: x', b'Host: x\r\nConnection: close') + body)
        assert b'200 OK' in got and b'application/json' in got, (name, got[:300])
        assert len(json.loads(got.split(b'\r\n\r\n', 1)[1])['predictions'][0]['file']) <= 255


def test_slow_senders(api):
    body = form(b'x'*100)
    start = time.monotonic()
    with ThreadPoolExecutor() as ex:
        silent, trickle, half_a_head, nothing = (ex.submit(raw, api.port, *a) for a in ((head(len(body)) + body[:20],), (head(len(body)) + body[:-1], .05), (b'POST /predict HTT',), (b'',)))
    assert silent.result().startswith(b'HTTP/1.1 408 ') and b'too slowly' in silent.result()
    assert trickle.result().startswith(b'HTTP/1.1 408 ') or not trickle.result()
    assert half_a_head.result().startswith(b'HTTP/1.1 408 ') and nothing.result() == b''
    assert time.monotonic()-start < 25
    assert httpx.get(api.url+'health').json()['requests'] == 0


def test_busy(model, drawn):
    "One request may be inside: while somebody is slow, others are told when to come again; afterwards all is well."
    jpeg = next(drawn.rglob('*.jpg')).read_bytes()
    with serving(model, LIMITS | dict(requests=1), page=False) as s:
        body = form(jpeg)
        with socket.create_connection(('127.0.0.1', s.port)) as c:
            c.sendall(head(len(body)) + body[:50])
            time.sleep(.4)
            r = post(s, ('a.jpg', jpeg))
            assert r.status_code == 503 and int(r.headers['retry-after']) >= 1 and 'busy' in r.json()['error']
        time.sleep(.3)
        assert post(s, ('a.jpg', jpeg)).status_code == 200


def test_a_storm_leaves_no_trace(model, drawn):
    "Good requests among hostile ones: every good one is answered, memory stays bounded, nothing is written, nobody is called."
    jpeg = next(drawn.rglob('*.jpg')).read_bytes()
    with serving(model, PATIENT, page=False) as s:
        for _ in range(8): post(s, ('a.jpg', jpeg))
        before, hostile = s.rss().rss, bad_requests(jpeg)
        def one(i):
            if i % 2 == 0: return post(s, ('good.jpg', jpeg)).status_code
            if i % 10 == 1: return raw(s.port, head(500) + b'--line', patience=5) and None
            if i % 10 == 3: return raw(s.port, head(10**6) + bytes(10**6)) and None
            files, status, _ = list(hostile.values())[i//2 % len(hostile)]
            assert post(s, *files).status_code == status
        with ThreadPoolExecutor(12) as ex: said = list(ex.map(one, range(120)))
        assert said[::2] == [200]*60
        assert s.rss().rss-before < 150e6
        assert httpx.get(s.url+'health').json() == dict(status='ok', classes=2, requests=0, pictures=0)
    assert s.seen == []


@pytest.mark.skipif('os.name == "nt"', reason='Windows has no SIGTERM')
def test_it_finishes_what_it_has_begun(model, drawn):
    jpeg = next(drawn.rglob('*.jpg')).read_bytes()
    body = form(jpeg)
    with serving(model, PATIENT, page=False) as s:
        with socket.create_connection(('127.0.0.1', s.port), timeout=30) as c:
            c.sendall(head(len(body)) + body[:100])
            time.sleep(.3)
            s.process.send_signal(signal.SIGTERM)
            time.sleep(.4)
            with pytest.raises(httpx.ConnectError): httpx.get(s.url+'health')
            c.sendall(body[100:])
            got = b''
            while piece := c.recv(65536): got += piece
            assert got.startswith(b'HTTP/1.1 200 ') and b'"label"' in got
        assert s.process.wait(10) == 0


def test_it_needs_no_page(model, tmp_path):
    "Without Gradio, pandas and torch."
    code = 'import sys; from lookalikes.serve import app; app(sys.argv[1], page=False); print([o for o in ("gradio", "torch", "pandas", "fastai", "matplotlib") if o in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code, str(model)], capture_output=True, text=True, check=True).stdout.strip() == '[]'


def test_unusable_settings(model):
    from lookalikes.limits import ServerLimits
    from lookalikes.serve import app, serve
    with pytest.raises(ValueError, match='files=-1'): ServerLimits(files=-1)
    with pytest.raises(ValueError, match='begin with /'): app(model, page=False, root_path='pets')
    with pytest.raises(OSError, match='choose another port'), socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        serve(model, port=taken.getsockname()[1], page=False)


# For people

WAIT = 60_000


@pytest.fixture(scope='module')
def browser():
    api, chromium = pytest.importorskip('playwright.sync_api', reason='playwright is not installed'), shutil.which('chromium')
    pytest.importorskip('gradio', reason='the extra serve is not installed')
    if not chromium: pytest.skip('chromium is not installed')
    with api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'])
        yield b
        b.close()


@pytest.fixture(scope='module')
def site(model, browser):
    with serving(model) as s: yield s
    assert s.seen == []


@pytest.fixture
def opened(browser):
    "Open the page at a width; fail on what the console says (save for refusals that the test expects) and on every request that leaves the server."
    contexts, said, asked, missed = [], [], [], []
    def go(url, width=1200, height=900):
        context = browser.new_context(viewport=dict(width=width, height=height), permissions=['camera', 'clipboard-read', 'clipboard-write'])
        contexts.append(context)
        page = context.new_page()
        page.on('console', lambda m: said.append(f'{m.type}: {m.text} {m.location["url"]}'))
        page.on('pageerror', lambda e: said.append(str(e)))
        page.on('dialog', lambda d: (said.append(f'dialog: {d.message}'), d.dismiss()))
        page.on('request', lambda r: asked.append((url, r.url)))
        page.on('response', lambda r: missed.append(f'{r.status} {r.url}') if not r.ok else None)
        page.goto(url)
        page.locator('.lk-drop').wait_for(timeout=WAIT)
        page.wait_for_load_state('networkidle')
        for _ in range(40):     # until nothing changes any more, Gradio may lay the page out again
            page.evaluate('document.querySelector(".lk-drop").dataset.settled = 1')
            page.wait_for_timeout(500)
            if page.locator('.lk-drop[data-settled]').count(): break
        return page
    yield go
    for c in contexts: c.close()
    assert [o for o in missed if not o.endswith('predict?explain=true')] == []
    # browsers look for an icon at the root of a site, whoever's that is
    assert [o for o in said if 'status of 422' not in o and not o.endswith('/favicon.ico')] == []
    assert [a for url, a in asked if not a.startswith((url, 'data:', 'blob:'+url.removesuffix('pets/')))] == []


def muffin(drawn): return sorted((drawn/'muffin').glob('*.jpg'))[3]


def test_a_drawn_picture_is_classified(site, opened, drawn, tmp_path):
    page = opened(site.url)
    assert page.title() == page.locator('h1').inner_text() == 'Chihuahua or muffin' and page.locator('html').get_attribute('lang') == 'en'
    page.locator('.lk-file').set_input_files(muffin(drawn))
    page.locator('.lk-answer h2').wait_for(timeout=WAIT)
    assert 'muffin' in page.locator('.lk-answer h2').inner_text() and 'muffin' in page.locator('.lk-say').inner_text()
    assert 'Possible: muffin' in page.inner_text('.lk-answer') and page.locator('.lk-nearest img').count() == 4
    assert '<b>drawn</b>' in page.inner_text('.lk-reasons') and page.locator('.lk-reasons b').count() == 0
    page.get_by_text('%', exact=False).nth(2).wait_for(timeout=WAIT)
    assert [o.split('\n') for o in page.locator('.lk-bars li').all_inner_texts()][0][0] == 'muffin' and page.locator('.lk-bars li').count() == 2
    width = page.evaluate('[...document.querySelectorAll(".lk-fill")].map(e => e.getBoundingClientRect().width/e.parentElement.getBoundingClientRect().width)')
    shown = [float(o.split()[0])/100 for o in page.locator('.lk-percent').all_inner_texts()]
    assert np.allclose(width, shown, atol=.01) and abs(sum(shown)-1) < .002
    assert 'Tells 2 classes apart' in page.inner_text('.lk-classes') and page.inner_text('.lk-facts').startswith('Right on 38 of 40 test pictures that it had not learnt from (95% interval: 83.5% to 98.6%). ')
    assert all(o['alt'] and o['w'] for o in page.evaluate('[...document.images].filter(i => i.offsetParent).map(i => ({alt: i.alt, w: i.naturalWidth}))'))
    page.screenshot(path=tmp_path/'page.png', full_page=True)


def test_bad_files_are_explained(site, opened):
    page, error = opened(site.url), '.lk-error'
    for name, data, reason in ((EVIL, b'<html>', 'not a picture (HTML page, 6 bytes)'), ('bomb.png', bomb(), 'too large: over 2,000,000 pixels'), ('large.jpg', bytes(400_000), 'over the limit')):
        page.locator('.lk-file').set_input_files(dict(name=name, mimeType='image/jpeg', buffer=data))
        page.locator(error, has_text=reason).wait_for(timeout=WAIT)
        assert name in page.locator(error).inner_text() and page.locator('.lk-answer h2').count() == 0
    assert page.get_by_role('alert').count() == 1


def test_keyboard_alone(site, opened, drawn):
    "Tab to an example and press Enter; open the camera, take a picture with Space."
    page = opened(site.url)
    def tab_to(selector):
        for _ in range(40):
            page.keyboard.press('Tab')
            if page.evaluate('s => document.activeElement?.matches(s)', selector):
                assert page.evaluate('getComputedStyle(document.activeElement).outlineStyle') != 'none'
                return
        pytest.fail(f'{selector} cannot be reached')
    tab_to('.lk-file')
    with page.expect_file_chooser() as chooser: page.keyboard.press('Space')
    chooser.value.set_files(muffin(drawn))
    page.locator('.lk-answer h2', has_text='muffin').wait_for(timeout=WAIT)
    tab_to('.lk-camera')
    page.keyboard.press('Enter')
    page.wait_for_function('document.querySelector(".lk-live video").videoWidth > 0', timeout=WAIT)
    assert page.evaluate('document.activeElement.matches(".lk-take")')
    with page.expect_response(lambda r: 'predict' in r.url) as r: page.keyboard.press('Space')
    assert r.value.ok and page.locator('.lk-live').is_hidden()
    page.locator('.lk-answer h2').wait_for(timeout=WAIT)
    tab_to('.lk-examples button')
    with page.expect_response(lambda r: 'predict' in r.url) as r: page.keyboard.press('Enter')
    assert r.value.json()['predictions'][0]['label'] == 'chihuahua'


def test_paste(site, opened, drawn):
    page = opened(site.url)
    png = list(saved(Image.open(muffin(drawn)), 'png'))
    page.evaluate('''async bytes => { const d = new DataTransfer(); d.items.add(new File([new Uint8Array(bytes)], 'image.png', {type: 'image/png'}))
                     document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: d, bubbles: true})) }''', png)
    page.locator('.lk-answer h2', has_text='muffin').wait_for(timeout=WAIT)


def test_phone(site, opened, drawn, tmp_path):
    page = opened(site.url, 390, 800)
    page.locator('.lk-file').set_input_files(muffin(drawn))
    page.locator('.lk-nearest').wait_for(timeout=WAIT)
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    assert page.evaluate('[...document.querySelectorAll(".lk-drop *, .lk-answer *, .lk-reasons *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1).length') == 0
    page.screenshot(path=tmp_path/'phone.png', full_page=True)


def test_below_another_site(model, browser, opened, drawn):
    "Behind a proxy that strips the prefix, and told of it."
    import http.server
    import threading
    with serving(model, root_path='/pets') as s:
        class Proxy(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'
            def log_message(self, *args): pass
            def pass_on(self):
                if not self.path.startswith('/pets/'):
                    strays.append(self.path)
                    return self.send_error(404)
                body = self.rfile.read(int(self.headers.get('content-length') or 0))
                r = httpx.request(self.command, s.url.rstrip('/') + self.path.removeprefix('/pets'), content=body, timeout=30, headers={k: v for k, v in self.headers.items() if k.lower() not in ('connection', 'accept-encoding')} | {'x-forwarded-host': self.headers['host']})
                self.send_response(r.status_code)
                for k, v in r.headers.items():
                    if k.lower() not in ('connection', 'transfer-encoding', 'content-length', 'content-encoding'): self.send_header(k, v)
                self.send_header('content-length', str(len(r.content)))
                self.end_headers()
                self.wfile.write(r.content)
            do_GET = do_POST = pass_on
        strays = []
        proxy = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Proxy)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            page = opened(f'http://127.0.0.1:{proxy.server_port}/pets/')
            page.locator('.lk-file').set_input_files(muffin(drawn))
            page.locator('.lk-answer h2', has_text='muffin').wait_for(timeout=WAIT)
            assert set(strays) <= {'/favicon.ico'}
        finally: proxy.shutdown(), proxy.server_close()
