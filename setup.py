"Hand settings.ini to setuptools: name, version, description, requirements and extras have one home."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']


def lines(text): return [o.strip() for o in text.splitlines() if o.strip()]


def readme():
    "README.md for PyPI's page, where a link to a file of the repository needs its whole address, and so does the picture."
    path = here/'README.md'
    text = path.read_text(encoding='utf-8') if path.exists() else ''
    return re.sub(r'\]\((?!https?://|#)', f"]({cfg['repository']}/blob/{cfg['branch']}/", text).replace('src="nbs/', f'src="{cfg["documentation"]}')


extras = {k: lines(v) for k, v in ini['extras'].items() if k not in ini.defaults()}

setup(
    version=cfg['version'],
    license_expression=cfg['license'],
    author=cfg['author'],
    keywords=cfg['keywords'].split(),
    install_requires=lines(cfg['requirements']),
    extras_require=extras,
    entry_points={'console_scripts': lines(cfg['console_scripts']), 'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    # the recipes travel inside the package; a checkout, and an editable install of it, reads them where they lie
    packages=[cfg['lib_name'], cfg['lib_name']+'.recipes'],
    package_dir={cfg['lib_name']+'.recipes': 'data/recipes'},
    package_data={cfg['lib_name']: ['*.js', '*.css', 'requirements-serve.txt'], cfg['lib_name']+'.recipes': ['*.yaml', 'schema.json']},
    long_description=readme(),
    long_description_content_type='text/markdown',
    classifiers=[
        'Development Status :: 4 - Beta', 'Intended Audience :: Education', 'Intended Audience :: Developers',
        'Topic :: Scientific/Engineering :: Image Recognition', 'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10', 'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12', 'Programming Language :: Python :: 3.13'],
)
