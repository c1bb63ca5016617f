"Helper processes: answers in order, errors as they are, nothing left behind, and no guard around the main program."
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

import lookalikes.measures as ms
from lookalikes.draw import draw
from lookalikes.measures import Measures
from lookalikes.workers import Helper, HelperLost, dealt

MODULE = '''
import os, sys, time
def die(i, parent):
    if os.getpid() != parent: os._exit(1)
    return i
def chatter(i):
    print('noise', i, flush=True)
    return i, os.getpid()
def slow(i):
    time.sleep(.05)
    return i
def fail(i):
    if i == 7: raise FileNotFoundError('seven')
    return i
'''


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path/'work_for_helpers.py').write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import work_for_helpers
    yield work_for_helpers
    del sys.modules['work_for_helpers']


def helpers(): return [p for p in psutil.Process().children(recursive=True) if 'serve_calls' in ' '.join(p.cmdline())]


def test_order_and_noise(work):
    "What a function prints does not stand among the answers; every worker gets some of the work."
    got = list(dealt(work.chatter, [(i,) for i in range(40)], workers=3))
    assert [i for i, _ in got] == list(range(40))
    many = list(dealt(work.slow, [(i,) for i in range(60)], workers=3))
    assert many == list(range(60)) and not helpers()


def test_a_helper_that_dies_is_done_without(work):
    assert list(dealt(work.die, [(i, os.getpid()) for i in range(12)], workers=3)) == list(range(12))


def test_what_only_this_process_knows(work, monkeypatch):
    "A function whose module a helper cannot import is called here."
    monkeypatch.setattr(sys, 'path', [o for o in sys.path if not (o and os.path.exists(os.path.join(o, 'work_for_helpers.py')))])
    assert list(dealt(work.slow, [(i,) for i in range(6)], workers=2)) == list(range(6))


def test_where_no_process_can_be_started(work, monkeypatch):
    monkeypatch.setattr(sys, 'executable', '/nowhere/python')
    with pytest.raises(HelperLost, match='no process could be started'): Helper()
    assert list(dealt(work.slow, [(i,) for i in range(6)], workers=2)) == list(range(6))


def test_errors_come_as_they_are_and_end_the_work(work):
    with pytest.raises(FileNotFoundError, match='seven'): list(dealt(work.fail, [(i,) for i in range(20)], workers=3))
    assert not helpers()


def test_who_stops_listening_leaves_nothing_behind(work):
    some = dealt(work.slow, [(i,) for i in range(1000)], workers=3)
    assert [next(some) for _ in range(5)] == list(range(5))
    start = time.time()
    some.close()
    assert not helpers() and time.time()-start < 10


def test_a_script_needs_no_guard(tmp_path):
    (tmp_path/'script.py').write_text("from lookalikes.workers import dealt\nprint(sum(a for a, _ in dealt(divmod, [(i, 1) for i in range(100)], workers=2)))\n")
    r = subprocess.run([sys.executable, tmp_path/'script.py'], capture_output=True, text=True, timeout=120)
    assert (r.returncode, r.stdout, r.stderr) == (0, '4950\n', '')


def test_measures_do_not_depend_on_processes(tmp_path, monkeypatch):
    images = draw('chihuahua_or_muffin', n=90, size=64, path=tmp_path/'set', seed=4)
    images.paths[70].write_text('Forbidden')
    a = Measures.of(images)
    monkeypatch.setattr(ms, 'MANY', 0)
    for workers in (1, 3):
        b = Measures.of(images, workers=workers)
        assert list(a.files) == list(b.files) and np.array_equal(a.hashes, b.hashes) and np.array_equal(a.thumbs, b.thumbs) and a.numbers.equals(b.numbers) and a.facts.equals(b.facts)
    assert len(a) == len(images)-1 and a.facts.reason[70]
