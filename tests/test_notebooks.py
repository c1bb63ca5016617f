"Every notebook runs from the top, so plain `pytest` covers what the notebooks assert."
import os
import subprocess
import sys

import pytest
from conftest import NOTEBOOKS


@pytest.mark.parametrize('nb', NOTEBOOKS)
def test_notebook(nb, scratch):
    # What the notebooks store and assert belongs to the drawn twins, so real photographs are out of sight here.
    env = {k: v for k, v in os.environ.items() if k != 'LOOKALIKES_PHOTOS'} | dict(LOOKALIKES_OFFLINE='1')  # the web answers differently each day
    # Called with its arguments, since the command itself may not be on PATH, and without them it takes every notebook there is.
    run = 'import sys; from nbdev.test import nbdev_test; nbdev_test(sys.argv[1], n_workers=0, timing=True)'
    r = subprocess.run([sys.executable, '-c', run, nb], cwd=scratch, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=840)
    assert r.returncode == 0, f'{nb}:\n{r.stdout[-2000:]}\n{r.stderr[-6000:]}'
    assert r.stdout.splitlines()[1:] and all(o.startswith(f'{nb.split("/")[-1]}: ') for o in r.stdout.splitlines()[1:]), r.stdout
