"Past one machine: whatever the engine, wherever the pictures, and whoever is killed, the same tables. Everything that needs Ray stands here, so that it is started once."
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import at_length

from lookalikes import scale
from lookalikes.backbone import Backbone, embed
from lookalikes.classifier import Classifier
from lookalikes.copies import compressed, find_copies, verify as verify_pairs
from lookalikes.defects import plant, planted
from lookalikes.draw import draw
from lookalikes.engines import Local, Ray, engine
from lookalikes.imageset import ImageSet
from lookalikes.measures import Measures, look
from lookalikes.picture import ImageError, read_bytes
from lookalikes.predictions import predict
from lookalikes.scale import CROWD, MAX_BITS, Machines, Rates, bucket_pairs, copies, forecast, nearby
from lookalikes.shards import Shards, run

posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals')
SMALL = Backbone.named(size=64)
MODULE = '''
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
import pyarrow as pa
from lookalikes.engines import Local
from lookalikes.picture import open_image
from lookalikes.shards import Verb, each, run

@dataclass(frozen=True)
class Slow(Verb):
    "How large a picture is, after a while. Who works on it leaves a file of that name in `pids`."
    pids:str
    wait:float=.02
    @property
    def settings(self): return dict(verb='slow')
    def columns(self): return dict(width=pa.int32(), height=pa.int32())
    def ready(self):
        (Path(self.pids)/str(os.getpid())).touch()
        def one(row, data):
            time.sleep(self.wait)
            return dict(zip(('width','height'), open_image(data, name=row['file']).size))
        return lambda batch: each(one, *batch)

@dataclass(frozen=True)
class Faulty(Slow):
    "A verb with a mistake in it."
    def ready(self): return lambda batch: [dict(width=1//len(o[0]['label'])) for o in batch]

class Odd(Exception):
    "An error that only this module knows."

def fail(i):
    if i == 3: raise Odd('three')
    return i

def die_once(mark, i):
    if i == 2 and not os.path.exists(mark):
        open(mark, 'w').close()
        os.kill(os.getpid(), 9)
    return i

def serve():
    "Runs in processes of their own, each with a group of its own, without the seconds that it takes to import all this."
    for line in sys.stdin:
        pids,src,out = line.rstrip('\\n').split('\\t')
        if not (pid := os.fork()):
            os.setsid()
            try: run(Slow(pids), src, out, Local(2), shard=4, progress=False)
            finally: os._exit(0)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print('ended', flush=True)
'''


def tree(folder, n, start=0):
    from PIL import Image
    for i in range(start, start+n):
        (folder/'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (10+i % 7, 16, 3), dtype=np.uint8)).save(folder/'ab'[i % 2]/f'{i:04}.png', compress_level=1)
    return folder


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    "A module that every kind of worker can import."
    path = tmp_path_factory.mktemp('work')
    (path/'scale_work.py').write_text(MODULE)
    with pytest.MonkeyPatch.context() as m:
        m.syspath_prepend(path)
        m.setenv('PYTHONPATH', os.pathsep.join([str(path), *filter(None, [os.environ.get('PYTHONPATH')])]))
        import scale_work
        yield scale_work
        del sys.modules['scale_work']


@pytest.fixture(scope='module')
def s3(tmp_path_factory):
    "A server on loopback that speaks S3; its address in the environment, where workers find it too."
    pytest.importorskip('s3fs')
    server = pytest.importorskip('moto.server').ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
    import logging
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as m:
        for k, v in dict(AWS_ENDPOINT_URL=f'http://{host}:{port}', AWS_ACCESS_KEY_ID='key', AWS_SECRET_ACCESS_KEY='secret', AWS_DEFAULT_REGION='us-east-1', AWS_EC2_METADATA_DISABLED='true', AWS_MAX_ATTEMPTS='1').items(): m.setenv(k, v)
        for k in ('AWS_PROFILE', 'AWS_SESSION_TOKEN'): m.delenv(k, raising=False)
        yield server
    server.stop()


@pytest.fixture(scope='module')
def two(work, request):
    "Ray with two workers. Where there is a bucket it is set up first: Ray's workers have the environment that Ray was started in."
    pytest.importorskip('ray')
    try: request.getfixturevalue('s3')
    except pytest.skip.Exception: pass
    two = Ray(workers=2).start()
    yield two
    two.stop()


def below(): return psutil.Process().children(recursive=True)
def of_ray(): return [p for p in below() if any(o in ' '.join(alive(p)) for o in ('raylet', 'gcs_server', 'ray::', 'default_worker'))]


def alive(p):
    try: return p.cmdline() if p.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error: return []


# Equality

@pytest.fixture(scope='module')
def soiled(drawn, tmp_path_factory):
    "Drawn pictures of two classes, some of them broken."
    path = tmp_path_factory.mktemp('soiled')/'pictures'
    shutil.copytree(drawn, path)
    files = sorted(p for p in path.rglob('*.jpg'))
    for p, data in zip(files[3::9], (b'', b'<!doctype html>', files[12].read_bytes()[:900], bytes(500))): p.write_bytes(data)
    (path/'muffin'/'gone.jpg').symlink_to('nowhere.jpg')
    return path


@pytest.fixture(scope='module')
def verbs(soiled, bundle):
    "Each verb on the same pictures."
    kw = dict(shard=8, progress=False)
    return dict(verify=lambda out, e: scale.verify(soiled, out, engine=e, **kw), embed=lambda out, e: scale.embed(soiled, out, SMALL, engine=e, **kw), measure=lambda out, e: scale.measure(soiled, out, SMALL, engine=e, **kw),
                predict=lambda out, e: scale.predict(bundle, soiled, out, engine=e, **kw), fetch=lambda out, e: scale.fetch(soiled, out, 32, 80, engine=e, **kw))


@pytest.fixture(scope='module')
def alone(verbs, tmp_path_factory):
    "What each verb gives in this process, made when first asked for."
    made = {}
    def of(name):
        if name not in made: made[name] = verbs[name](tmp_path_factory.mktemp('alone')/name, Local(1))
        return made[name]
    return of


VERBS = ['verify', 'embed', 'measure', 'predict', 'fetch']


@pytest.mark.parametrize('name', VERBS)
def test_two_processes_give_what_one_does(verbs, alone, name, tmp_path):
    got = verbs[name](tmp_path/'out', Local(2))
    assert got.table() == alone(name).table() and got.n_shards == 6 and len(got) == 41 and len(got.failed) == 5 and got.settings == alone(name).settings


@pytest.mark.parametrize('name', [pytest.param(o, marks=() if o == 'embed' else at_length) for o in VERBS])
def test_ray_gives_what_one_process_does(verbs, alone, name, two, tmp_path):
    got = verbs[name](tmp_path/'out', two)
    assert got.table() == alone(name).table() and got.worked == 41


def facts(df): return df[['file', 'sha256', 'width', 'height', 'reason']].sort_values('file', ignore_index=True).astype(object)


def test_as_on_one_machine(alone, soiled, bundle):
    "The nouns that are read back are those that everything else makes."
    images = ImageSet.from_folder(soiled)
    plain = images.verify()
    assert alone('verify').images(soiled) == plain and len(plain.problems) == 5
    here = embed(images, SMALL, device='cpu', cache=False, look=look)
    for name in ('embed', 'measure'):
        f = alone(name).features()
        assert np.array_equal(f.X, here.X) and f.X.dtype == np.float32 and list(f.files) == list(here.files) and f.backbone.name == here.backbone.name and f.backbone.key == here.backbone.key
        assert facts(f.facts).equals(facts(here.facts)) and alone(name).images(soiled) == plain
    short = alone('embed').codes(1)
    assert np.allclose(short.X, compressed(here.X, 1), atol=1e-6) and short.X.dtype == np.float32 and np.allclose((short.X**2).sum(1), 1, atol=1e-5) and list(short.files) == list(here.files)
    m, own = alone('measure').measures(), Measures.from_looks(here.facts, here.looks)
    assert np.array_equal(m.hashes, own.hashes) and np.array_equal(m.thumbs, own.thumbs) and m.numbers.equals(own.numbers) and list(m.files) == list(own.files)
    told = alone('measure').statistics()
    assert list(told) == list(here.files) and all(np.isfinite(v) for o in told.values() for v in o.values() if v is not None)


def test_predictions_as_on_one_machine(alone, soiled, bundle):
    clf, images = Classifier.load(bundle), ImageSet.from_folder(soiled)
    got = alone('predict').predictions(soiled)
    ok = images.verify().ok
    one = predict(clf, ok)
    assert list(got.df.file) == list(one.df.file) and got.classes == one.classes and got.df.label.tolist() == one.df.label.tolist() and got.df.pred.tolist() == one.df.pred.tolist()
    assert np.abs(got.probs-one.probs).max() < 1e-6
    rows = {os.path.relpath(r['file'], soiled).replace(os.sep, '/'): r for r in clf.predict_files([soiled/f for f in images.df.file])}
    for r in alone('predict').table().to_pylist():
        said = rows[r['file']]
        if r['reason']: assert said['error'] == r['reason'] and r['pred'] is None and r['confidence'] is None
        else: assert (said['label'], said['abstained'], said['why'], said['strangeness']) == (r['pred'], r['abstained'], r['why'], r['strangeness']) and abs(said['confidence']-r['confidence']) < 1e-6


def test_fetched_as_on_one_machine(alone, soiled, tmp_path):
    "Shrunk, and those refused that are too small, with the same bytes."
    from lookalikes.download import checked_picture
    for r in alone('fetch').table().to_pylist():
        try: data, fact, _ = checked_picture(read_bytes(soiled/r['file']), r['file'], 32, 80)
        except ImageError as e: assert r['reason'] == e.reason and r['bytes'] is None
        else: assert r['bytes'] == data and {k: r[k] for k in fact} == fact and max(r['width'], r['height']) == 80


# Kills

@pytest.fixture(scope='module')
def many(tmp_path_factory): return tree(tmp_path_factory.mktemp('many')/'pictures', 96)


@pytest.fixture(scope='module')
def undisturbed(work, many, tmp_path_factory):
    path = tmp_path_factory.mktemp('undisturbed')
    return run(work.Slow(str(path), 0.), many, path/'out', Local(1), shard=4, progress=False)


@posix
def test_killed_ten_times(work, many, undisturbed, tmp_path):
    "SIGKILL to the whole run, helpers and all, at random moments: what can be seen of it is whole each time, and in the end all of it is there."
    import pyarrow.parquet as pq
    rng, out, pids, seen = random.Random(0), tmp_path/'out', tmp_path/'pids', []
    pids.mkdir()
    parts = list(undisturbed.parts())
    p = subprocess.Popen([sys.executable, '-c', 'from scale_work import serve; serve()'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for i in range(10):
            before = len(list(out.glob('parts/part-*')))
            p.stdin.write(f'{pids}\t{many}\t{out}\n')
            p.stdin.flush()
            victim, end = int(p.stdout.readline()), time.monotonic()+60
            if i % 3:       # as soon as it has got somewhere
                while len(list(out.glob('parts/part-*'))) == before and time.monotonic() < end: time.sleep(.002)
            time.sleep(rng.random()*.04)
            os.killpg(victim, signal.SIGKILL)
            assert p.stdout.readline() == 'ended\n'
            for f in out.glob('parts/part-*'): assert pq.read_table(f) == parts[int(f.name[5:11])]
            if (out/'plan.parquet').exists():
                left = Shards(out)
                assert set(left.done) | set(left.missing) == set(range(24)) and f'{len(left.missing)} of 24 parts to do' in repr(left)
                seen.append(len(left.done))
        assert seen[-1] < 24 and len(set(seen)) >= 4, seen
    finally: p.kill(); p.wait()
    (out/'parts'/'.part-000023.parquet.77.tmp').write_bytes(b'PAR1 half a part')
    assert 23 in Shards(out).missing
    end = run(work.Slow(str(pids), 0.), many, out, Local(1), shard=4, progress=False)
    assert end.table() == undisturbed.table() and end.worked == 96-4*seen[-1]


def killer(out, pids, found, spare=()):
    "A thread that kills a worker as soon as two parts are there, and says which, and how many were left then."
    def kill():
        end = time.monotonic()+120
        while time.monotonic() < end:
            there = [int(f.name) for f in pids.iterdir() if int(f.name) not in spare]
            if len(list(out.glob('parts/part-*'))) >= 2 and there and psutil.pid_exists(there[-1]):
                victim = psutil.Process(there[-1])
                found.update(pid=victim.pid, cmdline=' '.join(victim.cmdline()), parents=[o.pid for o in victim.parents()])
                victim.kill()
                return found.update(left=24-len(list(out.glob('parts/part-*'))))
            time.sleep(.005)
    (t := threading.Thread(target=kill)).start()
    return t


@posix
@pytest.mark.parametrize('kind', ['helper', pytest.param('worker of Ray', marks=at_length)])
def test_a_worker_is_killed(work, many, undisturbed, tmp_path, kind, request):
    who, pids, found = Local(2) if kind == 'helper' else request.getfixturevalue('two'), tmp_path/'pids', {}
    pids.mkdir()
    t = killer(tmp_path/'out', pids, found, spare={os.getpid()})
    got = run(work.Slow(str(pids), .1 if kind == 'helper' else .05), many, tmp_path/'out', who, shard=4, progress=False)
    t.join()
    assert found['left'] > 4 and os.getpid() in found['parents'] and ('serve_calls' if kind == 'helper' else 'ray::') in found['cmdline']
    assert got.table() == undisturbed.table() and got.worked == 96 and not psutil.pid_exists(found['pid'])


# Going on

class Counting(Local):
    "Counts how often it was started and stopped."
    log = []
    def start(self): self.log.append('start'); return self
    def stop(self): self.log.append('stop')


@pytest.fixture
def counted():
    Counting.log.clear()
    return Counting(1)


def test_only_what_is_missing(work, tmp_path, counted):
    src, out, slow = tree(tmp_path/'src', 10), tmp_path/'out', work.Slow(str(tmp_path), 0.)
    def go(**kw): return run(slow, src, out, counted, progress=False, **dict(shard=4) | kw)
    first = go()
    whole = first.table()
    assert (first.worked, first.n_shards, counted.log) == (10, 3, ['start', 'stop'])
    assert go().worked == 0 and counted.log == ['start', 'stop'] and go().table() == whole
    stamps = {k: os.stat(first.part(k)).st_mtime_ns for k in (0, 2)}
    os.unlink(first.part(1))
    assert Shards(out).missing == [1] and len(Shards(out)) == 6
    again = go()
    assert again.worked == 4 and again.table() == whole and stamps == {k: os.stat(first.part(k)).st_mtime_ns for k in (0, 2)}
    tree(src, 3, start=20)
    os.unlink(src/'a'/'0000.png')
    more = go()
    assert (more.worked, more.n_shards, len(more)) == (3, 4, 13) and more.table().slice(0, 10) == whole and more.failed.empty
    os.unlink(more.part(0))
    last = go()
    assert last.worked == 4 and last.failed.to_dict('records') == [dict(file='a/0000.png', reason='no such file')]
    shutil.move(src, tmp_path/'elsewhere'/'src')
    assert run(slow, tmp_path/'elsewhere'/'src', out, counted, shard=4, progress=False).worked == 0


def test_other_settings_are_refused(work, soiled, bundle, tmp_path):
    def refused(what, verb, *args, **kw):
        before = {p: p.read_bytes() for p in (tmp_path/'out').rglob('*') if p.is_file()}
        with pytest.raises(ValueError, match=rf'out: begun with {what} .*, now it is .*; go on as it began'): verb(*args, **dict(engine=Local(1), shard=8, progress=False) | kw)
        assert before == {p: p.read_bytes() for p in (tmp_path/'out').rglob('*') if p.is_file()}
    out = tmp_path/'out'
    scale.embed(soiled, out, SMALL, engine=Local(1), shard=8, progress=False)
    refused('verb', scale.verify, soiled, out)
    refused('verb', scale.measure, soiled, out, SMALL)
    refused('size', scale.embed, soiled, out, Backbone.named(size=96))
    refused('backbone', scale.embed, soiled, out, Backbone.named('resnet18', size=64, pretrained=False))
    refused('shard', scale.embed, soiled, out, SMALL, shard=16)
    refused('source', scale.embed, tree(tmp_path/'other', 4), out, SMALL)
    shutil.rmtree(out)
    scale.predict(bundle, soiled, out, engine=Local(1), shard=8, progress=False)
    from lookalikes.probe import fit_probe
    from lookalikes.ship import ship
    other = ship(fit_probe(ImageSet.from_folder(soiled).verify().ok, SMALL), tmp_path/'model').path
    refused('model', scale.predict, other, soiled, out)
    shutil.rmtree(out)
    scale.fetch(soiled, out, min_side=8, engine=Local(1), shard=8, progress=False)
    refused('min_side', scale.fetch, soiled, out, min_side=16)


@pytest.mark.parametrize('shard', [0, -4, 2.5, '8'])
def test_no_such_shard(soiled, tmp_path, shard):
    with pytest.raises(ValueError, match='shard=.*need a whole number above 0'): scale.verify(soiled, tmp_path/'out', shard=shard, progress=False)
    assert not (tmp_path/'out').exists()


def test_folders_that_hold_something_else(work, many, tmp_path):
    out, slow = tmp_path/'out', work.Slow(str(tmp_path), 0.)
    def go(): return run(slow, many, out, Local(1), shard=48, progress=False)
    out.mkdir()
    (out/'diary.txt').write_text('dear diary')
    with pytest.raises(FileExistsError, match='out: not empty .it holds diary.txt., nothing was written'): go()
    assert [p.name for p in out.iterdir()] == ['diary.txt']
    (out/'diary.txt').rename(out/'.plan.parquet.77.tmp')        # what is left of a run that was killed at once
    good = go()
    plan, part = (out/'plan.parquet').read_bytes(), Path(good.part(0)).read_bytes()
    for data in (b'', b'PAR1 no', plan[:len(plan)//2], plan[:-20]+bytes(20)):
        (out/'plan.parquet').write_bytes(data)
        for f in (go, lambda: repr(Shards(out)), lambda: Shards(out).settings):
            with pytest.raises(ValueError, match='plan.parquet: not a plan that can be read'): f()
    pd.DataFrame(dict(a=[1])).to_parquet(out/'plan.parquet')
    with pytest.raises(ValueError, match='plan.parquet: not a plan that lookalikes wrote'): go()
    (out/'plan.parquet').write_bytes(plan)
    for data in (b'', b'PAR1 no', part[:-30], part[:4]+bytes(60)+part[64:]):
        Path(good.part(0)).write_bytes(data)
        with pytest.raises(ValueError, match='part-000000.parquet: a damaged part .*; delete it and run again'): go().table()
    os.unlink(good.part(0))
    assert go().worked == 48 and len(go().table()) == 96
    for name in ('part-abcdef.parquet', 'part-000007.parquet.bak', 'notes.txt'): (out/'parts'/name).write_text('')
    assert go().done == [0, 1] and go().worked == 0
    with pytest.raises(FileNotFoundError, match='nothing was begun here'): len(Shards(tmp_path/'none').settings)


def test_workers_that_share_nothing(work, many, tmp_path):
    "What a worker wrote must be seen by who asked, or the run is no success."
    class Elsewhere(Local):
        def __call__(self, function, parts):
            yield [(k, 4, 0) for _, some in parts for k in some]
    with pytest.raises(FileNotFoundError, match='part-000000.parquet: .* all workers need to share'): run(work.Slow(str(tmp_path), 0.), many, tmp_path/'out', Elsewhere(), shard=48, progress=False)


# Buckets

@pytest.fixture
def bucket(s3, many):
    "`s3://pics` with some pictures, as objects; and nothing else in the server."
    import s3fs
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir('pics')
    for f in sorted(many.rglob('*.png'))[:16]: fs.pipe_file(f'pics/{f.relative_to(many).as_posix()}', f.read_bytes())
    fs.pipe_file('pics/b/0099.png', b'')
    yield fs
    tell('reset-auth', 'inf')
    tell('reset')
    s3fs.S3FileSystem.clear_instance_cache()


def tell(what, data=''):
    "Tell the server itself something: `reset` forgets everything, `reset-auth` says how many requests it answers without asking for rights."
    import httpx
    httpx.post(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/{what}", content=data, headers={'Content-Type': 'text/plain'}).raise_for_status()


@pytest.fixture
def folder(bucket, tmp_path):
    "The same pictures here."
    for f in bucket.find('pics'):
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/f).write_bytes(bucket.cat_file(f))
    return tmp_path/'pics'


def test_from_bucket_to_bucket(bucket, folder, tmp_path):
    here = scale.verify(folder, tmp_path/'out', engine=Local(1), shard=4, progress=False)
    got = scale.verify('s3://pics', 's3://out/local', engine=Local(2), shard=4, progress=False)
    assert got.table() == here.table() and got.failed.to_dict('records') == [dict(file='b/0099.png', reason='empty file')] and got.n_shards == 5
    assert sorted(bucket.find('out')) == ['out/local/parts/part-00000%d.parquet' % i for i in range(5)]+['out/local/plan.parquet']
    bucket.rm('out/local/parts/part-000002.parquet')
    again = scale.verify('s3://pics/', 's3://out/local', engine=Local(1), shard=4, progress=False)
    assert again.worked == 4 and again.table() == here.table()
    got = scale.embed('s3://pics', 's3://out/features', SMALL, engine=Local(1), shard=8, progress=False)
    assert np.array_equal(got.features().X, embed(ImageSet.from_folder(folder).verify().ok, SMALL, device='cpu', cache=False).rows(got.features().files))


@at_length
def test_from_bucket_to_bucket_on_ray(bucket, folder, two, tmp_path):
    here = scale.verify(folder, tmp_path/'out', engine=Local(1), shard=4, progress=False)
    got = scale.verify('s3://pics', 's3://out', engine=two, shard=4, progress=False)
    assert got.table() == here.table() and len(got) == 17


def test_an_object_that_vanishes(bucket, tmp_path):
    "After it was planned and before it was read: a row."
    first = scale.verify('s3://pics', tmp_path/'out', engine=Local(1), shard=4, progress=False)
    victim = first.table(['file'])['file'].to_pylist()[5]
    os.unlink(first.part(1))
    bucket.rm(f'pics/{victim}')
    again = scale.verify('s3://pics', tmp_path/'out', engine=Local(1), shard=4, progress=False)
    assert again.worked == 4 and dict(zip(again.failed.file, again.failed.reason)) == {victim: 'no such file', 'b/0099.png': 'empty file'}


def test_buckets_that_are_not_there(s3, bucket, tmp_path):
    with pytest.raises(ValueError, match='s3://nothere: no pictures, or no such place'): scale.verify('s3://nothere', tmp_path/'out', progress=False)
    with pytest.raises(FileNotFoundError, match='s3://nothere/x.parquet: no such file'): scale.verify('s3://nothere/x.parquet', tmp_path/'out', progress=False)
    tell('reset-auth', '0')
    for place, out in ('s3://pics', tmp_path/'out'), (tree(tmp_path/'src', 2), 's3://out'):
        with pytest.raises(PermissionError, match=r's3://(pics|out).*: no permission'): scale.verify(place, out, engine=Local(1), progress=False)
    assert not (tmp_path/'out').exists()


def test_a_server_that_goes(work, s3, bucket, tmp_path):
    "In the middle: an error that says so, from a server that is not there any more; what was done is kept, and no picture is held to be bad."
    host, port = s3.get_host_and_port()
    slow, gone = work.Slow(str(tmp_path), .05), {}
    def pull():
        end = time.monotonic()+60
        while len(list((tmp_path/'out').glob('parts/part-*'))) < 2 and time.monotonic() < end: time.sleep(.01)
        s3.stop()
        gone['at'] = time.monotonic()
    (t := threading.Thread(target=pull)).start()
    try:
        with pytest.raises(ConnectionError, match='s3://pics.*cannot be reached.*try again'): run(slow, 's3://pics', tmp_path/'out', Local(1), shard=2, progress=False)
        assert time.monotonic()-gone['at'] < 60
        left = Shards(tmp_path/'out')
        assert left.missing and len(left.done) >= 2 and left.failed.empty
    finally:
        t.join()
        s3._port = port
        s3.start()
    end = run(slow, 's3://pics', tmp_path/'out', Local(1), shard=2, progress=False)
    assert len(end) == 17 and 0 < end.worked < 17 and end.failed.file.tolist() == ['b/0099.png']


# Copies

@pytest.fixture(scope='module')
def spoilt(tmp_path_factory):
    path = tmp_path_factory.mktemp('spoilt')
    s = plant(draw('cats_or_dogs', n=120, size=96, path=path/'drawn', seed=5), path/'set', dict(exact_copy=8, reencoded=10, resized=10, mirrored=10, cropped=10), seed=2)
    return s, scale.measure(path/'set', path/'out', SMALL, engine=Local(2), shard=32, progress=False)


def together(c): return {frozenset(o) for o in c.clusters}


def test_copies_across_parts(spoilt):
    s, shards = spoilt
    found = copies(shards, Local(1))
    truth = planted(s)
    truth = truth[truth.kind.isin(['exact_copy', 'reencoded', 'resized', 'mirrored', 'cropped'])]
    pairs = list(zip(truth.file, truth.of))
    def hits(c): return np.array([any({a, b} <= o for o in together(c)) for a, b in pairs])
    f = embed(s, SMALL, device='cpu', cache=False, look=look)
    here = find_copies(s, Measures.from_looks(f.facts, f.looks), f)
    assert len(pairs) > 40 and hits(here).mean() >= .95 and hits(found).mean() >= .95
    assert not (hits(here) & ~hits(found)).any(), truth[hits(here) & ~hits(found)]
    assert set(map(tuple, found.pairs.query("kind == 'exact'")[['a', 'b']].to_numpy())) == set(map(tuple, here.pairs.query("kind == 'exact'")[['a', 'b']].to_numpy()))
    owner = dict(pairs)
    origin = {frozenset(owner.get(f, f) for f in o) for o in together(found)}
    assert all(len(o) == 1 for o in origin), 'pictures that were drawn apart'


def test_copies_on_any_engine(spoilt, two):
    a, b, c = (copies(spoilt[1], e) for e in (Local(1), Local(2), two))
    assert len(a) > 40 and a.pairs.equals(b.pairs) and a.pairs.equals(c.pairs)


def test_what_the_short_way_misses(spoilt):
    "Against a close look at every pair."
    m, X = spoilt[1].measures(), spoilt[1].codes().X
    every = np.stack(np.triu_indices(len(m), 1), 1)
    truly = every[np.concatenate([verify_pairs(m.thumbs, every[i:i+4096]).same for i in range(0, len(every), 4096)])]
    short = {tuple(o) for o in nearby(m.hashes, X)}
    assert len(truly) > 40 and np.mean([tuple(o) in short for o in truly]) >= .95 and len(short) < len(every)/4


def test_buckets_by_brute_force():
    rng = np.random.default_rng(0)
    def bits(*shape): return rng.integers(0, 256, (*shape, 8), dtype=np.uint8)
    hashes = bits(150, 2)
    for i in range(0, 90, 3):       # neighbours that differ in a few bits, some of them by way of the mirror image
        near = np.unpackbits(hashes[i, 0])
        near[rng.choice(64, 1+i//4, replace=False)] ^= 1
        hashes[i+1, int(i % 2)] = np.packbits(near)
    hashes[100:100+CROWD+5, :, :2] = 7      # a crowd in one bucket: twice as many hashes as pictures, and none of them near another
    hashes[95:98, 1, 2:4] = hashes[95, 1, 2:4]
    pieces = np.ascontiguousarray(hashes).view(np.uint16)       # pictures x 2 x 4
    def dist(a, b): return int(np.unpackbits(a ^ b).sum())
    crowds = {(k, v) for k in range(4) for v, n in zip(*np.unique(pieces[:, :, k], return_counts=True)) if n > CROWD}
    want = {(i, j) for i, j in itertools.combinations(range(len(hashes)), 2) for a, b in ((0, 0), (0, 1), (1, 0))
            if dist(hashes[i, a], hashes[j, b]) <= MAX_BITS and any(pieces[i, a, k] == pieces[j, b, k] and (k, pieces[i, a, k]) not in crowds for k in range(4))}
    got = bucket_pairs(hashes)
    assert {tuple(o) for o in got} == want and len(got) == len(want) >= 8 and crowds and (got[:, 0] < got[:, 1]).all()
    assert any(dist(hashes[i, 0], hashes[j, 0]) > MAX_BITS for i, j in want), 'none by the mirror image'


@pytest.mark.parametrize('n', [0, 1])
def test_hardly_any_hashes(n):
    assert bucket_pairs(np.zeros((n, 2, 8), np.uint8)).shape == nearby(np.zeros((n, 2, 8), np.uint8), np.ones((n, 16), np.float32)).shape == (0, 2)


# Looking ahead

RATES = Rates(core=.02, read=100_000, write=5000)


def test_more_machines_are_never_slower():
    for n, packed, rates in itertools.product((1, 1000, 10**7), (False, True), (RATES, Rates(.001, 1e6, 0), Rates(.3, 1000, 0, .05))):
        seen = [forecast(n, m, rates, packed=packed) for m in (1, 2, 3, 10, 64, 1000, 10_000)]
        hours = [o.hours for o in seen]
        assert all(a >= b for a, b in itertools.pairwise(hours))
        assert all(o.hours >= n*rates.core/(m*16)/3600 for o, m in zip(seen, (1, 2, 3, 10, 64, 1000, 10_000)))
        assert all(np.isclose(o.cost, o.hours*m*.7) for o, m in zip(seen, (1, 2, 3, 10, 64, 1000, 10_000)))


@pytest.mark.parametrize('first, kw', [
    ('cores', dict(rates=Rates(1., 1, 0))), ('network', dict(rates=Rates(1e-6, 1e7, 0), machines=2)), ('bucket', dict(rates=Rates(1e-6, 1e7, 0), machines=1000)),
    ('bucket', dict(rates=Rates(.001, 1, 0), machines=200)), ('head', dict(rates=Rates(.001, 1, 0, handing=1.), packed=True, machines=100)), ('shards', dict(rates=Rates(1., 1, 0), machines=1000, pictures=512*17)),
    ('up', dict(rates=Rates(.001, 1, 0), kind=Machines(), pictures=1000))])
def test_what_is_first_to_hold_up_the_others(first, kw):
    o = forecast(**dict(pictures=10**7, machines=1, kind=Machines(up=0)) | kw)
    assert o['first'] == first, o
    assert first in ('up', 'shards') or o[first] == max(o[['cores', 'network', 'bucket', 'head']])


def test_nothing_to_do_takes_as_long_as_machines_need():
    o = forecast(0, 3, RATES)
    assert o.hours == 180/3600 and o['first'] == 'up' and (o[['cores', 'network', 'bucket', 'head', 'shards']] == 0).all()


@pytest.mark.parametrize('kw', [dict(machines=0), dict(machines=-1), dict(pictures=-1), dict(shard=0)])
def test_numbers_that_make_no_sense(kw):
    with pytest.raises(ValueError, match=f'{next(iter(kw))}='): forecast(**dict(pictures=1000, machines=2, rates=RATES) | kw)


# Engines

@pytest.mark.parametrize('which', ['spark', '', None, 2, Local, Ray])
def test_engines_that_are_none(which, soiled, tmp_path):
    with pytest.raises(ValueError, match='need local, ray, or an engine'): engine(which)
    with pytest.raises(ValueError, match='need local, ray, or an engine'): scale.verify(soiled, tmp_path/'out', engine=which, progress=False)
    assert not (tmp_path/'out').exists()


@pytest.fixture(params=['local', pytest.param('two', marks=at_length)])
def any_engine(request): return Local(2) if request.param == 'local' else request.getfixturevalue('two')


def test_errors_come_as_what_they_are(work, any_engine):
    for call in (any_engine, any_engine.tasks):
        with pytest.raises(work.Odd, match='three'): list(call(work.fail, [(i,) for i in range(6)]))
        assert list(call(work.fail, [])) == []


def test_a_mistake_ends_the_run(work, tmp_path, counted):
    "It is no picture's fault, so it is no row."
    src = tree(tmp_path/'src', 6)
    for p in src.rglob('*.png'): p.rename(src/p.name)       # without a label
    with pytest.raises(ZeroDivisionError): run(work.Faulty(str(tmp_path)), src, tmp_path/'out', counted, shard=4, progress=False)
    assert counted.log == ['start', 'stop'] and Shards(tmp_path/'out').done == []


@at_length
def test_a_mistake_ends_the_run_on_ray(work, two, tmp_path):
    src = tree(tmp_path/'src', 6)
    for p in src.rglob('*.png'): p.rename(src/p.name)
    with pytest.raises(ZeroDivisionError): run(work.Faulty(str(tmp_path)), src, tmp_path/'out', two, shard=4, progress=False)
    assert list(two.tasks(work.fail, [(1,), (2,)])) == [1, 2], 'who started it has not stopped it'


@posix
@pytest.mark.parametrize('how', [pytest.param('data', marks=at_length), 'tasks'])
def test_a_function_that_kills_its_worker_is_called_again(work, two, tmp_path, how):
    got = list((two if how == 'data' else two.tasks)(work.die_once, [(str(tmp_path/'mark'), i) for i in range(5)]))
    assert (tmp_path/'mark').exists() and sorted(got) == list(range(5)) and (how == 'data' or got == list(range(5)))


@pytest.mark.parametrize('address', ['127.0.0.1:1', 'ray://127.0.0.1:1'])
def test_nobody_answers(address):
    "In a process of its own, since Ray might end it."
    code = f"from lookalikes.engines import Ray\ntry: Ray(address={address!r}).start()\nexcept ConnectionError as e: print(e)"
    pytest.importorskip('ray')
    begun = time.monotonic()
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=180)
    assert address in r.stdout and 'refused' in r.stdout and time.monotonic()-begun < 60, r.stdout+r.stderr


@pytest.mark.parametrize('late', [1, 9])
def test_a_node_that_does_not_come_up(monkeypatch, late):
    "On a machine that is too busy Ray gives up with a bare Exception: it is started once more; then whoever called hears where, in one line."
    ray = pytest.importorskip('ray')
    tries, cleared = [], []
    def slow(**kw):
        tries.append(kw)
        if len(tries) <= late: raise Exception('The current node timed out during startup.\n  See the logs.')
    for name, f in dict(is_initialized=lambda: False, init=slow, shutdown=lambda: cleared.append(1)).items(): monkeypatch.setattr(ray, name, f)
    monkeypatch.setattr('lookalikes.engines._started', [])
    if late == 1: Ray(workers=2).start()
    else:
        with pytest.raises(ConnectionError, match='^Ray at this machine: The current node timed out during startup. See the logs.$'): Ray(workers=2).start()
    assert len(tries) == 2 and tries[0] == tries[1] and cleared == [1]
    with pytest.raises(ConnectionError, match='nobody'):      # any other failure is told at once
        monkeypatch.setattr(ray, 'init', lambda **kw: (_ for _ in ()).throw(Exception('nobody')))
        Ray(workers=2).start()
    assert cleared == [1]


def test_nothing_of_ray_is_left(two):
    "The last of these tests: Ray is stopped, and everything that it had started has ended."
    import ray
    assert len(of_ray()) >= 3
    two.start().stop()
    assert ray.is_initialized()
    two.stop()
    end = time.monotonic()+20
    while of_ray() and time.monotonic() < end: time.sleep(.1)
    assert not ray.is_initialized() and not of_ray()
