"The site, offline: nbdev's own processing, rendered by smalldocs, which reads the same _quarto.yml."
import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from conftest import NOTEBOOKS, ROOT
from fastcore.nbio import read_nb

pytest.importorskip('smalldocs', reason='smalldocs needs Python 3.11')
from smalldocs.site import build

# What Quarto reads and smalldocs says that it does not.
QUARTO_ONLY = re.compile(r'format commonmark is not built|unknown key format-links$|.*: output-file is not read')


class Page(HTMLParser):
    "What the checks need of a rendered page: ids, links, pictures without alternative text, and its text."
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.bare, self.text, self.svg = set(), [], [], [], None
        self.feed(path.read_text(encoding='utf-8'))

    def tag(self): return re.sub(r'(data:[^;"]*)[^"]*', r'\1', self.get_starttag_text())

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        self.links += [a[k] for k in ('href', 'src') if a.get(k)]
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
    "The built site: smalldocs' own account of it, and its pages by their path."
    run = "from nbdev.serve import proc_nbs\nif __name__ == '__main__': proc_nbs(n_workers=2)"
    r = subprocess.run([sys.executable, '-c', run], cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    if r.returncode: pytest.fail('nbdev could not process the notebooks:\n' + r.stderr[r.stderr.rfind('\nException: ')+1:], pytrace=False)
    out = build(scratch/'_proc', quiet=True)
    return out, {p.relative_to(out.out).as_posix(): Page(p) for p in sorted(out.out.rglob('*.html'))}


@pytest.mark.parametrize('nb', NOTEBOOKS)
def test_imports_stand_alone(nb):
    # The docs run exported cells and every cell that imports, and no other: an import beside work would run that work without its setup.
    mixed = [c.source for c in read_nb(ROOT/nb).cells if c.cell_type == 'code' and c.directives.get('eval') != 'false'
             and not {'export', 'exports', 'exporti', 'exec_doc'} & set(c.directives)
             and any(isinstance(o, (ast.Import, ast.ImportFrom)) for t in c.parsed_() or [] for o in ast.walk(t))
             and not all(isinstance(t, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)) for t in c.parsed_())]
    assert not mixed, '\n---\n'.join(['move the import to a cell of its own:', *mixed])


def test_every_notebook_has_a_page(site):
    nbs = {o.removeprefix('nbs/').replace('.ipynb', '.html') for o in NOTEBOOKS}
    assert nbs == set(site[1])
    side = {urljoin('index.html', unquote(o)) for o in site[1]['index.html'].links}
    assert nbs <= side, f'add to nbs/sidebar.yml: {sorted(nbs - side)}'


def test_nothing_to_report(site):
    todo = [o for o in site[0].warnings if not QUARTO_ONLY.match(o)]
    assert not todo, '\n'.join(todo)


def test_no_broken_links(site):
    out, pages = site
    # Names in backticks become addresses on the published site, where pages have no numbers: 02_paintings.html is paintings.html there.
    base = out.project.website['site-url'].rstrip('/') + '/'
    published = {re.sub(r'(^|/)\d+[a-zA-Z0-9]*_', r'\1', name): name for name in pages}
    broken = set()
    for name, page in pages.items():
        for href in page.links:
            if href.startswith(base): path, frag = published.get(urlsplit(href[len(base):]).path or 'index.html', ''), urlsplit(href).fragment
            elif urlsplit(href).scheme or href.startswith('//'): continue
            else: path, frag = unquote(urljoin(name, urlsplit(href).path)) if urlsplit(href).path else name, urlsplit(href).fragment
            if path.endswith('/'): path += 'index.html'
            gone = not path or not (out.out/path).exists()
            # nbdev also links methods that have no heading of their own: those open at the top of their page.
            lost = frag and path in pages and unquote(frag) not in pages[path].ids and not href.startswith(base)
            if gone or lost: broken.add(f'{name}: {href}')
    assert not broken, '\n'.join(sorted(broken))


def test_no_directives_in_pages(site):
    leaks = [f'{name}: {o}' for name, page in site[1].items() for o in re.findall(r'^[ \t]*#\|.*', ''.join(page.text), re.M)]
    assert not leaks, '\n'.join(leaks)


def test_pictures_have_alternative_text(site):
    bare = [f'{name}: {o}' for name, page in site[1].items() for o in page.bare]
    assert not bare, '\n'.join(['give the cell `#| fig-alt: ...`, or its HTML an alt=', *bare])


def test_front_page_is_the_readme():
    r = subprocess.run([sys.executable, ROOT/'.ci/readme.py', '--check'], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr


def test_the_readmes_python_runs(tmp_path):
    "As somebody would paste it, with fewer pictures."
    code, = re.findall(r'^```python\n(.*?)^```', (ROOT/'README.md').read_text(encoding='utf-8'), re.M | re.S)
    few = code.replace('n=120', 'n=20')
    assert few != code
    r = subprocess.run([sys.executable, '-c', f'import matplotlib; matplotlib.use("agg")\n{few}\nprint(clf(images.paths[0])["label"], (clf.path/"neighbours.npy").exists())'], cwd=tmp_path, capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout.split()[-2] in ('impressionism', 'modernism') and r.stdout.split()[-1] == 'True', r.stderr
