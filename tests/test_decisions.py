"Decisions about pictures: the journal, the plan, carrying out and taking back, and a kill at every step of the way."
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from conftest import WHOLE
from PIL import Image

from lookalikes.decisions import ASIDE, JOURNAL, Decisions, fingerprint, quarantine, relabel, restore
from lookalikes.imageset import MANIFEST, ImageSet

posix = pytest.mark.skipif(os.name != 'posix', reason='needs fork and signals')


def fill(path, n=8, classes=('cat', 'dog'), manifest=False):
    "A folder per class of small pictures, none like another, older than now."
    for k, label in enumerate(classes):
        (path/label).mkdir(parents=True)
        for i in range(n):
            file = path/label/f'{i:03}.png'
            Image.new('RGB', (4, 4), (k, i, i*7 % 256)).save(file)
            os.utime(file, ns=(10**18+i, 10**18+i))
    images = ImageSet.from_folder(path)
    if manifest: images.save()
    return images


@pytest.fixture(params=[False, True], ids=['folder', 'manifest'])
def images(request, tmp_path): return fill(tmp_path/'pets', manifest=request.param)


def names(path): return {p.relative_to(path).as_posix() for p in path.rglob('*')} - {JOURNAL}


def snapshot(path):
    "Every file but the journal: its bytes, and when it was changed."
    return {n: ((path/n).read_bytes(), (path/n).stat().st_mtime_ns) for n in names(path) if (path/n).is_file()}


def pictures(path): return {k: v for k, v in snapshot(path).items() if k != '.manifest.lock'}  # one that dies before it began leaves its lock


def row(path, file):
    df = ImageSet.load(path).df.set_index('file')
    return tuple(df.loc[file, ['label', 'status', 'reason']])


# The journal

def test_state_follows_from_the_journal(images):
    d = Decisions(images)
    d.decide('cat/000.png', 'keep', kind='dark')
    d.decide('cat/001.png', 'relabel', label=' dog ')
    d.decide('cat/001.png', 'quarantine', kind='label', reason='neither')
    assert [d.of(f'cat/00{i}.png') and d.of(f'cat/00{i}.png').action for i in range(3)] == ['keep', 'quarantine', None]
    assert d.undo().action == 'quarantine' and d.of('cat/001.png').label == 'dog'
    assert d.redo().action == 'quarantine' and d.of('cat/001.png').action == 'quarantine' and d.redo() is None
    d.decide('cat/001.png', 'clear')
    assert d.of('cat/001.png') is None and d.undo().action == 'clear' and d.of('cat/001.png').action == 'quarantine'
    d.decide('dog/000.png', 'keep')
    assert d.redo() is None   # a new decision ends what could be redone
    again = Decisions(images)
    assert again.table.equals(d.table) and len(again) == 3 and '1 to quarantine' in repr(again)
    while again.undo(): pass
    assert len(again) == len(Decisions(images)) == 0 and again.undo() is None
    lines = [json.loads(o) for o in (images.path/JOURNAL).read_text().splitlines()]
    assert {'file', 'sha256', 'kind', 'action', 'label', 'when'} <= set(lines[0]) and lines[0]['sha256'] == hashlib.sha256((images.path/'cat/000.png').read_bytes()).hexdigest()


def test_torn_and_foreign_lines(images):
    d = Decisions(images).decide(images.df.file[:3], 'keep')
    with open(images.path/JOURNAL, 'ab') as f: f.write(b'not json\n[1]\n7\n{"action": "dance"}\n\xff\n{"action": "keep", "fi')
    assert len(Decisions(images)) == 3
    d.decide('dog/001.png', 'keep')
    assert len(d) == len(Decisions(images)) == 4
    (images.path/JOURNAL).unlink()   # somebody starts afresh
    assert d.decide('dog/002.png', 'keep') and len(d) == 1


def test_two_at_once(images):
    a, b = Decisions(images), Decisions(images)
    a.decide('cat/000.png', 'keep')
    b.decide('cat/001.png', 'quarantine')
    assert len(a.decide('dog/000.png', 'keep')) == 3 and a.table.equals(Decisions(images).table)
    b.undo()
    assert Decisions(images).of('dog/000.png') is None   # the last one, whoever took it


def test_many_processes_write_one_journal(tmp_path):
    images = fill(tmp_path/'pets')
    code = ("import sys\nfrom lookalikes.decisions import Decisions\nfrom lookalikes.imageset import ImageSet\nimages = ImageSet.from_folder(sys.argv[1])\nd = Decisions(images)\n"
            "for f in images.df.file: d.decide(f, 'keep', kind=sys.argv[2], reason='x'*3000)")
    ps = [subprocess.Popen([sys.executable, '-c', code, str(images.path), f'kind {k}']) for k in range(2)]
    assert [p.wait(60) for p in ps] == [0, 0]
    d = Decisions(images)
    assert len(d.done) == 2*len(images) and all(d.fine(f, f'kind {k}') for f in images.df.file for k in range(2))


def test_fine_is_by_content_and_kind(images):
    import pandas as pd
    d = Decisions(images).decide('cat/000.png', 'keep', kind='dark,near copy')
    d.decide('cat/001.png', 'keep')   # fine in every way
    issues = pd.DataFrame([(f'cat/00{i}.png', k, .5) for i in range(3) for k in ('dark', 'blurred', 'near copy')]+[('gone/x.png', 'dark', .1)], columns=['file', 'kind', 'score'])
    left = Decisions(images).remaining(issues)
    assert [*zip(left.file, left.kind)] == [('cat/000.png', 'blurred')]+[('cat/002.png', k) for k in ('dark', 'blurred', 'near copy')]+[('gone/x.png', 'dark')]
    d.decide('cat/000.png', 'relabel', label='dog')
    assert d.fine('cat/000.png', 'dark')   # the wrong label was another question
    old = (images.path/'cat/000.png').read_bytes()
    (images.path/'cat/000.png').write_bytes(old[:-12]+b'\0'*12)   # same size
    assert not d.fine('cat/000.png', 'dark') and d.of('cat/000.png') is None and not Decisions(images).fine('cat/000.png', 'near copy')
    (images.path/'cat/000.png').write_bytes(old)                  # other times, same content
    assert d.fine('cat/000.png', 'dark') and d.of('cat/000.png').label == 'dog'
    assert len(d.remaining(issues.head(0))) == 0


def test_what_was_seen_is_what_counts(images):
    "A picture replaced between looking and deciding was never looked at."
    seen = fingerprint(images.paths[0])
    time.sleep(.01)
    images.paths[0].write_bytes(images.paths[1].read_bytes())
    assert Decisions(images).decide(images.df.file[0], 'quarantine', seen=seen).of(images.df.file[0]) is None


# Carrying out and taking back

def test_apply_and_back(images):
    path, before = images.path, snapshot(images.path)
    d = Decisions(images).decide(['cat/000.png', 'cat/003.png'], 'quarantine', reason='blurred')
    d.decide('dog/002.png', 'relabel', label='cat')
    d.decide('dog/003.png', 'keep')
    plan = d.plan()
    assert snapshot(path) == before and len(plan) == 3 and not any(plan.problem)
    assert dict(zip(plan.file, plan.moves_to)) == {'cat/000.png': f'{ASIDE}/cat/000.png', 'cat/003.png': f'{ASIDE}/cat/003.png', 'dog/002.png': ''}
    new = d.apply()
    assert new == ImageSet.load(path) and row(path, 'cat/000.png') == ('cat', 'quarantined', 'blurred') and row(path, 'dog/002.png') == ('cat', 'ok', '')
    after = snapshot(path)
    for f in 'cat/000.png', 'cat/003.png': assert f not in after and after[f'{ASIDE}/{f}'] == before[f]
    assert ('dog/002.png' in after) and len(d.plan()) == 0 and d.undo() is None   # what is applied is not undone one by one
    assert d.apply() == new and snapshot(path) == after   # nothing pending, nothing done
    assert ImageSet.from_folder(path) == new
    back = Decisions(ImageSet.from_folder(path)).undo_apply()
    assert snapshot(path) == before and names(path) == names(path) & {*before, 'cat', 'dog'}
    assert back.df.equals(ImageSet.from_folder(path).df)
    d = Decisions(back)
    assert len(d) == 4 and len(d.plan()) == 3   # the judgements are still there, to be thought over
    with pytest.raises(ValueError, match='nothing has been applied'): d.undo_apply()


def test_a_stack_of_applies(images):
    path, seen = images.path, [snapshot(images.path)]
    d = Decisions(images)
    for step in (lambda: d.decide('cat/000.png', 'quarantine', reason='dark'), lambda: d.decide(['cat/001.png', 'dog/001.png'], 'relabel', label='bird'),
                 lambda: d.decide('cat/000.png', 'restore').decide('dog/000.png', 'quarantine'), lambda: d.decide('cat/001.png', 'quarantine')):
        step()
        d.apply()
        seen.append(snapshot(path))
    assert row(path, 'cat/000.png') == ('cat', 'ok', '') and row(path, 'cat/001.png')[:2] == ('bird', 'quarantined')
    assert {'.quarantine/cat/000.png', '.quarantine/dog/000.png'} & set(seen[-1]) == {'.quarantine/dog/000.png'}
    for k in (3, 2, 1, 0):
        assert Decisions(ImageSet.from_folder(path)).undo_apply().df.equals(ImageSet.from_folder(path).df)
        assert snapshot(path) == seen[k]
    assert not (path/ASIDE).exists()


def test_other_hands(images):
    "What somebody else writes into the manifest stays, and so does what is not saved yet."
    path = images.path
    images.save()
    d = Decisions(images.split(seed=1))
    split = d.images.df.split.copy()
    d.decide('cat/000.png', 'quarantine').decide('cat/001.png', 'relabel', label='dog')
    theirs = ImageSet.load(path)
    theirs.df.loc[theirs.df.file == 'dog/005.png', ['label', 'creator']] = 'wolf', 'Ann'
    ImageSet(theirs.df.assign(note='n'), path).save()
    new = d.apply()
    assert (new.df.split == split).all() and dict(zip(new.df.file, new.df.label))['dog/005.png'] == 'wolf'
    saved = ImageSet.load(path).df
    assert row(path, 'dog/005.png')[0] == 'wolf' and set(saved.note) == {'n'} and set(saved.split) == {''} and row(path, 'cat/000.png')[1] == 'quarantined'
    theirs = ImageSet.load(path)
    theirs.df.loc[theirs.df.file.isin(['dog/006.png', 'cat/001.png']), 'label'] = 'fox'
    theirs.save()
    back = d.undo_apply()
    assert row(path, 'dog/006.png')[0] == 'fox' and row(path, 'cat/001.png')[0] == 'fox' and row(path, 'cat/000.png') == ('cat', 'ok', '') and (path/'cat/000.png').exists()
    assert list((path/ASIDE).rglob('*.csv')) and (back.df.split == split).all() and dict(zip(back.df.file, back.df.label))['dog/006.png'] == 'fox'


def test_a_part_of_the_set(images):
    "Deciding about some pictures must not make the manifest forget the others."
    cats = images.where(images.df.label == 'cat')
    new = quarantine(cats, 'cat/000.png', 'dark')
    assert len(new) == len(cats) and len(ImageSet.load(images.path)) == len(images)


def test_manifest_bytes_are_kept(tmp_path):
    "A manifest as a spreadsheet writes it comes back as it was."
    images = fill(tmp_path/'pets')
    text = '\ufefflabel,file,stars\r\n'+''.join(f'"{l}",{f},5\r\n' for l, f in zip(images.df.label, images.df.file))
    (images.path/MANIFEST).write_bytes(text.encode())
    before = snapshot(images.path)
    d = Decisions(ImageSet.load(images.path)).decide('cat/000.png', 'quarantine')
    assert set(d.apply().df.stars) == {'5'} and row(images.path, 'cat/000.png')[1] == 'quarantined'
    d.undo_apply()
    assert snapshot(images.path) == before


def test_strange_names(tmp_path):
    path = tmp_path/'q'
    odd = ["&'.png", 'a,b\u2028c.png', 'ünï.png', ' .png', '-rf.png'] + (['<b>".png', 'x'*200+'.png', 'bad\udcff.png', 'new\nline.png'] if os.name == 'posix' else [])
    (path/'c d').mkdir(parents=True)
    for i, n in enumerate(odd): Image.new('RGB', (3, 3), (i, 0, 0)).save(path/'c d'/n, 'PNG')
    images, before = ImageSet.from_folder(path), snapshot(path)
    new = quarantine(images, images.df.file[1:], 'odd, "very" odd')
    assert len(new.ok) == 1 and len([p for p in (path/ASIDE/'c d').iterdir()]) == len(odd)-1
    Decisions(new).undo_apply()
    assert snapshot(path) == before


# In one call

def test_scripts(images):
    path, before = images.path, snapshot(images.path)
    Decisions(images).decide('dog/007.png', 'quarantine')   # undecided work of somebody else
    a = quarantine(images, images.paths[:2], 'too dark')
    b = relabel(a, {'dog/000.png': 'wolf', 'dog/001.png': 'fox'})
    c = relabel(b, ['dog/002.png', 'dog/003.png'], 'wolf')
    e = restore(c, 'cat/000.png')
    assert Counter(e.df.label[e.df.status == 'ok']) == dict(cat=7, dog=4, wolf=3, fox=1) and e == ImageSet.load(path) and len(images.ok) == 16
    assert (path/'dog/007.png').exists() and Decisions(e).of('dog/007.png').applied == 0
    for _ in range(4): Decisions(ImageSet.from_folder(path)).undo_apply()
    assert snapshot(path) == before and list(Decisions(images).table.file) == ['dog/007.png']


def test_restore_remembers_what_was(tmp_path):
    images = fill(tmp_path/'pets')
    images.paths[0].write_bytes(b'')
    images = images.verify().save()
    assert images.df.status[0] == 'unreadable'
    a = quarantine(images, images.df.file[0], 'broken')
    assert a.df.reason[0] == 'broken' and restore(a, images.df.file[0]).df.equals(images.df)


def test_errors_say_what_to_do(images):
    path, d = images.path, Decisions(images)
    for args, kw, error, words in [
            (('cat/999.png', 'keep'), {}, ValueError, ('cat/999.png', 'such as cat/000.png')), (('cat/000.png', 'burn'), {}, ValueError, ("'burn'", 'quarantine')),
            (('cat/000.png', 'relabel'), dict(label='  '), ValueError, ('empty', 'class')), (('cat/000.png', 'restore'), {}, ValueError, ('cat/000.png', 'not quarantined'))]:
        with pytest.raises(error) as e: d.decide(*args, **kw)
        assert all(w in str(e.value) for w in words), e.value
    assert not (path/JOURNAL).exists()
    a = quarantine(images, 'cat/001.png')
    with pytest.raises(ValueError, match='cat/001.png: already quarantined; restore'): quarantine(a, 'cat/001.png')
    (path/'cat/002.png').rename(path/'elsewhere')
    with pytest.raises(FileNotFoundError, match='cat/002.png: no such file'): quarantine(a, 'cat/002.png')
    (path/'elsewhere').rename(path/'cat/002.png')
    before = snapshot(path)
    (path/ASIDE/'cat/002.png').write_bytes(b'in the way')
    with pytest.raises(FileExistsError, match='nothing is overwritten'): quarantine(a, ['cat/002.png', 'cat/003.png'])
    assert not Decisions(a).plan().size   # a call that failed leaves no decision behind
    (path/ASIDE/'cat/002.png').unlink()
    assert snapshot(path) == before
    d = Decisions(a).decide(['cat/002.png', 'cat/003.png'], 'quarantine')
    (path/'cat/002.png').rename(path/'elsewhere')
    assert ['no such file' in p for p in d.plan().problem] == [True, False]
    with pytest.raises(FileNotFoundError, match="decide\\('cat/002.png', 'clear'\\)"): d.apply()
    (path/'elsewhere').rename(path/'cat/002.png')
    assert snapshot(path) == before
    (path/'cat/001.png').write_bytes(b'a new picture of that name')
    with pytest.raises(FileExistsError, match='cat/001.png: already there'): d.undo_apply()
    (path/'cat/001.png').unlink()
    d.undo_apply()


def test_changed_since(images):
    d = Decisions(images).decide(['cat/000.png', 'cat/001.png'], 'quarantine')
    (images.path/'cat/000.png').write_bytes((images.path/'cat/005.png').read_bytes())
    assert ['changed since' in p for p in d.plan().problem] == [True, False]
    assert list(d.apply().problems.file) == ['cat/001.png'] and (images.path/'cat/000.png').exists()


@posix
def test_no_permission(images):
    if os.geteuid() == 0: pytest.skip('root may write everywhere')
    d = Decisions(images).decide('cat/000.png', 'quarantine')
    (images.path/'cat').chmod(0o500)
    try:
        with pytest.raises(PermissionError, match='no permission to move cat/000.png out of'): d.apply()
    finally: (images.path/'cat').chmod(0o700)
    assert d.apply().df.status[0] == 'quarantined'


@posix
def test_links(tmp_path):
    images = fill(tmp_path/'pets')
    path, other = images.path, tmp_path/'disk'
    other.mkdir()
    (path/'dog').rename(other/'dog')
    (path/'dog').symlink_to(other/'dog')
    (path/'cat/000.png').unlink()
    (path/'cat/000.png').symlink_to('gone.png')
    images, before = ImageSet.from_folder(path), {p: os.readlink(p) if p.is_symlink() else p.read_bytes() for p in (*path.glob('*/*'), *other.rglob('*.png'))}
    new = quarantine(images, ['cat/000.png', 'dog/000.png'])
    assert os.readlink(path/ASIDE/'cat/000.png') == 'gone.png' and (path/ASIDE/'dog/000.png').exists()
    Decisions(new).undo_apply()
    assert before == {p: os.readlink(p) if p.is_symlink() else p.read_bytes() for p in (*path.glob('*/*'), *other.rglob('*.png'))}


def test_another_disk(images, monkeypatch):
    "Where a file cannot be renamed into .quarantine/, its row alone sets it aside."
    import errno
    real = os.rename
    monkeypatch.setattr(os, 'rename', lambda a, b: (_ for _ in ()).throw(OSError(errno.EXDEV, 'cross-device')) if 'dog' in str(a) else real(a, b))
    before = snapshot(images.path)
    new = quarantine(images, ['cat/000.png', 'dog/000.png'])
    assert list(new.problems.file) == ['cat/000.png', 'dog/000.png'] and (images.path/'dog/000.png').exists() and Decisions(new).where('dog/000.png') == images.path/'dog/000.png'
    Decisions(new).undo_apply()
    assert snapshot(images.path) == before


def test_second_apply_waits(images):
    from filelock import FileLock
    d, done = Decisions(images).decide('cat/000.png', 'quarantine'), threading.Event()
    with FileLock(images.path/'.manifest.lock'):
        t = threading.Thread(target=lambda: (d.apply(), done.set()))
        t.start()
        assert not done.wait(.3) and (images.path/'cat/000.png').exists()
    assert done.wait(10) and not (images.path/'cat/000.png').exists()
    t.join()


def test_two_apply_at_once(tmp_path):
    images = fill(tmp_path/'pets')
    code = "import sys\nfrom lookalikes.decisions import Decisions\nfrom lookalikes.imageset import ImageSet\nd = Decisions(ImageSet.from_folder(sys.argv[1]))\nsys.stdin.readline()\nd.apply()"
    Decisions(images).decide(images.df.file[::2], 'quarantine')
    ps = [subprocess.Popen([sys.executable, '-c', code, str(images.path)], stdin=subprocess.PIPE) for _ in range(2)]
    for p in ps: p.stdin.write(b'\n'); p.stdin.flush()
    assert [p.wait(60) for p in ps] == [0, 0]
    for p in ps: p.stdin.close()
    d = Decisions(ImageSet.from_folder(images.path))
    assert len(d.applies) == 1 and len(d.images.problems) == 8 and all(not p.exists() for p in d.images.paths[::2])


# Kills

# Loads the library once, then forks for each command that it reads; a child kills itself at its k-th change of the disk, or is killed after a while.
RUNNER = '''
import json, os, signal, sys, time
import lookalikes.decisions as m
from lookalikes.imageset import ImageSet
def die_at(k):
    left, fsync = [k], os.fsync
    def step():
        left[0] -= 1
        if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(lambda event, args: step() if event in ('os.rename', 'os.link', 'os.remove', 'os.mkdir', 'os.rmdir') else None)   # pathlib, too, whoever it calls
    os.fsync = lambda fd: (step(), fsync(fd))[1]
for line in sys.stdin:
    folder, do, k, delay = json.loads(line)
    pid = os.fork()
    if not pid:
        try:
            d = m.Decisions(ImageSet.from_folder(folder))
            if k: die_at(k)
            getattr(d, do)()
            os._exit(0)
        except BaseException as e:
            print(type(e), e, file=sys.stderr, flush=True)
            os._exit(3)
    if delay:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
'''


@pytest.fixture(scope='module')
def killer():
    p = subprocess.Popen([sys.executable, '-c', RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    def go(folder, do, k=0, delay=0):
        if not (k or delay): return getattr(Decisions(ImageSet.from_folder(folder)), do)() is not None   # undisturbed: no need of a child
        p.stdin.write(json.dumps([str(folder), do, k, delay])+'\n')
        p.stdin.flush()
        code = int(p.stdout.readline())
        assert code in (0, -signal.SIGKILL), code
        return code == 0
    yield go
    p.stdin.close()
    p.wait(20)


def sound(path, originals):
    "What holds at every moment: a table that can be read, a file for every usable row, and each picture exactly once."
    images = ImageSet.from_folder(path)
    for f, s in zip(images.df.file, images.df.status): assert s != 'ok' or (path/f).read_bytes() == originals[f], f
    assert len(images) == len(originals)
    for f, data in originals.items():
        places = [p for p in (path/f, path/ASIDE/f) if p.exists()]
        assert len(places) == 1 and places[0].read_bytes() == data, f


def decided(path, n, manifest):
    images = fill(path, n, manifest=manifest)
    if manifest:   # a first apply, so that the second has something to restore
        images = quarantine(images, ['cat/000.png', 'dog/000.png'], 'dark')
        Decisions(images).decide('cat/000.png', 'restore')
    Decisions(images).decide([f'cat/{i:03}.png' for i in range(1, n, 2)], 'quarantine', reason='blurred').decide(['dog/001.png', 'dog/002.png'], 'relabel', label='cat')
    originals = {f: (path/f if (path/f).exists() else path/ASIDE/f).read_bytes() for f in ImageSet.from_folder(path).df.file}
    return originals, pictures(path)


@posix
@pytest.mark.parametrize('manifest', [False, True], ids=['folder', 'manifest'])
def test_killed_at_every_step(killer, tmp_path, manifest):
    path = tmp_path/'pets'
    originals, before = decided(path, 5, manifest)
    first, k = len(Decisions(ImageSet.from_folder(path)).applies), 0
    while not killer(path, 'apply', k := k+1):
        sound(path, originals)
        if k % 2: assert killer(path, 'apply')   # gone on with, or given up
        d = Decisions(ImageSet.from_folder(path))
        if d.unfinished or len(d.applies) > first: assert killer(path, 'undo_apply')
        assert pictures(path) == before, f'killed at step {k} of apply'
    assert k > 8
    after, steps = pictures(path), k
    k = 0
    while not killer(path, 'undo_apply', k := k+1):
        sound(path, originals)
        d = Decisions(ImageSet.from_folder(path))
        if d.unfinished or len(d.applies) > first: assert killer(path, 'undo_apply')
        assert pictures(path) == before, f'killed at step {k} of undo_apply'
        assert killer(path, 'apply')
        now = pictures(path)
        assert {n: v[0] for n, v in now.items() if '.history' not in n} == {n: v[0] for n, v in after.items() if '.history' not in n}
    assert k > 5 and pictures(path) == before, (steps, k)


@posix
def test_killed_at_any_moment(killer, tmp_path):
    "Some hundred files, and kills by the clock: ten, or at length forty."
    path, rng = tmp_path/'pets', random.Random(0)
    originals, before = decided(path, 150, True)
    start = time.monotonic()
    assert killer(path, 'apply')
    whole, killed = time.monotonic()-start, 0
    after = {n: v[0] for n, v in pictures(path).items() if '.history' not in n}
    for k in range(40 if WHOLE else 10):
        do = 'undo_apply' if k % 2 == 0 else 'apply'
        cut = not killer(path, do, delay=(delay := rng.uniform(.3, 1.1)*whole))
        killed += cut
        if not cut: whole = min(whole, delay)     # the first time it also imported
        sound(path, originals)
        if cut:
            d = Decisions(ImageSet.from_folder(path))
            if d.unfinished or len(d.applies) == (2 if do == 'undo_apply' else 1): assert killer(path, do)
        sound(path, originals)
        if do == 'undo_apply': assert pictures(path) == before
        else: assert {n: v[0] for n, v in pictures(path).items() if '.history' not in n} == after
    assert killed >= (5 if WHOLE else 1)
