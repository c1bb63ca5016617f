"Drawing in processes: what they load, whose drawings they know, and a run that is killed half-way."
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

HEAVY = 'torch', 'fastai', 'timm', 'pandas', 'sklearn', 'onnxruntime', 'matplotlib'
TEAPOT = '''
import numpy as np
from lookalikes.twins import twin
@twin('teapots', 'round')
def pot(rng, size): return np.full((size, size, 3), rng.integers(256), np.uint8), dict(handles=1)
'''


def python(code, **kw):
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(kw.get('cwd', ROOT)), str(ROOT)])}
    return subprocess.run([sys.executable, '-c', code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, env=env, **kw)


def test_a_drawing_process_loads_nothing_heavy():
    r = python(f"import sys, lookalikes.draw; print([o for o in {HEAVY} if o in sys.modules])")
    assert r.stdout.strip() == '[]', r.stderr


def test_every_lesson_is_known_without_being_imported():
    r = python("import json\nfrom lookalikes.draw import twin_of\ntry: twin_of('teapots')\nexcept ValueError as e: print(json.dumps(str(e)))")
    assert all(o in json.loads(r.stdout) for o in ('teapots', 'chihuahua_or_muffin', 'paintings', 'search_noise')), r.stderr


def test_processes_draw_a_twin_of_ones_own(tmp_path):
    (tmp_path/'teapots.py').write_text(TEAPOT)
    r = python("import teapots\nfrom lookalikes.draw import draw, truth\ni = draw('teapots', n=60, size=32, workers=2, path='out')\nprint(len(i), truth(i).handles.sum())", cwd=tmp_path)
    assert r.stdout.split() == ['60', '60'], r.stderr


@pytest.mark.skipif(os.name == 'nt', reason='no SIGKILL')
def test_a_killed_run_is_completed_with_the_same_pictures(tmp_path):
    from lookalikes.draw import draw
    what = dict(n=40, size=64, classes=['mug', 'toy'])
    code = f"from lookalikes.draw import draw\ndraw('search_noise', path={str(tmp_path/'a')!r}, workers=2, **{what})"
    p = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while p.poll() is None and len(list(tmp_path.glob('a/*/*.jpg'))) < 5 and time.monotonic() < end: time.sleep(.01)
    p.send_signal(signal.SIGKILL)
    p.communicate()
    assert 5 <= len(list(tmp_path.glob('a/*/*.jpg'))) < 80 and not (tmp_path/'a/manifest.csv').exists()
    again, whole = draw('search_noise', path=tmp_path/'a', **what), draw('search_noise', path=tmp_path/'b', **what)
    assert len(again) == 80 and list(again.df.sha256) == list(whole.df.sha256)
    assert not list(tmp_path.glob('a/*/.*.tmp'))
