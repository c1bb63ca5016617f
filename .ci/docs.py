"""Build the site into _docs: offline with smalldocs, a stand-in in pure Python, or as it is published, with Quarto (`--quarto`).

Both read _quarto.yml and the notebooks as nbdev processes them. What git does not hold is made first, in nbs/: the contributing page, the
list of parts, the social card, llms.txt and llms-ctx.txt.
"""
import argparse
import atexit
import functools
import gc
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from fastcore.nbio import read_nb
from nbdev import processors
from nbdev.config import get_config
from nbdev.serve import proc_nbs

# What Quarto reads and smalldocs says that it does not.
QUARTO_ONLY = re.compile(r'format commonmark is not built|unknown key (format-links|website\.open-graph\.image)$|'
                         r'format\.html\.respect-user-color-scheme is ignored$|.*: output-file is not read')
LINK = re.compile(r'(?<=\]\()([^)\s]+)(?=\))')


def sections(nbs, contents=None, above=()):
    "The pages of the sidebar in order: pairs of the sections' names that a page stands under, and its path."
    if contents is None: contents = yaml.safe_load((nbs/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    for o in contents:
        if isinstance(o, str): yield above, o
        else:
            if 'href' in o: yield above+(o['section'],), o['href']
            yield from sections(nbs, o['contents'], above+(o['section'],))


def heading(path):
    "The title and the one-line promise at the top of a notebook or a Markdown page."
    if path.suffix == '.ipynb': text = read_nb(path).cells[0].source
    else: text = path.read_text(encoding='utf-8')
    title, promise = re.search(r'^(?:# |title: )(.+)$', text, re.M), re.search(r'^(?:> |description: )(.+)$', text, re.M)
    if not (title and promise): raise SystemExit(f'{path}: begin it with `# Title` and `> one line about it`')
    return title[1].strip('"'), promise[1].strip('"')


def address(cfg, page, ending='.html'):
    "Where a page is published: without the number in its notebook's name."
    path = Path(page)
    return f"{cfg.doc_host}{cfg.doc_baseurl}/".replace('//', '/').replace(':/', '://') + str(path.with_name(re.sub(r'^\d+[a-zA-Z0-9]*_', '', path.stem) + ending).as_posix())


def front_matter(title, description, page): # the name of the output, as nbdev gives it to notebooks: Quarto's Markdown is then page.html.md
    return f'---\ntitle: "{title}"\ndescription: "{description}"\noutput-file: {page}.html\n---\n\n'


def contributing(cfg):
    "CONTRIBUTING.md as a page of the site: its links go to pages, or to files on GitHub."
    def link(m):
        if re.match(r'\w+:|#', m[0]): return m[0]
        return 'index.ipynb' if m[0] == 'README.md' else f'{cfg.git_url}/blob/{cfg.branch}/{m[0]}'
    body = (cfg.config_path/'CONTRIBUTING.md').read_text(encoding='utf-8').split('\n', 1)[1]
    return front_matter('Contributing', 'How the house is laid out, and the way from a clone to a first change', 'contributing') + LINK.sub(link, body.lstrip('\n'))


def parts(nbs):
    "A page that lists the parts by what they are for."
    out, last = front_matter('Parts', 'The reference: one page a module, from opening a picture to the command line', 'index'), None
    out += 'Lessons teach ideas and export them; parts are the plumbing that they stand on. Each page is a module of the package: what is in it, with examples that run.\n'
    for above, page in sections(nbs):
        if above[:1] != ('Parts',) or len(above) < 2: continue
        if above[1] != last: out += f'\n## {above[1]}\n\n'
        last, (title, promise) = above[1], heading(nbs/page)
        out += f"- [**{title}**]({page.removeprefix('parts/')}): {promise[0].lower() + promise[1:].rstrip('.')}\n"
    return out


def llms(cfg, nbs):
    "The site's table of contents in Markdown, for programs that read it (llmstxt.org): each page's Markdown, as Quarto publishes it beside the page."
    out, last = f'# {cfg.title}\n\n> {cfg.description}\n\n{intro(nbs)}\n', ''
    for above, page in sections(nbs):
        title, promise = heading(nbs/page)
        if page == 'index.ipynb': continue
        if above[:1] != last:
            out += f"\n## {above[0] if above else 'More'}\n\n"
            last = above[:1]
        out += f"- [{title}]({address(cfg, page, '.html.md')}): {promise.rstrip('.')}\n"
    return out


def intro(nbs):
    "What the front page says first, as one paragraph."
    paragraphs = [o for c in read_nb(nbs/'index.ipynb').cells[1:] if c.cell_type == 'markdown' for o in c.source.split('\n\n')]
    return ' '.join(next(o for o in paragraphs if not o.startswith(('<', '#', '!'))).replace('**', '').split())


def context(cfg, nbs):
    "Everything in one file: the prose and code of the front page and the lessons, without outputs."
    out = ''
    for above, page in sections(nbs):
        if above[:1] == ('Parts',) or not page.endswith('.ipynb'): continue
        out += f'<doc title="{heading(nbs/page)[0]}" url="{address(cfg, page)}">\n\n'
        for c in read_nb(nbs/page).cells:
            d = c.directives
            c.remove_directives()
            if not c.source.strip() or 'hide' in d or c.cell_type == 'raw': continue
            out += (c.source.strip() if c.cell_type == 'markdown' else f'```python\n{c.source.strip()}\n```') + '\n\n'
        out += '</doc>\n\n'
    return out


def extras(cfg):
    "Make what the site needs and git does not hold."
    sys.path.insert(0, str(Path(__file__).parent))
    from pictures import card
    nbs = cfg.nbs_path
    for name, text in [('contributing.qmd', contributing(cfg)), ('parts/index.qmd', parts(nbs))]: put(nbs/name, text.encode())
    for name, text in [('llms.txt', llms(cfg, nbs)), ('llms-ctx.txt', context(cfg, nbs))]: put(nbs/name, text.encode())
    put(nbs/'card.png', card(cfg.description))


def put(path, data):
    "Write a file if that changes it, so that nothing is rendered anew in vain."
    if not path.exists() or path.read_bytes() != data: path.write_bytes(data)


def offline(cfg):
    "Render with smalldocs, and say on standard error what it has to say."
    try: from smalldocs.site import build
    except ImportError: raise SystemExit("smalldocs is missing: pip install -e '.[dev]', with Python 3.11 or newer; or use --quarto")
    processors.get_config = functools.cache(processors.get_config)      # it would read two files for each cell
    gc.disable()
    atexit.register(gc.unfreeze)    # before all others, so it comes last
    site = build(proc_nbs(n_workers=0), quiet=True)     # others would each import torch and its kin, and read those files
    gc.freeze()     # each notebook's shell collects garbage when this process ends, seventy times in vain
    for o in site.warnings:
        if not QUARTO_ONLY.match(o): print('warning:', o, file=sys.stderr)
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(site.out, cfg.doc_path)


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--quarto', action='store_true', help='render with Quarto, which must be installed')
    args = p.parse_args()
    cfg = get_config(Path(__file__).resolve().parents[1])
    if args.quarto and not shutil.which('quarto'): raise SystemExit('quarto is not installed: see https://quarto.org/docs/get-started/, or leave --quarto out')
    os.chdir(cfg.config_path)  # nbdev finds its settings from here
    extras(cfg)
    if args.quarto: subprocess.run(['nbdev-docs'], check=True)
    else: offline(cfg)
    print(f'{cfg.doc_path.name}/index.html: to look at it, python -m http.server -d {cfg.doc_path.name} -b 127.0.0.1')


if __name__ == '__main__': main()
