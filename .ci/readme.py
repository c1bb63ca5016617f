"Write README.md from nbs/index.ipynb, without Quarto, so that any machine makes the same file."
import re
import sys
from pathlib import Path

from fastcore.nbio import read_nb
from nbdev.config import get_config
from nbdev.readme_filter import doc_link

# Repository files that the site's pages can only name by their address on GitHub; in README.md a relative link is better.
LINK = re.compile(r'(?<=\]\()[^)\s]+(?=\))|(?<= src=")[^"]+(?=")')


def link(target, cfg):
    "A link of the front page, as README.md needs it: pages by their address on the site, the repository's files by their path."
    if target == 'contributing.qmd': return 'CONTRIBUTING.md'  # .ci/docs.py makes that page of the site from this file
    if target.endswith('.svg'): return f'{cfg.nbs_path.name}/{target}'
    return doc_link(target.removeprefix(f'{cfg.git_url}/blob/{cfg.branch}/'), cfg.doc_url)


def text(out):
    "The plain text of one cell output."
    if 'text' in out: return ''.join(out['text'])
    data = out.get('data', {})
    if 'text/markdown' in data: return ''.join(data['text/markdown'])
    if 'text/plain' in data and not any(o.startswith(('image/', 'text/html')) for o in data): return ''.join(data['text/plain'])
    raise ValueError(f"nbs/index.ipynb: an output has only {', '.join(data) or out['output_type']}; README.md can show text")


def readme(nb, cfg):
    "The text of README.md: cells in order, less those hidden, their directives stripped, outputs in blocks of their own."
    parts = []
    for cell in nb.cells:
        d = cell.directives
        cell.remove_directives()
        src = cell.source.strip()
        if not src or 'hide' in d or cell.cell_type == 'raw': continue
        if cell.cell_type == 'markdown':
            parts.append(LINK.sub(lambda m: link(m[0], cfg), src))
            continue
        if d.get('echo') != 'false': parts.append(f'```python\n{src}\n```')
        outs = '' if d.get('output') == 'false' else ''.join(text(o) for o in cell.outputs).strip()
        if outs: parts.append(f'```\n{outs}\n```')
    return '\n\n'.join(parts) + '\n'


if __name__ == '__main__':
    root = Path(__file__).resolve().parents[1]
    cfg = get_config(root)
    new = readme(read_nb(root/'nbs/index.ipynb'), cfg)
    path = root/'README.md'
    if sys.argv[1:] == ['--check']:
        sys.exit(None if path.exists() and path.read_text(encoding='utf-8') == new else 'README.md is not what .ci/readme.py makes: run it')
    path.write_text(new, encoding='utf-8', newline='\n')
