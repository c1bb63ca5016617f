"Check that a tag may become a release, and print its notes: `python .ci/release.py v0.1.0 > notes.md`."
import re
import sys
from configparser import ConfigParser
from pathlib import Path


def notes(root, tag):
    "The section of CHANGELOG.md that belongs to `tag`; raises `ValueError` where tag, settings.ini and CHANGELOG.md do not agree."
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini', encoding='utf-8')
    version = ini['DEFAULT']['version']
    if tag != f'v{version}': raise ValueError(f'the tag is {tag}, and settings.ini says version {version}: tag v{version}, or raise the version first')
    text = (root/'CHANGELOG.md').read_text(encoding='utf-8')
    section = re.search(rf'^## \[{re.escape(version)}\] - (\S+)\n(.*?)(?=^## \[|\Z)', text, re.M | re.S)
    if not section: raise ValueError(f'CHANGELOG.md has no line `## [{version}] - YYYY-MM-DD`: give what is under [Unreleased] its version and day')
    if not re.fullmatch(r'\d{4}-\d\d-\d\d', section[1]): raise ValueError(f'CHANGELOG.md: {section[1]} is not a day like 2026-01-31')
    if not section[2].strip(): raise ValueError(f'CHANGELOG.md says nothing about {version}')
    return section[2].strip()


if __name__ == '__main__':
    try: print(notes(Path(__file__).resolve().parents[1], *sys.argv[1:]))
    except ValueError as e: sys.exit(str(e))
