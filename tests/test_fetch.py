"The download engine against a server that goes wrong in every way: see fault_server.py."
import asyncio
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import fault_server
import pandas as pd
import pytest
from conftest import WHOLE
from fault_server import BEHAVIOURS, expected

from lookalikes.fetch import Work, _in_thread, fetch, interleave, label_problem
from lookalikes.imageset import ImageSet
from lookalikes.web import Limits


def quick(server, **kw):
    "Limits for a server that is near: it may be asked, and nothing else of this machine."
    kw = dict(connect=2., read=2., whole=6., wait=.05, max_wait=4., min_side=0) | kw  # some slack for a machine that is busy
    kw.pop('min_side')
    return Limits(allow_private=tuple(f'{h}/32' for h in server.hosts), **kw)


def sha(data): return hashlib.sha256(data).hexdigest()


def files(folder):
    "Every file of a dataset, by its name, without what the work keeps for itself."
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob('*')) if p.is_file() and not p.relative_to(folder).parts[0].startswith('.')}


def same_but_for_times(folder): return {k: p.read_bytes() if p.suffix != '.csv' else re.sub(rb'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', b'T', p.read_bytes()) for k, p in files(folder).items()}


@pytest.fixture(scope='module')
def server():
    with fault_server.FaultServer() as s: yield s


@pytest.fixture(scope='module')
def each(server, tmp_path_factory):
    "One address of every behaviour, fetched together."
    server.reset()
    names = [n for n in BEHAVIOURS if server.has(n) and n != 'ca' and BEHAVIOURS[n].option not in ('ca', 'cookies')] + ['cookie-wall']
    rows = pd.DataFrame([dict(url=server.url(n, 100+i), label='plum', query=n) for i, n in enumerate(names)])
    got = fetch(rows, tmp_path_factory.mktemp('each')/'set', limits=quick(server), min_side=32)
    return got, server.log()


@pytest.mark.parametrize('name', BEHAVIOURS)
def test_behaviour(server, each, name):
    rows = each[0].outcomes
    rows = rows[rows['query'] == name]
    if rows.empty: pytest.skip('not on this system')
    b, row = BEHAVIOURS[name], rows.iloc[0]
    if b.good:
        assert row.outcome in ('kept', 'copy'), row.reason
        assert sha((each[0].images.path/row.file).read_bytes()) == sha(expected(row.url))
    else:
        assert row.outcome == 'failed', row.file
        assert b.fits(row.reason), f'{row.reason!r} does not fit {b.why!r}'


def test_nothing_secret_was_asked(each):
    log = each[1]
    assert not log.secrets and not log.errors


def test_forbidden_by_robots_only_when_asked_to_be(server, tmp_path):
    urls = [server.url(n, 7+i) for i, n in enumerate(BEHAVIOURS) if BEHAVIOURS[n].option in ('robots', 'noai') and server.has(n)]
    assert len(urls) >= 2
    assert fetch(urls, tmp_path/'a', limits=quick(server)).counts == dict(failed=len(urls))
    assert not len(fetch(urls, tmp_path/'b', limits=quick(server, robots=False)).failed)


RUN = '''
import json, resource, sys
from lookalikes.fetch import fetch
from lookalikes.web import Limits
import pandas as pd
args = json.load(sys.stdin)
got = fetch(pd.DataFrame(args['rows']), args['folder'], limits=Limits(**args['limits']), workers=args.get('workers'), progress=False)
unit = 1 if sys.platform == 'darwin' else 1024
try: own = int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])*1024  # the system's own count begins with the process that started this one
except OSError: own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit
print(json.dumps(dict(counts=got.counts, seconds=got.seconds, peak=own+resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss*unit)))
'''


@pytest.mark.skipif(os.name != 'posix', reason='asks the system for the peak of memory')
def test_many_a_third_of_them_faulty(tmp_path):
    n = 2000 if WHOLE else 500
    with fault_server.spawn(prepare=n) as server:
        items = fault_server.urls(server, n=n, skip=('ca', 'cookies', 'cookie-wall', 'min_side', 'robots', 'noai'))
        assert sum(not o.good for o in items) == round(n/3) and len({o.behaviour for o in items if not o.good}) >= 25
        beside = tmp_path/'beside'
        beside.mkdir()
        limits = dict(connect=2., read=2., whole=6., wait=.05, max_wait=3., per_host=8, max_bytes=20_000_000, allow_private=[f'{h}/32' for h in server.hosts])
        start = time.monotonic()
        r = subprocess.run([sys.executable, '-c', RUN], cwd=beside, capture_output=True, text=True, timeout=600, env=os.environ | dict(TMPDIR=str(beside)),
                           input=json.dumps(dict(folder=str(tmp_path/'set'), limits=limits, rows=[dict(url=o.url, label=o.label) for o in items])))
        seconds = time.monotonic()-start
        assert r.returncode == 0, r.stderr[-3000:]
        told, log = json.loads(r.stdout), server.log()
    # of this process and of the largest of those that it started
    assert seconds < 300 and told['peak'] < 900e6, told
    out = pd.read_csv(tmp_path/'set'/'downloads.csv', dtype=str, keep_default_na=False)
    assert len(out) == len({(o.url, o.label) for o in items})
    want = {sha(expected(o.url)) for o in items if o.good}
    images = ImageSet.load(tmp_path/'set')
    assert set(images.df.sha256) == want and images.df.sha256.is_unique                     # every good one, once
    for file, digest in zip(images.df.file, images.df.sha256): assert sha((images.path/file).read_bytes()) == digest
    assert set(files(images.path)) == {'manifest.csv', 'downloads.csv', *images.df.file}  # and nothing else
    assert not list(beside.iterdir()) and {p.name for p in tmp_path.iterdir()} == {'set', 'beside'}
    by_url, wrong = {o.url: o for o in items}, []
    for row in out.itertuples():
        b = BEHAVIOURS[by_url[row.url].behaviour]
        if b.good != (row.outcome in ('kept', 'copy')) or not b.good and not b.fits(row.reason): wrong.append((b.name, row.outcome, row.reason))
    assert not wrong, Counter(wrong).most_common(20)
    assert not log.secrets and not log.errors
    assert max(log.most.values()) <= 2*8  # robots.txt and the connections that are being closed come on top of eight requests


def test_same_twice_whatever_the_order(server, tmp_path):
    "Different concurrency, and so another order of arrival: the same dataset."
    items = fault_server.urls(server, n=150, seed=3, skip=('ca', 'cookies', 'cookie-wall', 'never-answers', 'min_side', 'robots', 'noai'))
    rows = pd.DataFrame([dict(url=o.url, label=o.label) for o in items])
    for name, total in ('a', 64), ('b', 3): fetch(rows, tmp_path/name, wanted=25, limits=quick(server, total=total, read=1.5, whole=4., attempts=2), min_side=32)
    a, b = same_but_for_times(tmp_path/'a'), same_but_for_times(tmp_path/'b')
    told = [pd.read_csv(io.BytesIO(o.pop('downloads.csv')), dtype=str).drop(columns='reason') for o in (a, b)]  # a slow server may fail for one of two reasons
    assert told[0].equals(told[1])
    assert a == b and len(ImageSet.load(tmp_path/'a')) == 75


def test_shrinks(server, tmp_path):
    got = fetch([server.sized(1, 900), server.sized(2, 96)], tmp_path/'set', limits=quick(server), max_side=300)
    assert sorted(zip(got.images.df.width, got.images.df.height)) == [(96, 96), (300, 300)]
    again = fetch([server.sized(1, 900), server.sized(2, 96)], tmp_path/'again', limits=quick(server), max_side=300)
    assert again.images.df.sha256.tolist() == got.images.df.sha256.tolist()


def test_failures_that_pass_are_asked_again_when_told_to(server, tmp_path):
    server.reset()
    urls = [server.url('500-once', 900), server.url('status-404', 901)]
    first = fetch(urls, tmp_path/'set', limits=quick(server, attempts=1))
    assert first.counts == dict(failed=2)
    assert fetch(urls, tmp_path/'set', limits=quick(server, attempts=1)).counts == dict(failed=2)
    assert fetch(urls, tmp_path/'set', limits=quick(server, attempts=1), retry_failed=True).counts == dict(failed=1, kept=1)
    assert server.log().started[f'/{urls[1].split("/", 3)[3]}'] == 1


def test_folder_must_be_ours(server, tmp_path):
    (tmp_path/'photos').mkdir()
    (tmp_path/'photos/diary.txt').write_text('dear diary')
    with pytest.raises(FileExistsError, match='diary.txt.*nothing was written'): fetch([server.url('good', 1)], tmp_path/'photos', limits=quick(server))
    with pytest.raises(FileExistsError, match='a file'): fetch([server.url('good', 1)], tmp_path/'photos/diary.txt', limits=quick(server))
    assert [p.name for p in (tmp_path/'photos').iterdir()] == ['diary.txt']


@pytest.mark.skipif(os.name != 'posix', reason='links')
def test_no_link_leads_out(server, tmp_path):
    outside = tmp_path/'outside'
    outside.mkdir()
    fetch([dict(url=server.url('good', 1), label='plum')], tmp_path/'set', limits=quick(server))
    (tmp_path/'set'/'quince').symlink_to(outside)
    with pytest.raises(ValueError, match='leads out of the dataset'): fetch([dict(url=server.url('good', 2), label='quince')], tmp_path/'set', limits=quick(server))
    assert not list(outside.iterdir())


@pytest.mark.parametrize('label', ['../up', 'a/b', '.hidden', 'NUL', 'end.', 'a\x00b', 'a\nb', ' ', 'x'*130, 'Manifest.csv'])
def test_labels_that_are_no_folders(label, tmp_path):
    what = label_problem(label)
    assert what
    with pytest.raises(ValueError, match=re.escape(what)): fetch([dict(url='http://example.org/x.jpg', label=label)], tmp_path/'set')
    assert not list(tmp_path.iterdir())


def test_one_at_a_time(tmp_path):
    from filelock import FileLock
    (tmp_path/'set/.fetch').mkdir(parents=True)
    with FileLock(tmp_path/'set/.fetch/lock'), pytest.raises(BlockingIOError, match='another process'): fetch(['http://example.org/x.jpg'], tmp_path/'set')


def test_a_torn_journal(server, tmp_path):
    urls = [server.url('good', i) for i in range(20)]
    fetch(urls, tmp_path/'set', limits=quick(server))
    whole, journal = same_but_for_times(tmp_path/'set'), tmp_path/'set/.fetch/journal.jsonl'
    data = journal.read_bytes()
    for cut in (len(data)-1, len(data)-40, len(data)//2, 10, 0):
        journal.write_bytes(data[:cut]+b'\xff\x00[1]\n{"url"')
        fetch(urls, tmp_path/'set', limits=quick(server))
        assert same_but_for_times(tmp_path/'set') == whole


def test_bytes_that_a_power_cut_lost(server, tmp_path):
    "The journal says it came, the disk has an empty file: it is asked for again."
    urls = [dict(url=server.url('good', i), label='plum') for i in range(5)]
    got = fetch(urls, tmp_path/'set', limits=quick(server))
    victim = got.images.paths[2]
    data = victim.read_bytes()
    (tmp_path/'set/manifest.csv').unlink()
    victim.write_bytes(b'')
    fetch(urls, tmp_path/'set', limits=quick(server))
    assert victim.read_bytes() == data


@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_ctrl_c_leaves_a_valid_dataset(server, tmp_path):
    rows = [dict(url=server.url('good', i), label='plum') for i in range(60)] + [dict(url=server.url('never-answers', i), label='plum') for i in range(5)]
    code = RUN.replace("print(", "print('done', ").replace("got = fetch", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\ngot = fetch")
    p = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p.stdin.write(json.dumps(dict(folder=str(tmp_path/'set'), rows=rows, limits=dict(read=30., allow_private=[f'{h}/32' for h in server.hosts]))))
    p.stdin.close()
    deadline = time.monotonic()+60
    while not (tmp_path/'set/.fetch/journal.jsonl').exists() or len((tmp_path/'set/.fetch/journal.jsonl').read_text().splitlines()) < 60:
        assert time.monotonic() < deadline and p.poll() is None
        time.sleep(.05)
    p.send_signal(2)
    err, out = p.stderr.read(), p.stdout.read()
    assert p.wait(20) and 'KeyboardInterrupt' in err and 'done' not in out
    assert len(ImageSet.load(tmp_path/'set')) == 60


@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_ctrl_c_waits_for_what_is_under_way():
    "What the other thread settles after the interruption belongs into the manifest, too."
    ended = []
    async def slow():
        try: await asyncio.sleep(60)
        finally:
            time.sleep(.3)
            ended.append(1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(.25, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt): _in_thread(slow(), lambda: None)
    finally: signal.signal(signal.SIGINT, before)
    assert ended


@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_a_download_process_that_is_killed(tmp_path):
    "The system may kill one for want of memory: the run says so, and the next one goes on."
    psutil = pytest.importorskip('psutil')
    with fault_server.spawn(delay=.2) as server:
        order = dict(folder=str(tmp_path/'set'), rows=[dict(url=server.url('good', i, h), label='plum') for i in range(200) for h in [server.hosts[i % len(server.hosts)]]],
                     limits=dict(per_host=2, allow_private=[f'{h}/32' for h in server.hosts]), workers=2)
        p = subprocess.Popen([sys.executable, '-c', RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        p.stdin.write(json.dumps(order))
        p.stdin.close()
        journal, deadline = tmp_path/'set/.fetch/journal.jsonl', time.monotonic()+60
        # what comes behind a picture that is still under way is not in the set yet, so the first of them is waited for
        while not journal.exists() or journal.read_text().count('\n') < 10 or '/good/0.jpg' not in journal.read_text():
            assert time.monotonic() < deadline and p.poll() is None
            time.sleep(.02)
        children = psutil.Process(p.pid).children()
        assert len(children) == 2
        children[0].kill()
        err = p.stderr.read()
        assert p.wait(30) and 'a process that was downloading has ended' in err
        assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
        done, settled = len(ImageSet.load(tmp_path/'set')), {json.loads(o)['url'].split('/', 3)[3] for o in journal.read_text().splitlines()}
        r = subprocess.run([sys.executable, '-c', RUN], input=json.dumps(order), capture_output=True, text=True, timeout=120)
        assert json.loads(r.stdout)['counts'] == dict(kept=200) and 0 < done < 200, r.stderr
        assert all(server.log().started['/'+o] == 1 for o in settled)
        assert max(server.log().most.values()) <= 2*2


def test_as_many_processes_as_one_likes(server, tmp_path):
    items = fault_server.urls(server, n=90, seed=5, skip=('ca', 'cookies', 'cookie-wall', 'never-answers', 'min_side', 'robots', 'noai'))
    rows = [dict(url=o.url, label=o.label) for o in items]
    for name, n in ('a', 1), ('b', 3): fetch(rows, tmp_path/name, limits=quick(server, read=1.5, whole=4., attempts=2), min_side=32, workers=n)
    a, b = same_but_for_times(tmp_path/'a'), same_but_for_times(tmp_path/'b')
    for o in (a, b): o.pop('downloads.csv')
    assert a == b and len(a) > 30


def test_interleave():
    t = interleave(pd.DataFrame(dict(label=list('aaab'), url=list('1234'))))
    assert t.url.tolist() == ['1', '4', '2', '3']


def test_work_forgets_refusals_of_other_settings(tmp_path):
    (tmp_path/'.fetch').mkdir()
    w = Work(tmp_path, [100])
    w.note(dict(url='http://a', reason='too small', retry=False))
    w.journal.close()
    assert Work(tmp_path, [100]).done and not Work(tmp_path, [50]).done
