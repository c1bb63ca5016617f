"Every notebook runs from the top, so plain `pytest` covers what the notebooks assert."
import json
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


def test_a_notebook_that_fails(tmp_path, warm):
    "Some releases of nbdev say Success without having run a cell."
    cells = [dict(cell_type='markdown', id='a', metadata={}, source='# A notebook'), dict(cell_type='code', id='b', metadata={}, outputs=[], execution_count=None, source='assert 1 == 2, "it ran"')]
    (tmp_path/'fails.ipynb').write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')), nbformat=4, nbformat_minor=5)))
    r = warm.notebook('fails.ipynb', cwd=tmp_path)
    assert r.returncode != 0 and 'AssertionError: it ran' in r.stdout+r.stderr, (r.stdout, r.stderr)
