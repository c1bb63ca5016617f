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


def execute(nb, folder, env, said):
    "Run a notebook as `nbdev-test` does, with what it says in a file."
    with open(os.devnull) as nothing, open(said, 'w') as f:
        for old, new in (0, nothing), (1, f), (2, f): os.dup2(new.fileno(), old)
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
    p = processes.Process(target=execute, args=(nb, str(scratch), env, said := tmp_path/'said.txt'))
    p.start()
    p.join(840)
    late = p.is_alive()
    p.kill()
    p.join()
    text = said.read_text(errors='replace') if said.exists() else ''
    assert p.exitcode == 0, f'{nb}{": still running" if late else ""}:\n{text[-8000:]}'
    assert text.count(f'\n{nb.split("/")[-1]}: ') == 1, text
