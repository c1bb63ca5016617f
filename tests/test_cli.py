"The commands as a shell sees them: their JSON, remarks, exit status, and what an interruption leaves behind."
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import troublesome as tr
from conftest import WHOLE, worked
from PIL import Image

from lookalikes.cli import main
from lookalikes.picture import show_name

RATE = {'n', 'errors', 'error_rate', 'interval'}
COMMANDS = 'audit', 'demo', 'draw', 'train', 'evaluate', 'predict'
posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals and terminals')


def shell(*args, code='from lookalikes.cli import main; main()', **kw):
    "The arguments of `subprocess` that run a command in a fresh process; `code` may prepare it."
    return dict(args=[sys.executable, '-c', code, *map(os.fspath, args)], stdin=subprocess.DEVNULL, **kw)


def result(r, code=0):
    "The one JSON value on standard output."
    assert r.code == code, r.err
    return json.loads(r.out)


def refused(r, *words):
    "Exit status 2 and one line that says what is wrong."
    assert r.code == 2 and r.out == '', (r.code, r.out, r.err)
    assert len(r.lines) == 1 and r.lines[0].startswith('lookalikes: ') and 'Traceback' not in r.err, r.err
    for w in words: assert w in r.err, (w, r.err)


def rate(v, n=None):
    assert set(v) == RATE and 0 <= v['errors'] <= v['n'] and v['interval'][0] <= v['error_rate'] <= v['interval'][1]
    assert abs(v['error_rate'] - v['errors']/v['n']) < 1e-6
    assert n is None or v['n'] == n


def snapshot(folder):
    "All that a folder holds, byte by byte, and when each file was last written."
    out = {}
    for p in sorted(Path(folder).rglob('*')):
        s = p.lstat()
        out[os.fspath(p)] = s.st_mode, s.st_size, s.st_mtime_ns, os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None
    return out


def rows(bundle):
    with open(bundle/'manifest.csv', encoding='utf-8', errors='surrogateescape', newline='') as f: return list(csv.DictReader(f))


def noisy(folder, n, size=48, classes=('a', 'b')):
    "So many tiny pictures, drawn in no time, that differ by class."
    rng = np.random.default_rng(0)
    for i in range(n):
        c = i % len(classes)
        (folder/classes[c]).mkdir(parents=True, exist_ok=True)
        a = rng.integers(0, 100, (size, size, 3), dtype=np.uint8)
        a[..., c % 3] += 150
        Image.fromarray(a).save(folder/classes[c]/f'{i:04}.png', compress_level=1)
    return folder


# train

def test_train_names_every_troublesome_file(run, drawn, tmp_path):
    folder, made = tmp_path/'pictures', {}
    shutil.copytree(drawn, folder)
    for i, c in enumerate(tr.CASES.values()):
        label = ('chihuahua', 'muffin')[i % 2]
        if tr._make(folder/label/c.name, c): made[f'{label}/{c.name}'] = c
    assert len(made) > 150
    before = snapshot(folder)
    r = run('train', folder, '-o', tmp_path/'model', '--json')
    v, bad = result(r), {f for f, c in made.items() if c.check is None}
    assert snapshot(folder) == before
    assert v['unusable'] == len(bad) and v['n'] == 40 + len(made) - len(bad)
    assert set(v) >= {'n', 'classes', 'valid', 'test', 'folds', 'seconds', 'unusable', 'model', 'report'}
    assert v['classes'] == ['chihuahua', 'muffin'] and v['folds'] is None
    rate(v['valid']); rate(v['test'])
    table = {o['file']: o for o in rows(tmp_path/'model')}
    assert set(table) == set(made) | {f'{p.parent.name}/{p.name}' for p in drawn.rglob('*.jpg')}
    for f, o in table.items():
        if f in bad:
            assert o['status'] == 'unreadable' and made[f].reason in o['reason'], (f, o)
            assert r.lines.count(f'{show_name(folder/f)}: {o["reason"]}; left out') == 1, f
        else: assert o['status'] == 'ok' and not o['reason'] and o['split'] and o['sha256'], (f, o)
    # libtiff's own decoder of JPEG writes past Python
    assert len([o for o in r.lines if not o.startswith('JPEGLib: ')]) == len(bad)


def empty(p): (p/'d').mkdir()
def a_file(p): (p/'d').write_bytes(b'x')
def nothing(p): pass
def one_class(p): noisy(p/'d', 20, classes=('a',))
def two_pictures(p): noisy(p/'d', 2)
def some(p): noisy(p/'d', 20)


def flat(p):
    (p/'d').mkdir()
    for f in noisy(p/'n', 6).rglob('*.png'): shutil.copy(f, p/'d'/f'{f.parent.name}_{f.name}')


def loose(p):
    (p/'d').mkdir()
    for f in noisy(p/'n', 6).rglob('*.png'): shutil.copy(f, p/'d')


def bad_row(p):
    some(p)
    (p/'d/manifest.csv').write_text('file,label,split\na/0000.png,a,train\nb/0001.png,b,learn\n')


def outside(p):
    some(p)
    (p/'d/manifest.csv').write_text('file,label\n../secret.png,a\n')


def short_row(p):
    some(p)
    (p/'d/manifest.csv').write_text('file,label\na/0000.png\n')


@pytest.mark.parametrize('make, options, words', [
    (nothing, '', ['no such folder']), (a_file, '', ['a file', 'folder']), (empty, '', ['no pictures', 'folder per class']), (loose, '', ['no pictures', '--label-re']),
    (one_class, '', ['class', 'two']), (two_pictures, '', ["'a'", 'Add pictures']), (flat, '--label-re=^a_', ['label_re', 'group']), (flat, '--label-re=^(zz)_', ['none of 6', 'label_re']),
    (flat, '--label-re=^(a', ['not a regular expression']), (some, '--backbone=resnet99', ['resnet99', 'efficientnet_lite0']), (bad_row, '', ['manifest.csv, row 3', 'learn']),
    (outside, '', ['manifest.csv, row 2', 'outside']), (short_row, '', ['manifest.csv, row 2']), (some, '--folds=1', ['1 folds', 'at least 2']),
    (some, '--error=2', ['--error 2', 'between 0 and 1']), (some, '--answered=0', ['--answered 0', 'between 0 and 1']), (some, '--error=.1 --answered=.9', ['--error', '--answered', 'one'])],
    ids=['missing', 'file', 'empty', 'no_class_folders', 'one_class', 'two_pictures', 're_no_group', 're_no_match', 're_broken', 'backbone', 'split', 'outside', 'short_row', 'one_fold', 'error', 'answered', 'two_thresholds'])
def test_train_refuses(run, tmp_path, make, options, words):
    make(tmp_path)
    refused(run('train', tmp_path/'d', '-o', tmp_path/'out/model', *options.split()), *words)
    assert not (tmp_path/'out').exists()


def test_train_refuses_a_folder_without_a_usable_picture(run, tmp_path):
    for c in 'ab':
        (tmp_path/'d'/c).mkdir(parents=True)
        (tmp_path/'d'/c/'1.jpg').write_text('Forbidden')
    r = run('train', tmp_path/'d', '-o', tmp_path/'model')
    assert r.code == 2 and r.out == '' and not (tmp_path/'model').exists()
    # each file is named with its reason, then one line says that this was all
    assert [o for o in r.lines if not o.endswith('; left out')] == r.lines[-1:] and len(r.lines) == 3 and 'no usable picture' in r.lines[-1]


def test_train_refuses_a_folder_that_holds_something_else_before_it_works(run, tmp_path, own_cache):
    some(tmp_path)
    (tmp_path/'out').mkdir()
    (tmp_path/'out/thesis.txt').write_text('all of it')
    before = snapshot(tmp_path/'out')
    refused(run('train', tmp_path/'d', '-o', tmp_path/'out'), 'not a bundle')
    assert snapshot(tmp_path/'out') == before
    assert not (own_cache/'features').exists()


@pytest.mark.parametrize('option, words', [('--epochs=0', '--epochs'), ('--rate=3', '--rate'), ('--folds=x', 'folds'), ('--fit=magic', 'probe')])
def test_train_refuses_bad_options(run, tmp_path, option, words):
    r = run('train', tmp_path, '-o', tmp_path/'m', option)
    assert r.code == 2 and words in r.err and 'Traceback' not in r.err


@pytest.fixture(scope='module')
def tree(drawn, tmp_path_factory):
    "train, valid and test folders of 12, 5 and 3 pictures a class."
    path = tmp_path_factory.mktemp('tree')/'pictures'
    for c in drawn.iterdir():
        for i, f in enumerate(sorted(c.iterdir())):
            to = path/('train' if i < 12 else 'validation' if i < 17 else 'test')/c.name
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(f, to)
    return path


def test_train_respects_the_splits_of_folders(run, tree, tmp_path):
    from lookalikes.predictions import Predictions
    v = result(run('train', tree, '-o', tmp_path/'m', '--json'))
    rate(v['valid'], 10); rate(v['test'], 6)
    want = {'train': 'train', 'validation': 'valid', 'test': 'test'}
    assert all(o['split'] == want[o['file'].split('/')[0]] for o in rows(tmp_path/'m'))
    judged = Predictions.load(tmp_path/'m/predictions.parquet').where(split='test')
    assert sorted(judged.df.file) == sorted(p.relative_to(tree).as_posix() for p in (tree/'test').rglob('*.jpg'))
    assert judged.errors.to_dict() == v['test'] == json.loads((tmp_path/'m/bundle.json').read_text())['metrics']['test']


def test_train_without_a_test_folder_judges_the_valid_one(run, tree, tmp_path):
    shutil.copytree(tree, tmp_path/'d', ignore=shutil.ignore_patterns('test'))
    v = result(run('train', tmp_path/'d', '-o', tmp_path/'m', '--json'))
    assert v['test'] is None
    rate(v['valid'], 10)


def manifest(folder, split):
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*.jpg'))
    (folder/'manifest.csv').write_text('file,label,split\n' + ''.join(f'{f},{f.split("/")[0]},{split(f)}\n' for f in files))
    return files


def test_train_respects_the_splits_of_a_manifest(run, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path/'d')
    manifest(tmp_path/'d', lambda f: 'test' if re.search('_000[1-7]', f) else 'train')
    v = result(run('train', tmp_path/'d', '-o', tmp_path/'m', '--json'))
    assert v['valid'] is None
    rate(v['test'], 14)
    assert all(o['split'] == ('test' if re.search('_000[1-7]', o['file']) else 'train') for o in rows(tmp_path/'m'))


def test_train_never_learns_from_a_test_set_that_was_given(run, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path/'d')
    manifest(tmp_path/'d', lambda f: 'test' if re.search('_000[1-7]', f) else '')
    refused(run('train', tmp_path/'d', '-o', tmp_path/'m'), 'train', 'test')


def test_train_takes_labels_from_names_and_cross_validates(run, drawn, tmp_path):
    (tmp_path/'d').mkdir()
    for f in drawn.rglob('*.jpg'): shutil.copy(f, tmp_path/'d')
    v = result(run('train', tmp_path/'d', '-o', tmp_path/'m', '--label-re', r'^(.+)_\d+\.jpg$', '--folds', '4', '--json'))
    assert v['classes'] == ['chihuahua', 'muffin']
    rate(v['folds'], 40)


def test_same_seed_same_result(run, drawn, tmp_path):
    def once(name, seed):
        v = result(run('train', drawn, '-o', tmp_path/name, '--seed', seed, '--json'))
        del v['seconds'], v['model'], v['report']
        return v, (tmp_path/name/'bundle.json').read_bytes(), [(o['file'], o['split']) for o in rows(tmp_path/name)]
    a = once('a', '7')
    assert once('b', '7') == a
    assert once('c', '8')[2] != a[2]


def test_a_model_that_knows_its_limits(run, drawn, tmp_path):
    "A threshold and a limit for strangers, from validation pictures; it abstains by both, and says so everywhere."
    r = run('train', drawn, '-o', tmp_path/'m', '--answered', '.5', '--json')
    cal = result(r)['calibration']
    assert cal['temperature'] > 0 and .5 <= cal['threshold'] <= 1 and cal['stranger'] > 0 and cal['coverage'] == .9 and cal['measured']['pictures'] == 8
    # beside the network, so that whoever has the bundle has them
    kept = json.loads((tmp_path/'m/bundle.json').read_text())
    assert kept['calibration'] == cal and 'neighbours.npy' in kept['parts']
    text = (tmp_path/'m/report.html').read_text()
    assert 'temperature' in text and 'label sets' in text and 'How sure, and how often right?' in text
    noisy(tmp_path/'noise', 2)
    strange = result(run('predict', tmp_path/'m', *sorted((tmp_path/'noise').rglob('*.png')), '--json'))
    assert {o['why'] for o in strange} == {'unlike what it learnt from'} and all(o['abstained'] for o in strange)
    assert 'unlike what it learnt from' in run('predict', tmp_path/'m', *sorted((tmp_path/'noise').rglob('*.png'))).out
    all_of_them = sorted(drawn.rglob('*.jpg'))
    said = result(run('predict', tmp_path/'m', *all_of_them, '--json'))
    v = result(run('evaluate', tmp_path/'m', drawn, '--json'))
    assert v['n'] == 40 and v['answered']['n'] == sum(not o['abstained'] for o in said) < 40


def test_a_promise_that_cannot_be_made(run, drawn, tmp_path):
    "With eight validation pictures nobody can promise one error in a hundred: it says so, and makes none."
    r = run('train', drawn, '-o', tmp_path/'m', '--error', '.01', '--json')
    assert result(r)['calibration']['threshold'] == 0
    assert sum('no threshold shows an error of at most 1.0%' in o for o in r.lines) == 1
    assert 'no threshold shows' in (tmp_path/'m/report.html').read_text()


def test_without_validation_pictures_it_calibrates_on_held_out_ones(run, drawn, tmp_path):
    for i, f in enumerate(sorted(drawn.rglob('*.jpg'))):
        to = tmp_path/'d'/('test' if i % 4 == 0 else 'train')/f.parent.name
        to.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, to)
    cal = result(run('train', tmp_path/'d', '-o', tmp_path/'m', '--json'))['calibration']
    assert cal['measured']['pictures'] == 30 and cal['measured']['rows'] == 'held out' and cal['stranger'] > 0


def test_odd_names_of_classes(run, drawn, tmp_path):
    for old, new in zip(('chihuahua', 'muffin'), (r'US$ \frac$', '猫')): shutil.copytree(drawn/old, tmp_path/'d'/new)
    r = run('train', tmp_path/'d', '-o', tmp_path/'m', '--json', '-q')
    assert result(r)['classes'] == [r'US$ \frac$', '猫'] and r.err == '', r.err


def test_train_replaces_a_bundle(run, drawn, tmp_path):
    for seed in '12': result(run('train', drawn, '-o', tmp_path/'m', '--seed', seed, '--json'))
    assert sorted(o.name for o in tmp_path.iterdir()) == ['m']


def test_text_says_where_model_and_report_are(run, drawn, tmp_path):
    r = run('train', drawn, '-o', tmp_path/'m', '-q')
    assert r.code == 0 and r.err == ''
    assert 'test: ' in r.out and str(tmp_path/'m') in r.out and str(tmp_path/'m/report.html') in r.out and (tmp_path/'m/report.html').is_file()


@posix
def test_a_bar_on_a_terminal_and_none_in_a_pipe(run, drawn, tmp_path, own_cache):
    r = run('train', drawn, '-o', tmp_path/'m', '--json')
    assert r.err == '' and result(r)
    shutil.rmtree(own_cache/'features')
    import fcntl, pty, struct, termios
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    p = subprocess.Popen(**shell('train', drawn, '-o', tmp_path/'m', '--json', stdout=subprocess.PIPE, stderr=theirs))
    os.close(theirs)
    seen = b''
    while True:
        try: data = os.read(ours, 4096)
        except OSError: break
        if not data: break
        seen += data
    out = p.stdout.read()
    assert p.wait() == 0 and json.loads(out)['n'] == 40
    assert b'embedding with efficientnet_lite0' in seen and b'\r' in seen


# evaluate and predict

def test_evaluate(run, bundle, drawn):
    v = result(run('evaluate', bundle, drawn, '--json'))
    assert {k for k in v if k in RATE} == RATE and v['n'] == 40 and v['unusable'] == 0 and v['unknown_labels'] == []
    assert set(v['per_class']) == {'chihuahua', 'muffin'}
    for o in v['per_class'].values(): rate(o, 20)
    assert sum(o['errors'] for o in v['per_class'].values()) == v['errors']
    assert 'accuracy' in run('evaluate', bundle, drawn).out


def test_evaluate_names_what_it_leaves_out(run, bundle, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path/'d')
    (tmp_path/'d/muffin/broken.jpg').write_text('Forbidden')
    noisy(tmp_path/'d', 3, classes=('wolf',))
    r = run('evaluate', bundle, tmp_path/'d', '--json')
    v = json.loads(r.out)
    assert v['n'] == 40 and v['unusable'] == 1 and v['unknown_labels'] == ['wolf'] and r.code in (0, 1)
    assert len(r.lines) == 2 and 'wolf' in r.lines[0] and 'broken.jpg: ' in r.lines[1]
    assert len(run('evaluate', bundle, tmp_path/'d', '-q').lines) == 1


def test_evaluate_refuses_what_it_cannot_judge(run, bundle, tmp_path):
    refused(run('evaluate', bundle, noisy(tmp_path/'d', 4)), 'no picture has a label that the model knows', 'muffin', 'a, b')
    refused(run('evaluate', bundle, tmp_path/'missing'), 'no such folder')


def test_predict(run, bundle, drawn, tmp_path):
    files = sorted(drawn.rglob('*.jpg'))[:12]
    v = result(run('predict', bundle, *files, '--json'))
    assert [o['file'] for o in v] == [str(f) for f in files]
    for o in v:
        assert set(o) == {'file', 'label', 'confidence', 'abstained', 'why', 'labels', 'strangeness', 'probabilities', 'error'} and o['error'] is None
        assert o['abstained'] is False and o['why'] is o['labels'] is o['strangeness'] is None      # nobody has calibrated this one
        assert abs(sum(o['probabilities'].values()) - 1) < 1e-5 and max(o['probabilities'], key=o['probabilities'].get) == o['label']
        assert o['confidence'] == o['probabilities'][o['label']]
    (tmp_path/'broken.jpg').write_text('Forbidden')
    r = run('predict', bundle, files[0], tmp_path/'broken.jpg', tmp_path/'missing.jpg', files[1], '--json')
    v = result(r, 1)
    assert [o['error'] is None for o in v] == [True, False, False, True] and v[1]['label'] is None
    assert len(r.lines) == 2 and 'broken.jpg' in r.lines[0] and 'missing.jpg' in r.lines[1]
    assert run('predict', bundle, tmp_path/'missing.jpg').code == 1


ODD = ['new\nline.jpg', '-rf.jpg', '--json', '\N{CAT FACE} 猫.jpg', 'a\x1b[31mb.jpg', ' two  spaces .jpg'] + [os.fsdecode(b'latin-\xe9\xff.jpg')]*(os.name == 'posix')


@pytest.mark.skipif(os.name == 'nt', reason='names that Windows cannot hold')
def test_predict_odd_names(bundle, drawn, tmp_path):
    for f in ODD: shutil.copy(drawn/'muffin/muffin_0001.jpg', tmp_path/f)
    for env in {}, {'PYTHONIOENCODING': 'ascii'}:
        kw = dict(cwd=tmp_path, env=os.environ | env, capture_output=True)
        r = subprocess.run(**shell('predict', bundle, '--json', '--', *ODD, **kw))
        assert r.returncode == 0 and not r.stderr, r.stderr
        assert [o['file'] for o in json.loads(r.stdout.decode('utf-8', 'surrogateescape'))] == ODD
    r = subprocess.run(**shell('predict', bundle, '--', *ODD, **kw))
    assert r.returncode == 0 and not r.stderr, r.stderr
    lines = r.stdout.decode().splitlines()
    assert len(lines) == len(ODD) and all(re.search(r': \w+ \(\d+\.\d%', o) and o.isprintable() for o in lines)


@pytest.mark.parametrize('command', ['evaluate', 'predict'])
def test_a_bundle_that_is_missing_or_tampered_with(run, bundle, drawn, tmp_path, command):
    what = drawn if command == 'evaluate' else drawn/'muffin/muffin_0001.jpg'
    refused(run(command, tmp_path/'none', what), 'none', 'train')
    shutil.copytree(bundle, tmp_path/'m')
    with open(tmp_path/'m/head.safetensors', 'r+b') as f: f.seek(-1, 2); f.write(b'\x7f')
    refused(run(command, tmp_path/'m', what), 'head.safetensors', 'changed or damaged')
    (tmp_path/'m/head.safetensors').unlink()
    refused(run(command, tmp_path/'m', what), 'head.safetensors is missing')


@posix
def test_a_reader_that_has_seen_enough(bundle, drawn):
    p = subprocess.Popen(**shell('predict', bundle, *sorted(drawn.rglob('*.jpg'))*5, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    p.stdout.readline()
    p.stdout.close()
    assert p.stderr.read() == b'' and p.wait() in (0, 1)


# Interruptions

# A job that a shell started in the background ignores Ctrl-C, and so do its children: a test run from there must say otherwise.
SLOW = '''import signal, time, lookalikes.backbone as b
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
real = b.runner
def slow(*a):
    run, seen = real(*a), []
    def wait(x):
        seen.append(x); time.sleep(.1)
        if len(seen) >= 6: Path('began').touch()
        return run(x)
    return wait
b.runner = slow
from lookalikes.cli import main; main()'''


def wait_for(p, file, seconds=120):
    end = time.monotonic() + seconds
    while not file.exists():
        assert p.poll() is None, f'ended too early: {p.stderr.read()}'
        assert time.monotonic() < end
        time.sleep(.02)


@pytest.fixture
def counted(monkeypatch):
    "How many pictures went through the network."
    import lookalikes.backbone as b
    seen, real = [], b.runner

    def counting(*args):
        run = real(*args)
        return lambda x: seen.append(len(x)) or run(x)
    monkeypatch.setattr(b, 'runner', counting)
    return lambda: sum(seen)


def kept(own_cache):
    import sqlite3
    file, = (own_cache/'features').glob('*.sqlite')
    with sqlite3.connect(file) as db: return db.execute('select count(*) from features').fetchone()[0]


@posix
def test_ctrl_c_keeps_what_was_finished(run, tmp_path, own_cache, counted, bundle):
    noisy(tmp_path/'d', 240)
    p = subprocess.Popen(**shell('train', tmp_path/'d', '-o', tmp_path/'m', code=SLOW, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    wait_for(p, tmp_path/'began')
    start = time.monotonic()
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert time.monotonic() - start < 20
    assert p.returncode == 130 and out == '', (p.returncode, err)
    assert len(err.splitlines()) == 1 and err.startswith('lookalikes: stopped') and 'Traceback' not in err, err
    assert not [o.name for o in tmp_path.iterdir() if o.name not in ('d', 'cache', 'began')]
    had = kept(own_cache)
    assert 0 < had < 240
    assert result(run('train', tmp_path/'d', '-o', tmp_path/'m', '--json'))['n'] == 240
    assert counted() == 240 - had


def train_and_kill(folder, out, seed):
    "Train in child processes and kill each at a random moment; print whether the model was there afterwards. For a process of its own."
    import lookalikes.predictions  # noqa: F401 - what children need is loaded once, before they part
    import lookalikes.report  # noqa: F401
    import onnxruntime, sklearn.linear_model, matplotlib.figure, safetensors.numpy, onnx.compose, pyarrow.parquet  # noqa: F401
    from lookalikes.classifier import Classifier
    out, rng, states, whole = Path(out), random.Random(seed), [], None
    cache = Path(os.environ['LOOKALIKES_CACHE'])/'features'
    n = 6 if WHOLE else 3
    for i in range(n):
        if i % 2: shutil.rmtree(out, ignore_errors=True)
        if i < 2*n//3: shutil.rmtree(cache, ignore_errors=True)
        start, pid = time.monotonic(), os.fork()
        if not pid:
            try: main(['train', folder, '-o', str(out), '-q'])
            except SystemExit as e: os._exit(e.code or 0)
        if whole is None:
            assert os.waitpid(pid, 0)[1] == 0
            whole = time.monotonic() - start
        else:
            time.sleep(rng.uniform(.1, 1)*whole)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if out.exists(): Classifier.load(out)
        states.append(out.exists())
    print(json.dumps(states))


@posix
def test_kill_at_any_moment(run, tmp_path, own_cache, counted, bundle):
    noisy(tmp_path/'d', 40)
    r = subprocess.run(**shell(tmp_path/'d', tmp_path/'m', code='import sys, test_cli; test_cli.train_and_kill(*sys.argv[1:], 5)', capture_output=True, text=True, timeout=120,
                               env=os.environ | {'PYTHONPATH': os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')])}))
    assert r.returncode == 0, r.stderr
    assert json.loads(r.stdout.splitlines()[-1])[0] is True
    r = run('train', tmp_path/'d', '-o', tmp_path/'m', '--json')
    assert result(r)['n'] == 40 and r.err == '' and kept(own_cache) == 40
    assert sorted(o.name for o in tmp_path.iterdir() if not o.name.startswith('.m.')) == ['cache', 'd', 'm']
    before = counted()
    result(run('train', tmp_path/'d', '-o', tmp_path/'m', '--json'))
    assert counted() == before


def again(bundle, classes):
    "The network of a bundle, to be written once more."
    from lookalikes.classifier import Classifier, Exported, Network
    return Exported([Network((bundle/'model.onnx').read_bytes(), Classifier.load(bundle).prep, {'w': np.zeros(3)})], classes, {})


@pytest.mark.parametrize('at', [1, 2])
def test_stopped_while_replacing_keeps_the_old_bundle(bundle, tmp_path, monkeypatch, at):
    import lookalikes.classifier as c
    shutil.copytree(bundle, tmp_path/'m')
    before, real, calls = snapshot(tmp_path), os.replace, []

    def replace(a, b):
        calls.append(a)
        if len(calls) == at: raise KeyboardInterrupt
        real(a, b)
    with monkeypatch.context() as m:
        m.setattr(c.os, 'replace', replace)
        with pytest.raises(KeyboardInterrupt):
            c.write_bundle(tmp_path/'m', again(bundle, ['a', 'b']))
    assert snapshot(tmp_path) == before


def test_what_a_killed_run_left_behind_is_no_obstacle(bundle, tmp_path):
    "In a container every run may have the same process id."
    from lookalikes.classifier import Classifier, write_bundle
    for name in 'new', 'old': shutil.copytree(bundle, tmp_path/f'.m.{os.getpid()}.{name}')
    for _ in range(2): write_bundle(tmp_path/'m', again(bundle, ['chihuahua', 'muffin']))
    assert [o.name for o in tmp_path.iterdir()] == ['m'] and Classifier.load(tmp_path/'m').classes == ['chihuahua', 'muffin']


# The rest

def test_version_and_help(run):
    from lookalikes import __version__
    assert run('--version').out == f'lookalikes {__version__}\n'
    r = run('--help')
    assert r.code == 0 and r.err == '' and all(re.search(rf'^  {c}\b', r.out, re.M) for c in COMMANDS)
    for c in COMMANDS:
        r = run(c, '--help')
        assert r.code == 0 and r.err == '' and r.out.startswith(f'Usage: lookalikes {c} ') and '--json' in r.out
    assert run('fly').code == 2 and 'Usage' in run().out + run().err


def test_draw(run, tmp_path):
    v = result(run('draw', 'paintings', tmp_path/'d', '-n', '2', '--size', '48', '--json'))
    assert set(v) >= {'n', 'classes', 'path'} and v['n'] == 2*len(v['classes']) == len(list(tmp_path.rglob('*.jpg')))
    refused(run('draw', 'castles', tmp_path/'e'), 'castles')
    assert not (tmp_path/'e').exists()


def test_demo(cache, bundle, tmp_path):
    start = worked()
    r = subprocess.run(**shell('demo', '--out', tmp_path/'demo', '--json', capture_output=True, text=True))
    assert r.returncode == 0 and worked() - start < 2*60, r.stderr      # a minute of two cores that do nothing else
    v = json.loads(r.stdout)
    assert set(v) >= {'lesson', 'n', 'classes', 'test', 'seconds', 'report', 'audit', 'issues', 'bundle'} and v['n'] > 58*len(v['classes']) and v['lesson'] == 'chihuahua_or_muffin'
    assert v['issues']['unreadable'] == 3 and v['issues']['exact_copy'] >= 8 and Path(v['audit']).is_file()
    rate(v['test']); rate(v['folds'], v['n'])
    assert Path(v['report']).is_file() and (Path(v['bundle'])/'bundle.json').is_file()
    assert all(o.endswith('...') for o in r.stderr.splitlines())
