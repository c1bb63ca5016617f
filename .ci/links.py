"Ask every outside address that the Markdown files and notebooks link to, once, and name those that lead nowhere."
import asyncio
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from urllib.parse import urldefrag

from fastcore.nbio import read_nb
from markdown_it import MarkdownIt

from lookalikes.web import Limits, Web, WebError

# What no later day mends. Anything else (a host that is busy, slow, or asks programs to stay away) says nothing about the link.
BROKEN = re.compile(r'HTTP 404|HTTP 410|no host of that name|redirects in a circle|more than \d+ redirects|not an address|TLS certificate not valid')
# Alive, and more than was wanted: a page counts from its first bytes on.
ALIVE = re.compile(r'too large|empty answer')


def addresses(text):
    "The http addresses that a Markdown text links to, without their fragments; code is no link."
    for token in MarkdownIt('commonmark').parse(text):
        for o in token.children or []:
            target = o.attrGet('href') or o.attrGet('src') or ''
            if target.startswith(('http://', 'https://')): yield urldefrag(target)[0]


def linked(root):
    "Address -> the files that link to it, over what git tracks under `root`."
    found = defaultdict(set)
    names = subprocess.run(['git', 'ls-files', '-z', '*.md', '*.ipynb'], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split('\0')):
        if name.endswith('.md'): texts = [(root/name).read_text(encoding='utf-8')]
        else: texts = [c.source for c in read_nb(root/name).cells if c.cell_type == 'markdown']
        for text in texts:
            for url in addresses(text): found[url].add(name)
    return found


async def ask(urls, limits):
    "Address -> why it could not be had, None where it could."
    async def one(web, url):
        try: (await web.get(url)).close()
        except WebError as e: return None if ALIVE.match(e.reason) else e.reason
    async with Web(limits) as web: return dict(zip(urls, await asyncio.gather(*(one(web, o) for o in urls))))


def main(root, **limits):
    "Print what could not be had and where it is linked from; the number of addresses that lead nowhere."
    found = linked(root)
    # robots.txt speaks to those who gather pages; this looks at one page that a person would open.
    answers = asyncio.run(ask(sorted(found), Limits(**{'per_host': 2, 'max_bytes': 500_000, 'robots': False, **limits})))
    bad = {url: why for url, why in answers.items() if why and BROKEN.match(why)}
    for url, why in answers.items():
        if why: print(f"{'BROKEN' if url in bad else 'unsure'}  {url}  {why}  ({', '.join(sorted(found[url]))})")
    print(f'{len(answers)} addresses, {len(bad)} broken')
    return len(bad)


if __name__ == '__main__': sys.exit(main(Path(__file__).resolve().parents[1]) > 0)
