"""Every notebook runs from the top, so plain `pytest` covers what the notebooks assert.

Each in a process of its own, forked from one that has imported torch and its kin (`warm.py`); where there is no fork server, each imports them itself.
"""
import multiprocessing
import os
import sys
from pathlib import Path

import pytest
from conftest import NOTEBOOKS

FORKS = 'forkserver' in multiprocessing.get_all_start_methods() and sys.platform == 'linux'    # elsewhere libraries may not survive a fork


@pytest.fixture(scope='module')
def processes(request):
    forks = FORKS and sum(o.path == request.path for o in request.session.items) > 3     # for fewer it does not pay
    context = multiprocessing.get_context('forkserver' if forks else 'spawn')
    if forks:
        from multiprocessing import forkserver
        context.set_forkserver_preload(['warm'])
        with pytest.MonkeyPatch.context() as m:     # before Python 3.13 a fork server does not learn where its parent looks for modules
            m.setenv('PYTHONPATH', str(Path(__file__).parent), prepend=os.pathsep)
            forkserver.ensure_running()
    return context


def execute(nb, folder, env, out, err):
    "Run a notebook as `nbdev-test` does, with what it says in two files."
    for old, name, mode in (0, os.devnull, 'r'), (1, out, 'w'), (2, err, 'w'):
        with open(name, mode) as f: os.dup2(f.fileno(), old)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.path.insert(0, '')
    from nbdev.test import nbdev_test       # called with its arguments, since the command itself may not be on PATH, and without them it takes every notebook there is
    nbdev_test(nb, n_workers=0, timing=True)


@pytest.mark.parametrize('nb', NOTEBOOKS)
def test_notebook(nb, scratch, tmp_path, processes):
    # What the notebooks store and assert belongs to the drawn twins, so real photographs are out of sight here.
    env = {k: v for k, v in os.environ.items() if k != 'LOOKALIKES_PHOTOS'} | dict(LOOKALIKES_OFFLINE='1')  # the web answers differently each day
    said = [tmp_path/'out.txt', tmp_path/'err.txt']
    p = processes.Process(target=execute, args=(nb, str(scratch), env, *said))
    p.start()
    p.join(840)
    late = p.is_alive()
    p.kill()
    p.join()
    out, err = (o.read_text(errors='replace') if o.exists() else '' for o in said)
    assert p.exitcode == 0, f'{nb}{": still running" if late else ""}:\n{out[-2000:]}\n{err[-6000:]}'
    assert out.splitlines()[1:] and all(o.startswith(f'{nb.split("/")[-1]}: ') for o in out.splitlines()[1:]), out
