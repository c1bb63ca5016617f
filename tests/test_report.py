"The report as a reader sees it, in a browser that is given nothing but the file."
import base64
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from lookalikes.imageset import ImageSet
from lookalikes.predictions import Predictions
from lookalikes.report import write_report

EVIL = '<img src=x onerror=alert(1)> & "q"'
EVIL_FILE = "<script>alert('1')<&\">.jpg"


def made(drawn, folder, labels=('chihuahua', 'muffin'), names=None, title='Chihuahua or muffin: how good is it?'):
    "A report on a model that is wrong about every fifth picture."
    from matplotlib.figure import Figure
    from lookalikes.report import Chart
    for old, new in zip(('chihuahua', 'muffin'), labels): shutil.copytree(drawn/old, folder/'d'/new)
    if names:
        for p in sorted((folder/'d').rglob('*.jpg'))[::5]: p.rename(p.with_name(f'{p.stem}{names}'))
    (folder/'d'/labels[0]/'broken.jpg').write_text('Forbidden')
    images = ImageSet.from_folder(folder/'d').verify().split(valid=.2, test=.2)
    df, classes = images.ok.df, images.classes
    y, rng = np.array([classes.index(o) for o in df.label]), np.random.default_rng(0)
    said = np.where(np.arange(len(y)) % 5 == 0, 1-y, y)
    p = np.eye(2)[said]*.8 + .1
    preds = Predictions.of(df.file, df.label, p, classes, df.split, images.path)
    fig = Figure(figsize=(6, 3), layout='constrained')
    fig.add_subplot().plot(rng.random(5))
    charts = [Chart(f'Would more help {labels[0]}?', fig, f'A line about {labels[0]}.')]
    facts = {'pictures': labels[0], 'command': 'lookalikes train a_rather_long_folder_name --fit probe --backbone efficientnet_lite0 --folds 5 --seed 42'}
    return write_report(folder/'report.html', title, images, preds, {'validation': preds.where(split='valid').errors, 'test': preds.errors}, charts, facts), preds


@pytest.fixture(scope='module')
def plain(drawn, tmp_path_factory): return made(drawn, tmp_path_factory.mktemp('plain'))


@pytest.fixture(scope='module')
def evil(drawn, tmp_path_factory):
    return made(drawn, tmp_path_factory.mktemp('evil'), (EVIL, '<b>bold</b> $x_1$ {{ 7*7 }}'.replace('/', '\N{FRACTION SLASH}')), EVIL_FILE, f'{EVIL}: how good?')


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ''
        self.feed(text)
    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_data(self, data): self.text += data


# Without a browser

def test_it_needs_nothing_else(plain):
    t = Tags(plain[0].read_text())
    assert not [o for o in t.tags if o[0] in ('script', 'link', 'iframe', 'object')]
    assert all(v.startswith('data:') for _, a in t.tags for k, v in a.items() if k in ('src', 'href'))
    assert not re.search(r'url\(|@import', plain[0].read_text())
    for svg in (base64.b64decode(a['src'].split(',')[1]) for _, a in t.tags if a.get('src', '').startswith('data:image/svg')): assert b'<script' not in svg and b'xlink:href="http' not in svg


def test_it_says_what_the_predictions_say(plain):
    page, preds = plain
    t = Tags(page.read_text())
    assert f'{1-preds.errors.rate:.1%} right' in t.text and f'{preds.errors.errors} wrong of 40' in t.text
    assert 'broken.jpg' in t.text
    assert sum(tag == 'figure' for tag, _ in t.tags) == min(24, preds.errors.errors) + min(12, 40-preds.errors.errors)      # mistakes, and close calls


def test_same_input_same_bytes(drawn, tmp_path):
    (tmp_path/'a').mkdir(), (tmp_path/'b').mkdir()
    assert made(drawn, tmp_path/'a')[0].read_bytes() == made(drawn, tmp_path/'b')[0].read_bytes()


@pytest.mark.skipif('os.name == "nt"', reason='names that Windows cannot hold')
def test_html_in_names_and_labels_is_shown(evil):
    t = Tags(evil[0].read_text())
    assert not [o for o in t.tags if o[0] in ('script', 'b') and o[1]] and not any('onerror' in a for _, a in t.tags)
    assert EVIL in t.text and '<script>' in t.text and '{{ 7*7 }}' in t.text
    assert all(a['alt'] for tag, a in t.tags if tag == 'img')


# In Chromium

@pytest.fixture(scope='module')
def browser():
    api, chromium = pytest.importorskip('playwright.sync_api', reason='playwright is not installed'), shutil.which('chromium')
    if not chromium: pytest.skip('chromium is not installed')
    with api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'])
        yield b
        b.close()


@pytest.fixture
def opened(browser):
    "Open a file at a width; fail on what the console says and on every request that leaves the file."
    pages, said, asked = [], [], []

    def go(file, width, height=800):
        page = browser.new_page(viewport=dict(width=width, height=height))
        pages.append(page)
        page.on('console', lambda m: said.append(f'{m.type}: {m.text}'))
        page.on('pageerror', lambda e: said.append(str(e)))
        page.on('dialog', lambda d: (said.append(f'dialog: {d.message}'), d.dismiss()))
        page.on('request', lambda r: asked.append(r.url))
        page.goto(file.as_uri(), wait_until='load')
        return page
    yield go
    for p in pages: p.close()
    assert said == []
    assert [o[:80] for o in asked if not o.startswith(('file:', 'data:'))] == [] and sum(o.startswith('file:') for o in asked) == len(pages)


WIDTHS = 390, 1280


def check(page):
    images = page.evaluate('Promise.all([...document.images].map(i => i.decode().catch(() => 0).then(() => ({alt: i.alt, w: i.naturalWidth, h: i.naturalHeight}))))')
    assert len(images) > 3 and all(i['alt'].strip() and i['w'] > 0 and i['h'] > 0 for i in images)
    assert page.evaluate('document.documentElement.scrollWidth') <= page.evaluate('window.innerWidth')
    # nothing is cut off either: what is wider scrolls within its own box
    assert page.evaluate('''[...document.querySelectorAll('body *')].filter(e => !e.closest('.wide') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + ' ' + e.className)''') == []


@pytest.mark.parametrize('width', WIDTHS)
def test_it_fits_the_screen(plain, opened, width, tmp_path):
    page = opened(plain[0], width)
    check(page)
    assert page.title() == 'Chihuahua or muffin: how good is it?' and page.locator('h1').count() == 1 and page.locator('html').get_attribute('lang') == 'en'
    page.screenshot(path=tmp_path/f'report-{width}.png', full_page=True)
    assert (tmp_path/f'report-{width}.png').stat().st_size > 10_000


@pytest.mark.skipif('os.name == "nt"', reason='names that Windows cannot hold')
@pytest.mark.parametrize('width', WIDTHS)
def test_html_in_names_does_nothing(evil, opened, width, tmp_path):
    page = opened(evil[0], width)
    check(page)
    assert EVIL in page.locator('h1').inner_text() and page.locator('script').count() == 0
    assert EVIL in page.inner_text('body') and '<script>' in page.inner_text('body') and '49' not in page.locator('p').first.inner_text()
    page.screenshot(path=tmp_path/f'evil-{width}.png', full_page=True)
