import gc
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest

# Several test processes that each want every core are slower than one after the other; said before anything imports torch.
if 'PYTEST_XDIST_WORKER' in os.environ: os.environ.setdefault('OMP_NUM_THREADS', '1')

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT/'nbs').rglob('*.ipynb')
                   if not any(o[0] in '._' for o in p.relative_to(ROOT).parts))

# What shows at length, or on more of them, what a shorter test shows in every run: weekly, before a release, and whenever somebody asks.
WHOLE = 'LOOKALIKES_WHOLE' in os.environ
at_length = pytest.mark.skipif(not WHOLE, reason='at length, when LOOKALIKES_WHOLE is set')


def worked(): return sum(os.times()[2:4])    # processor seconds of child processes that have ended


gc.disable()    # until all tests are imported, and torch with them


def pytest_collection_finish():
    gc.freeze()     # what was imported stays: to look through it again and again takes a tenth of the time that tests take
    gc.enable()


def pytest_unconfigure(): gc.unfreeze()     # extensions count what is left at the end


def pytest_collection_modifyitems(items): items.sort(key=lambda o: o.path.name == 'test_notebooks.py')


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "A file stays in one process, so that what it sets up is set up once; notebooks go one by one to whoever is free, last, as they fill the gaps."
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid): return nodeid if 'test_notebooks.py' in nodeid else nodeid.split('::')[0]

    return ByFile(config, log)


def _sayable(o):
    if isinstance(o, str): return o.encode('utf-8', 'backslashreplace').decode()
    return {_sayable(k): _sayable(v) for k, v in o.items()} if isinstance(o, dict) else type(o)(map(_sayable, o)) if isinstance(o, (list, tuple)) else o


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable(report):
    "Between processes only Unicode travels, and some tests are about names that are none."
    return _sayable((yield))


@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    "A cache of the session's own, which subprocesses inherit: no test reads what another day left behind."
    with pytest.MonkeyPatch.context() as m:
        path = tmp_path_factory.mktemp('cache')
        if os.name == 'posix' and 'PYTEST_XDIST_WORKER' in os.environ:
            graphs = tmp_path_factory.getbasetemp().parent/'graphs'     # exporting one takes seconds, and is made for several processes
            graphs.mkdir(exist_ok=True)
            (path/'graphs').symlink_to(graphs)
        m.setenv('LOOKALIKES_CACHE', str(path))
        m.setenv('MPLBACKEND', 'agg')
        yield path


@pytest.fixture(scope='session')
def photos():
    "The folder of real photographs; tests that need one of its subfolders skip, by name, where it is absent."
    path = Path(os.environ.get('LOOKALIKES_PHOTOS') or ROOT.parent/'shared'/'photos')
    if not path.is_dir(): pytest.skip(f'no real photographs: {os.path.relpath(path, ROOT)} is missing (set LOOKALIKES_PHOTOS)')
    return path


class Warm:
    """Notebooks, scripts and code in processes of their own, forked from one that has imported torch and its kin (warm.py).

    Where nobody forks or for a few of them it does not pay, each imports what it needs.
    """
    def __init__(self, forks, notes):
        self.context, self.notes, self.n = multiprocessing.get_context('forkserver' if forks else 'spawn'), notes, 0
        if forks:
            from multiprocessing import forkserver
            self.context.set_forkserver_preload(['warm'])
            with pytest.MonkeyPatch.context() as m:     # before Python 3.13 a fork server does not learn where its parent looks for modules
                m.setenv('PYTHONPATH', str(Path(__file__).parent), prepend=os.pathsep)
                forkserver.ensure_running()

    def start(self, target, what, cwd=ROOT, env=None):
        "A process with `pid`, `exitcode` and `join`, and `out` and `err`, the files of what it says."
        self.n += 1
        out, err = (self.notes/f'{self.n}.{o}' for o in ('out', 'err'))
        p = self.context.Process(target=target, args=(what, str(cwd), dict(os.environ if env is None else env), out, err))
        p.out, p.err = out, err
        for o in out, err: o.touch()     # a process may end before it says anything
        p.start()
        return p

    def end(self, p, timeout=600):
        "Wait for it, as subprocess.run does."
        try:
            p.join(timeout)
            if p.is_alive(): raise subprocess.TimeoutExpired(p.name, timeout, *(o.read_text(errors='replace') for o in (p.out, p.err)))
        finally: self.kill(p)
        return subprocess.CompletedProcess(p.name, p.exitcode, *(o.read_text(encoding='utf-8', errors='replace') for o in (p.out, p.err)))

    def kill(self, p):
        "It, and what it has started."
        if p.is_alive() and hasattr(os, 'killpg'):
            try: os.killpg(p.pid, signal.SIGKILL)
            except ProcessLookupError: pass     # it has no group yet
        p.kill()
        p.join()

    def notebook(self, nb, timeout=600, **where):
        return self.end(self.start(forked.notebook, nb, **where), timeout)

    def python(self, *args, timeout=600, **where):
        return self.end(self.start(forked.python, [*map(os.fspath, args)], **where), timeout)


@pytest.fixture(scope='session')
def warm(request, tmp_path_factory):
    forks = 'forkserver' in multiprocessing.get_all_start_methods() and sys.platform == 'linux'     # elsewhere libraries may not survive a fork
    return Warm(forks and sum('warm' in o.fixturenames for o in request.session.items) > 3, tmp_path_factory.mktemp('warm'))


@pytest.fixture(scope='session')
def scratch(tmp_path_factory):
    "A copy of the project, without pictures and builds, for what writes beside the notebooks."
    path = tmp_path_factory.mktemp('project')/'lookalikes'
    skip = shutil.ignore_patterns('.*', '__pycache__', 'out', 'models', 'lookalikes_demo')
    for name in ['nbs', 'lookalikes', 'tests']: shutil.copytree(ROOT/name, path/name, ignore=skip)
    for name in ['data/recipes', 'data/results', 'benchmarks']:
        if (ROOT/name).is_dir(): shutil.copytree(ROOT/name, path/name, ignore=skip)
    for p in ROOT.iterdir():
        if p.is_file() and p.name[0] != '.': shutil.copy(p, path)
    return path


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
    "Twenty drawn pictures of each of two classes, a folder per class, without a manifest. Copy what a test changes."
    from lookalikes.draw import draw
    path = tmp_path_factory.mktemp('drawn')/'pictures'
    draw('chihuahua_or_muffin', n=20, size=96, path=path, classes=['chihuahua', 'muffin'])
    for p in path.iterdir():
        if not p.is_dir(): p.unlink()
    return path


@pytest.fixture(scope='session')
def bundle(drawn, tmp_path_factory):
    "A model trained on `drawn`, without its report. Copy it to change it."
    from lookalikes.imageset import ImageSet
    from lookalikes.probe import fit_probe
    from lookalikes.ship import ship
    return ship(fit_probe(ImageSet.from_folder(drawn)), tmp_path_factory.mktemp('bundle')/'model').path


@pytest.fixture
def own_cache(cache, tmp_path, monkeypatch):
    "A cache of the test's own: no embedding yet, the session's graphs at hand."
    path = tmp_path/'cache'
    path.mkdir()
    (cache/'graphs').mkdir(exist_ok=True)
    if os.name == 'posix': (path/'graphs').symlink_to(cache/'graphs')
    monkeypatch.setenv('LOOKALIKES_CACHE', str(path))
    return path


@pytest.fixture
def run(capfd):
    "Run a command in this process: its exit status, standard output and standard error, and its JSON when `--json` was asked for."
    from lookalikes.cli import main
    def go(*args):
        capfd.readouterr()
        code = 0
        with warnings.catch_warnings():
            try: main([*map(os.fspath, args)])
            except SystemExit as e: code = e.code or 0
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, lines=err.splitlines(), json=json.loads(out) if '--json' in args and out else None)
    return go
