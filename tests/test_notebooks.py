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
    run = 'from nbdev.test import nbdev_test; nbdev_test()'  # the command itself may not be on PATH
    r = subprocess.run([sys.executable, '-c', run, '--n-workers', '0', nb], cwd=scratch, env=env,
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=840)
    assert r.returncode == 0, f'{nb}:\n{r.stdout[-2000:]}\n{r.stderr[-6000:]}'
