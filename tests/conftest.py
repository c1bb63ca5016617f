import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT/'nbs').rglob('*.ipynb')
                   if not any(o[0] in '._' for o in p.relative_to(ROOT).parts))


@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    "A cache of the session's own, which subprocesses inherit: no test reads what another day left behind."
    with pytest.MonkeyPatch.context() as m:
        m.setenv('LOOKALIKES_CACHE', str(tmp_path_factory.mktemp('cache')))
        m.setenv('MPLBACKEND', 'agg')
        yield Path(os.environ['LOOKALIKES_CACHE'])


@pytest.fixture(scope='session')
def photos():
    "The folder of real photographs; tests that need one of its subfolders skip, by name, where it is absent."
    path = Path(os.environ.get('LOOKALIKES_PHOTOS') or ROOT.parent/'shared'/'photos')
    if not path.is_dir(): pytest.skip(f'no real photographs: {os.path.relpath(path, ROOT)} is missing (set LOOKALIKES_PHOTOS)')
    return path


@pytest.fixture(scope='session')
def scratch(tmp_path_factory):
    "A copy of the project, without pictures and builds, for what writes beside the notebooks."
    path = tmp_path_factory.mktemp('project')/'lookalikes'
    skip = shutil.ignore_patterns('.*', '__pycache__', 'out', 'models', 'lookalikes_demo')
    for name in ['nbs', 'lookalikes', 'tests']: shutil.copytree(ROOT/name, path/name, ignore=skip)
    for name in ['recipes', 'results']:
        if (ROOT/'data'/name).is_dir(): shutil.copytree(ROOT/'data'/name, path/'data'/name)
    for p in ROOT.iterdir():
        if p.is_file() and p.name[0] != '.': shutil.copy(p, path)
    return path
