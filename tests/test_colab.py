"Each lesson as Colab opens it: without the repository, in an empty folder, in a real kernel, with what its setup cell installs and nothing else."
import ast
import json
import re
import subprocess
import sys
from configparser import ConfigParser

import pytest
from conftest import NOTEBOOKS, ROOT, WHOLE, at_length
from fastcore.nbio import read_nb

for o in 'pip', 'ipykernel', 'nbclient': pytest.importorskip(o)
import nbformat
from nbclient import NotebookClient
from outside import away, environment, index, needed

LESSONS = [o for o in NOTEBOOKS if re.match(r'nbs/\d', o)]
COLAB = 'pip', 'ipykernel', 'ipywidgets'   # what a notebook has before its first cell


@pytest.fixture(scope='module')
def wheel(scratch, tmp_path_factory):
    out = tmp_path_factory.mktemp('dist')
    r = subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--wheel', '--outdir', out, scratch], cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]
    return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def pypi(wheel):
    with index(wheel) as o: yield o


def opening(nb):
    "The cells before the first section: title, badge, setup, imports."
    cells = read_nb(ROOT/nb).cells
    return cells[:next(i for i, c in enumerate(cells) if c.cell_type == 'markdown' and c.source.startswith('## '))]


def setup_cell(nb):
    cell, = [c.source for c in opening(nb) if c.cell_type == 'code' and "'pip', 'install'" in c.source]
    return cell


def wanted(nb): return re.search(r"'(lookalikes(?:\[\w+\])?)'\]", setup_cell(nb))[1]


def roots(nb):
    "The top-level modules that a lesson imports, in whichever cell."
    nodes = [o for c in read_nb(ROOT/nb).cells if c.cell_type == 'code' for t in c.parsed_() or [] for o in ast.walk(t)]
    names = [a.name for o in nodes if isinstance(o, ast.Import) for a in o.names] + [o.module for o in nodes if isinstance(o, ast.ImportFrom) and not o.level]
    return sorted({o.split('.')[0] for o in names})


def start(path, python, cells, env, timeout):
    "Run `cells` in a Jupyter kernel of the interpreter `python`, in an empty folder; the notebook with its outputs."
    kernel, work = path/'kernels'/'lesson', path/'empty'
    kernel.mkdir(parents=True)
    work.mkdir()
    (kernel/'kernel.json').write_text(json.dumps(dict(argv=[str(python), '-m', 'ipykernel_launcher', '-f', '{connection_file}'], display_name='Lesson', language='python')))
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in cells])
    with pytest.MonkeyPatch.context() as m:
        m.setenv('JUPYTER_PATH', str(path))
        NotebookClient(nb, kernel_name='lesson', timeout=timeout).execute(cwd=str(work), env=env)
    return nb


def said(nb, kind='stderr'): return ''.join(o.text for c in nb.cells for o in c.outputs if o.output_type == 'stream' and o.name == kind)


def test_there_are_nine(): assert [int(re.match(r'nbs/(\d+)', o)[1]) for o in LESSONS] == [*range(1, 10)]


@pytest.mark.parametrize('nb', LESSONS)
def test_badge(nb):
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    repository = ini['DEFAULT']['repository'].removeprefix('https://github.com/')
    links = re.findall(r'\[!\[([^]]*)\]\(([^)]*)\)\]\(([^)]*)\)', '\n'.join(c.source for c in read_nb(ROOT/nb).cells if c.cell_type == 'markdown'))
    colab = 'https://colab.research.google.com'
    assert [o for o in links if colab in o[2]] == [('Open in Colab', f'{colab}/assets/colab-badge.svg', f"{colab}/github/{repository}/blob/{ini['DEFAULT']['branch']}/{nb}")]
    assert opening(nb)[1].source.startswith('[![Open in Colab]'), 'the badge stands under the title'


@pytest.fixture
def python(lessons, wheel, tmp_path):
    "The interpreter of an environment of the lessons' own, without the library."
    try: return environment(tmp_path/'env', needed(wheel, *map(wanted, lessons), *COLAB))
    except OSError as e:
        if getattr(e, 'winerror', None) == 1314: pytest.skip('this account may not make symbolic links')
        raise


ALONE = [[o] for o in LESSONS]
PLAIN, MORE = ([o for o in LESSONS if ('[' in wanted(o)) == extras] for extras in (False, True))


@pytest.mark.parametrize('lessons', ALONE if WHOLE else [PLAIN, MORE], ids=lambda o: ','.join(re.search(r'/(\d+)', p)[1] for p in o))
def test_first_cells(lessons, python, wheel, pypi, tmp_path):
    "In one kernel those that install the package alone, in another those that want extras, all names forgotten in between; at length each has its own."
    url, asked = pypi
    before = len(asked)
    look = f'''import importlib.util, json, os, sys
import lookalikes
print(json.dumps(dict(file=lookalikes.__file__, folder=os.listdir(), missing=[o for o in {sorted({r for o in lessons for r in roots(o)})} if importlib.util.find_spec(o) is None], ours=[o for o in sys.path if {str(ROOT)!r} in o])))'''
    cells = [s for o in lessons for s in ['%reset -f', *(c.source for c in opening(o) if c.cell_type == 'code')]]
    done = start(tmp_path, python, [*cells, *map(setup_cell, lessons), look], away(url), timeout=300)
    assert asked[before:] == ['/simple/lookalikes/', f'/{wheel.name}'], 'the setup cell installs once'
    seen = json.loads(said(done, 'stdout').splitlines()[-1])
    assert seen['file'].startswith(str(tmp_path/'env')) and not seen['folder'] and not seen['missing'] and not seen['ours'], seen
    assert not said(done), said(done)


@at_length
@pytest.mark.parametrize('lessons', ALONE, ids=lambda o: o[0])
def test_whole_lesson(lessons, python, pypi, tmp_path):
    "Minutes each; in every run test_notebooks.py has them beside the repository."
    cells = [c for c in read_nb(ROOT/lessons[0]).cells if c.cell_type == 'code']
    done = start(tmp_path, python, [c.source for c in cells], away(pypi[0]), timeout=600)
    assert not said(done), said(done)
    assert not [o for o in (tmp_path/'empty').rglob('*') if o.is_file()], 'it leaves files behind'
