"Every notebook runs from the top, so plain `pytest` covers what the notebooks assert."
import os

import pytest
from conftest import NOTEBOOKS


@pytest.mark.parametrize('nb', NOTEBOOKS)
def test_notebook(nb, scratch, warm):
    # What the notebooks store and assert belongs to the drawn twins, so real photographs are out of sight here.
    env = {k: v for k, v in os.environ.items() if k != 'LOOKALIKES_PHOTOS'} | dict(LOOKALIKES_OFFLINE='1')  # the web answers differently each day
    r = warm.notebook(nb, cwd=scratch, env=env, timeout=840)
    assert r.returncode == 0, f'{nb}:\n{r.stdout[-2000:]}\n{r.stderr[-6000:]}'
    assert r.stdout.splitlines()[1:] and all(o.startswith(f'{nb.split("/")[-1]}: ') for o in r.stdout.splitlines()[1:]), r.stdout
