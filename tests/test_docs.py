"The site, offline: nbdev's own processing, rendered by smalldocs, which reads the same _quarto.yml."
import ast
import io
import json
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote, urljoin, urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from conftest import NOTEBOOKS, ROOT
from fastcore.nbio import read_nb
from PIL import Image

pytest.importorskip('smalldocs', reason='smalldocs needs Python 3.11')

BASE = yaml.safe_load((ROOT/'nbs/nbdev.yml').read_text(encoding='utf-8'))['website']['site-url'].rstrip('/') + '/'
MADE = {'contributing.html', 'parts/index.html'}  # pages that .ci/docs.py makes


class Page(HTMLParser):
    "What the checks need of a rendered page: ids, links, metadata, pictures without alternative text, and its text."
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.bare, self.text, self.svg, self.meta, self.modes = set(), [], [], [], None, {}, set()
        self.feed(path.read_text(encoding='utf-8'))

    def tag(self): return re.sub(r'(data:[^;"]*)[^"]*', r'\1', self.get_starttag_text())

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        self.links += [a[k] for k in ('href', 'src') if a.get(k)]
        if tag == 'meta': self.meta[a.get('name') or a.get('property')] = a.get('content')
        if 'quarto-color-scheme' in (a.get('class') or '').split(): self.modes.add(a.get('data-mode'))
        decorative = a.get('aria-hidden') == 'true' or a.get('role') == 'presentation'
        described = any((a.get(k) or '').strip() for k in ('alt', 'aria-label', 'aria-labelledby'))
        if tag == 'img' and not (described or decorative): self.bare.append(self.tag())
        if tag == 'svg' and self.svg is None: self.svg = None if described or decorative else self.tag()
        if tag == 'title': self.svg = None  # an svg's own alternative text

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        if tag == 'svg' and self.svg:
            self.bare.append(self.svg)
            self.svg = None

    def handle_data(self, data): self.text.append(data)


@pytest.fixture(scope='module')
def site(scratch):
    "The site that README's command builds: its folder, what was said on the way, and its pages by their path."
    shutil.copytree(ROOT/'.ci', scratch/'.ci')
    script, = re.findall(r'`python (\S+)`', (ROOT/'README.md').read_text(encoding='utf-8'))
    r = subprocess.run([sys.executable, script], cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    if r.returncode: pytest.fail(f'{script} could not build the site:\n' + r.stderr[r.stderr.rfind('\nException: ')+1:], pytrace=False)
    out = scratch/'_docs'
    return SimpleNamespace(out=out, said=r.stderr, pages={p.relative_to(out).as_posix(): Page(p) for p in sorted(out.rglob('*.html'))})


def published(pages):
    "Pages by the names they have where the site is published: 02_paintings.html is paintings.html there."
    return {re.sub(r'(^|/)\d+[a-zA-Z0-9]*_', r'\1', name): name for name in pages}


@pytest.mark.parametrize('nb', NOTEBOOKS)
def test_imports_stand_alone(nb):
    # The docs run exported cells and every cell that imports, and no other: an import beside work would run that work without its setup.
    mixed = [c.source for c in read_nb(ROOT/nb).cells if c.cell_type == 'code' and c.directives.get('eval') != 'false'
             and not {'export', 'exports', 'exporti', 'exec_doc'} & set(c.directives)
             and any(isinstance(o, (ast.Import, ast.ImportFrom)) for t in c.parsed_() or [] for o in ast.walk(t))
             and not all(isinstance(t, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)) for t in c.parsed_())]
    assert not mixed, '\n---\n'.join(['move the import to a cell of its own:', *mixed])


def test_every_notebook_has_a_page(site):
    nbs = {o.removeprefix('nbs/').replace('.ipynb', '.html') for o in NOTEBOOKS} | MADE
    assert nbs == set(site.pages)
    for name in 'index.html', 'parts/31_stats.html':
        side = {urljoin(name, unquote(o)) for o in site.pages[name].links}
        assert nbs <= side, f'add to nbs/sidebar.yml: {sorted(nbs - side)}'


def test_nothing_to_report(site):
    assert 'warning: ' not in site.said, site.said


def test_no_broken_links(site):
    # Names in backticks become addresses on the published site.
    broken, names = set(), published(site.pages)
    for name, page in site.pages.items():
        for href in page.links:
            if href.startswith(BASE): path, frag = names.get(urlsplit(href[len(BASE):]).path or 'index.html', ''), urlsplit(href).fragment
            elif urlsplit(href).scheme or href.startswith('//'): continue
            else: path, frag = unquote(urljoin(name, urlsplit(href).path)) if urlsplit(href).path else name, urlsplit(href).fragment
            if path.endswith('/'): path += 'index.html'
            gone = not path or not (site.out/path).exists()
            # nbdev also links methods that have no heading of their own: those open at the top of their page.
            lost = frag and path in site.pages and unquote(frag) not in site.pages[path].ids and not href.startswith(BASE)
            if gone or lost: broken.add(f'{name}: {href}')
    assert not broken, '\n'.join(sorted(broken))


def test_pages_introduce_themselves(site):
    "To a search engine and to a network that shows a card: a title and a line of their own, and the picture."
    seen = {name: (page.meta['og:title'], page.meta.get('description')) for name, page in site.pages.items()}
    assert all(title and line and len(line) > 10 for title, line in seen.values()), seen
    assert len({line for _, line in seen.values()}) == len(seen)
    for page in site.pages.values():
        assert page.meta['og:image'] == page.meta['twitter:image'] == BASE + 'card.png'
        assert page.meta['twitter:card'] == 'summary_large_image'


def test_the_social_card_is_one_that_networks_take(site):
    data = (site.out/'card.png').read_bytes()
    with Image.open(io.BytesIO(data)) as im:
        assert (im.format, im.size) == ('PNG', (1200, 630)) and len(data) < 1e6
        assert len(im.convert('RGB').resize((120, 63)).getcolors(10_000)) > 100  # it shows something


@pytest.mark.parametrize('name', ['lookalikes.svg', 'favicon.svg'])
def test_drawings_are_shapes_only(site, name):
    # GitHub shows an SVG of README.md as a picture that may load nothing: no script, no raster, no font from elsewhere.
    svg = ElementTree.fromstring((ROOT/'nbs'/name).read_text(encoding='utf-8'))
    assert {o.tag.split('}')[1] for o in svg.iter()} <= {'svg', 'title', 'g', 'rect', 'path', 'ellipse', 'clipPath'}
    assert (ROOT/'nbs'/name).stat().st_size < 150_000 and (site.out/name).read_bytes() == (ROOT/'nbs'/name).read_bytes()


def test_search_knows_every_page(site):
    found = {o['href'].split('#')[0] for o in json.loads((site.out/'search.json').read_text(encoding='utf-8'))}
    assert found == set(site.pages)
    assert any('wilson' in o['href'] for o in json.loads((site.out/'search.json').read_text(encoding='utf-8')))


def test_llms_txt_lists_every_page(site):
    text = (site.out/'llms.txt').read_text(encoding='utf-8')
    assert re.match(r'# Lookalikes\n\n> .+\n\nLookalikes is \S', text) and '<img' not in text
    links = re.findall(r'^- \[.+?\]\((.+?)\): \S', text, re.M)
    assert len(links) == len(set(links)) and all(o.startswith(BASE) and o.endswith('.html.md') for o in links)  # Quarto writes page.html.md beside page.html
    assert {o[len(BASE):].removesuffix('.md') for o in links} == set(published(site.pages)) - {'index.html'}
    assert re.findall(r'^## (.+)', text, re.M)[0] == 'Lessons'


def test_llms_context_holds_every_lesson(site):
    text = (site.out/'llms-ctx.txt').read_text(encoding='utf-8')
    for name in (o for o in NOTEBOOKS if re.match(r'nbs/\d', o)):
        words = next(c.source for c in read_nb(ROOT/name).cells[2:] if c.cell_type == 'markdown' and len(c.source) > 200)
        assert words.strip() in text, name
    assert len(text) < 1e6 and not re.search(r'^#\|', text, re.M) and 'image/png' not in text


def test_the_contributing_page_is_contributing_md(site):
    text = ' '.join(''.join(site.pages['contributing.html'].text).split())
    headings = re.findall(r'^## (.+)', (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8'), re.M)
    assert len(headings) > 4 and all(o in text for o in headings)


@pytest.fixture(scope='module')
def browse(site):
    "Open pages of the site in Chromium, from a server on this machine."
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if not chromium: pytest.skip('no Chromium')
    from playwright.sync_api import sync_playwright

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=site.out))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking'])
        def go(name, width=1280, height=800, scheme='light'):
            page = browser.new_page(viewport=dict(width=width, height=height), color_scheme=scheme)
            page.route('**/*', lambda o: o.continue_() if '//127.0.0.1' in o.request.url else o.abort())
            page.goto(f'http://127.0.0.1:{server.server_port}/{name}')
            return page
        yield go
        browser.close()
    server.shutdown()


def test_one_screen_says_it_all(browse):
    "What it is, a picture, and both commands, without scrolling."
    page = browse('index.html')
    for what in 'h1', 'main img[src="lookalikes.svg"]', 'main p strong', 'pre.sh >> nth=0', 'pre.sh >> nth=1':
        box = page.locator(what).first.bounding_box()
        assert box['y'] >= 0 and box['y'] + box['height'] <= 800, f'{what}: {box}'
    assert page.evaluate('document.querySelector("main img").naturalWidth') > 0


PAGES = ['index.html', '02_paintings.html', '05_pet_breeds.html', 'parts/31_stats.html', 'parts/index.html', 'benchmarks.html', 'contributing.html']


@pytest.mark.parametrize('name', PAGES)
def test_a_page_fits_a_phone(browse, name):
    page = browse(name, 390, 844)
    assert page.evaluate('document.documentElement.scrollWidth') <= 390


@pytest.mark.parametrize('name', PAGES[:6])
def test_a_page_is_dark_where_the_reader_is(browse, name):
    "The page, not its figures, which keep the white that they are drawn on."
    light, dark = (browse(name, scheme=o).evaluate("""() => {
        const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number); return (.299*r + .587*g + .114*b)/255 }
        const fig = document.querySelector('.cell-output-display img')
        return [lum(getComputedStyle(document.body).backgroundColor), lum(getComputedStyle(document.querySelector('main p')).color),
                fig ? getComputedStyle(fig).backgroundColor : null]}""") for o in ('light', 'dark'))
    assert light[0] > .9 and light[1] < .4 and dark[0] < .2 and dark[1] > .7
    assert dark[2] in (None, 'rgb(255, 255, 255)')


def test_searching_finds_a_function(browse):
    page = browse('index.html')
    page.keyboard.press('/')
    page.keyboard.type('wilson', delay=20)
    page.wait_for_function("[...document.querySelectorAll('a')].some(o => o.offsetParent && o.href.includes('31_stats.html#wilson'))", timeout=10_000)


def test_no_directives_in_pages(site):
    leaks = [f'{name}: {o}' for name, page in site.pages.items() if name not in MADE for o in re.findall(r'^[ \t]*#\|.*', ''.join(page.text), re.M)]
    assert not leaks, '\n'.join(leaks)


def test_pictures_have_alternative_text(site):
    bare = [f'{name}: {o}' for name, page in site.pages.items() for o in page.bare]
    assert not bare, '\n'.join(['give the cell `#| fig-alt: ...`, or its HTML an alt=', *bare])


def test_front_page_is_the_readme():
    r = subprocess.run([sys.executable, ROOT/'.ci/readme.py', '--check'], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr


def test_the_readmes_python_runs(tmp_path, warm):
    "As somebody would paste it, with fewer pictures."
    code, = re.findall(r'^```python\n(.*?)^```', (ROOT/'README.md').read_text(encoding='utf-8'), re.M | re.S)
    few = code.replace('n=120', 'n=20')
    assert few != code
    r = warm.python('-c', f'import matplotlib; matplotlib.use("agg")\n{few}\nprint(clf(images.paths[0])["label"], (clf.path/"neighbours.npy").exists())', cwd=tmp_path)
    assert r.returncode == 0 and r.stdout.split()[-2] in ('impressionism', 'modernism') and r.stdout.split()[-1] == 'True', r.stderr
