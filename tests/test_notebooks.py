"Every notebook runs from the top, so plain `pytest` covers what the notebooks assert."
import os
import queue
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import NOTEBOOKS

from lookalikes.imageset import n_cores


def run(nb, scratch, lanes):
    "Run a notebook, in whichever lane is free."
    lane = lanes.get()
    # What the notebooks store and assert belongs to the drawn twins, so real photographs are out of sight here.
    env = {k: v for k, v in os.environ.items() if k != 'LOOKALIKES_PHOTOS'} | dict(LOOKALIKES_OFFLINE='1', LOOKALIKES_CACHE=str(lane))  # the web answers differently each day
    if lanes.maxsize > 1: env['OMP_NUM_THREADS'] = '1'      # two networks that both want every core are slower than one after the other
    # Called with its arguments, since the command itself may not be on PATH, and without them it takes every notebook there is.
    code = 'import sys; from nbdev.test import nbdev_test; nbdev_test(sys.argv[1], n_workers=0, timing=True)'
    try: return subprocess.run([sys.executable, '-c', code, nb], cwd=scratch, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=840)
    finally: lanes.put(lane)


@pytest.fixture(scope='module')
def running(request, scratch, tmp_path_factory):
    """A function that gives what came of a notebook. In a test process of several it is run when it is asked for; in one alone all are begun, two at a time.
    Each lane has a cache of its own, so that two may draw the same pictures at once."""
    lanes = queue.Queue(1 if 'PYTEST_XDIST_WORKER' in os.environ else min(2, n_cores()))
    graphs = os.path.join(os.environ['LOOKALIKES_CACHE'], 'graphs')
    for i in range(lanes.maxsize):
        cache = tmp_path_factory.mktemp(f'lane{i}')
        if os.path.isdir(graphs): shutil.copytree(graphs, cache/'graphs')       # exported once in a session
        lanes.put(cache)
    if lanes.maxsize == 1:
        yield lambda nb: run(nb, scratch, lanes)
        return
    ex = ThreadPoolExecutor(lanes.maxsize)
    begun = {nb: ex.submit(run, nb, scratch, lanes) for o in request.session.items if getattr(o, 'originalname', '') == 'test_notebook' for nb in [o.callspec.params['nb']]}
    yield lambda nb: begun[nb].result()
    ex.shutdown(cancel_futures=True)


@pytest.mark.timeout(1800)      # waits for those before it
@pytest.mark.parametrize('nb', NOTEBOOKS)
def test_notebook(nb, running):
    r = running(nb)
    assert r.returncode == 0, f'{nb}:\n{r.stdout[-2000:]}\n{r.stderr[-6000:]}'
    assert r.stdout.splitlines()[1:] and all(o.startswith(f'{nb.split("/")[-1]}: ') for o in r.stdout.splitlines()[1:]), r.stdout
