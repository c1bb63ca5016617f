"From a recipe to a dataset, and `lookalikes build`, against servers on this machine: a gallery, and one that goes wrong (fault_server.py)."
import csv
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import fault_server
import pandas as pd
import pytest
from conftest import WHOLE
from fault_server import expected, number
from PIL import Image

from lookalikes.gallery import Gallery
from lookalikes.imageset import ImageSet, read_csv
from lookalikes.recipe import Recipe
from lookalikes.search import Hit, Openverse, SearchError, Wikimedia
from lookalikes.web import Limits

posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX processes and signals')
NEAR = Limits(connect=1., read=2., whole=5., wait=.05, max_wait=4., allow_private=True)
TIMES = re.compile(rb'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ')
# What hangs until a limit cuts it off, or takes seconds of a core: other tests meet those. And what no list of addresses may hold.
SLOW = ('never-answers', 'never-accepts', 'length-hang', 'chunked-no-end', 'slow-trickle', 'slow-headers', 'endless-headers', 'large-unsaid', 'endless', 'gzip-bomb')
NO_URL = tuple(f'url-{o}' for o in ('no-host', 'no-url', 'javascript', 'data', 'file', 'ftp'))


def sha(data): return hashlib.sha256(data).hexdigest()


def pictures(folder, start=0, side=96, ending='jpg', **words):
    "As a gallery takes them: `words` to the number of pictures, every one unlike the others."
    out, k = [], start
    folder.mkdir(parents=True, exist_ok=True)
    for w, n in words.items():
        out.append((w,))
        for _ in range(n):
            file = folder/f'photo {k:03}.{ending}'
            file.write_bytes(fault_server.picture(70_000+k, side))
            out[-1] += (file,)
            k += 1
    return out


def write_urls(file, rows, head=('url', 'label')):
    with open(file, 'w', newline='', encoding='utf-8') as f: csv.writer(f).writerows([head, *rows])
    return file


@pytest.fixture
def run(run): return lambda *args: run('build', *args)


def refused(r, *words):
    "Exit status 2 and one line that says what is wrong."
    assert r.code == 2 and r.out == '' and len(r.lines) == 1 and r.lines[0].startswith('lookalikes: '), (r.code, r.out, r.err)
    for w in words: assert w in r.err, (w, r.err)


def snapshot(folder): return {os.fspath(p): p.read_bytes() if p.is_file() else None for p in sorted(Path(folder).rglob('*'))}


def files(folder):
    "Every file of a dataset, by its name, without what the work keeps for itself."
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file() and p.relative_to(folder).parts[0][0] != '.'}


def valid(folder):
    "Check all that a dataset promises, at whatever moment its builder was stopped; how many pictures its table has."
    if not folder.exists(): return 0
    listed = ImageSet.load(folder).df if (folder/'manifest.csv').exists() else None
    if listed is not None:
        for file, digest in zip(listed.file, listed.sha256): assert sha((folder/file).read_bytes()) == digest, file
    for p in folder.iterdir():
        if p.name[0] == '.': continue
        for f in p.iterdir() if p.is_dir() else ():
            assert f.suffix in ('.jpg', '.png', '.gif', '.webp') and sha(f.read_bytes()).startswith(f.stem), f
            with Image.open(f) as im: im.load()
        if p.suffix == '.csv': read_csv(p)
        if p.suffix == '.yaml': Recipe.load(p)
        if p.suffix == '.md': assert p.read_bytes().decode().startswith('# Credits') and p.read_bytes().endswith(b'\n')
    return 0 if listed is None else len(listed)


def comparable(folder):
    "A dataset's files; of its tables what does not hang on the moment, nor on which of two reasons a slow server failed for."
    out, t = files(folder), read_csv(folder/'downloads.csv')
    out['downloads.csv'] = t.drop(columns='reason').to_csv().encode() + '\n'.join(t.reason[t.outcome != 'failed']).encode()
    out['manifest.csv'] = TIMES.sub(b'T', out['manifest.csv'])
    return out


def equal(a, b):
    assert sorted(a) == sorted(b)
    for k in a: assert a[k] == b[k], k


# Fifty kills

COMMAND = 'from lookalikes.cli import main; main()'
# Loads the library once, then runs each command that it reads in a child and process group of its own; the shell does the same, but takes
# two seconds longer for it. A line for the child's number, and a file for its exit status.
RUNNER = '''
import json, os, sys
import lookalikes.build, lookalikes.web
from lookalikes.cli import main
for line in sys.stdin:
    args, out = json.loads(line)
    pid = os.fork()
    if not pid:
        os.setsid()
        for fd, name in (1, '.out'), (2, '.err'): os.dup2(os.open(out+name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), fd)
        code = 3
        try: main(args)
        except SystemExit as e: code = e.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(pid, flush=True)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(out+'.tmp', 'w') as f: f.write(str(code))
    os.rename(out+'.tmp', out)
'''


class Runner:
    "Starts builds, one at a time, and kills them."
    def __init__(self, cwd, notes):
        self.notes, self.n = notes, 0
        notes.mkdir()
        env = os.environ | {k: str(cwd) for k in ('TMPDIR', 'HOME')}  # so that whatever is written outside the dataset is seen
        self.p = subprocess.Popen([sys.executable, '-c', RUNNER], cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def start(self, *args):
        self.n += 1
        self.out, self.code = self.notes/str(self.n), None
        self.p.stdin.write(json.dumps((list(map(str, args)), str(self.out)))+'\n')
        self.p.stdin.flush()
        self.pid, self.since = int(self.p.stdout.readline()), time.monotonic()

    def running(self):
        if self.code is None and self.out.exists(): self.code = int(self.out.read_text())
        return self.code is None

    def wait(self, until, seconds):
        "Wait for `until`, the end, or `seconds` since the start; whether it still runs."
        while self.running() and time.monotonic()-self.since < seconds and not until(): time.sleep(.001)
        return self.running()

    def kill(self):
        "SIGKILL to the whole group; whether that is what ended it."
        try: os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError): pass
        while self.running(): time.sleep(.001)
        assert self.code in (0, -signal.SIGKILL), (self.code, Path(f'{self.out}.err').read_text())
        return self.code != 0

    def close(self):
        self.p.kill()
        self.p.communicate()


@pytest.fixture(scope='module')
def kitchen(tmp_path_factory):
    "A recipe of five classes, the servers that it asks, and the dataset that an undisturbed run of the command makes of it."
    path = tmp_path_factory.mktemp('kitchen')
    shown = pictures(path/'shown', chihuahua=45, muffin=45)
    with Gallery(shown, delay=.03) as gallery, fault_server.spawn(hosts=('127.0.0.1', '127.0.0.2'), delay=.04, prepare=320) as server:
        items = fault_server.urls(server, n=300, seed=5, skip=('ca', 'private', 'robots', 'noai', *SLOW, *NO_URL))
        assert sum(not o.good for o in items) == 100 and len({o.behaviour for o in items if not o.good}) >= 25
        write_urls(path/'list.csv', [(o.url, o.label) for o in items])
        (path/'kitchen.yaml').write_text(f'''
sources: [openverse:{gallery.base}, wikimedia:{gallery.base}, urls:list.csv]
pictures: 100
candidates: 1.5
min_side: 32
classes:
  chihuahua: {{queries: [chihuahua face, tan chihuahua], pictures: 30}}
  muffin: {{queries: [blueberry muffin, muffin on a plate], pictures: 60}}
  cherry: cherry
  plum: plum
  quince: {{queries: quince, pictures: 20}}
''')
        beside, sets = path/'beside', path/'sets'
        beside.mkdir()
        sets.mkdir()
        k = SimpleNamespace(sets=sets, gallery=gallery, server=server, items=items, beside=beside, recipe=path/'kitchen.yaml')
        k.build = lambda name, *more: subprocess.run([sys.executable, '-c', COMMAND, 'build', k.recipe, sets/name, '--json', '--allow-private', *more],
                                                     cwd=beside, env=os.environ | {o: str(beside) for o in ('TMPDIR', 'HOME')}, capture_output=True, text=True, timeout=120)
        r = k.build('whole')
        assert r.returncode == 0, r.stderr
        k.told, k.whole = json.loads(r.stdout), sets/'whole'
        yield k


def test_an_undisturbed_build_keeps_what_it_should(kitchen):
    "The measure of the tests below: every good picture, every bad address with its reason, nothing besides."
    told, images, by_url = kitchen.told, ImageSet.load(kitchen.whole), {Hit(o.url).url: o for o in kitchen.items}
    assert {'found', 'kept', 'failed', 'by_reason', 'seconds'} <= set(told)
    out = read_csv(kitchen.whole/'downloads.csv')
    assert len(out) == told['found'] and Counter(out.outcome) == told['counts'] and told['kept'] == len(images) == told['n'] == valid(kitchen.whole)
    assert sum(told['by_reason'].values()) == told['failed'] and all(out.reason[out.outcome == 'failed'])
    assert Counter(images.df.label)['chihuahua'] == 30 and Counter(images.df.label)['quince'] == 20
    for label in 'cherry', 'plum':
        want = {sha(expected(u)) for u, o in by_url.items() if o.good and o.label == label}
        assert {*images.df.sha256[images.df.label == label]} <= want and not want - {*images.df.sha256}
    for row in out[out.url.isin(list(by_url))].itertuples(): assert row.outcome == 'not needed' or by_url[row.url].good == (row.outcome != 'failed'), row
    assert set(images.df.split) == {'train', 'valid', 'test'}
    assert set(files(kitchen.whole)) == {'manifest.csv', 'downloads.csv', 'searches.csv', 'recipe.yaml', 'CREDITS.md', *images.df.file}
    assert not list((kitchen.whole/'.fetch/store').iterdir()) and not list(kitchen.beside.iterdir())


def lines(file): return file.read_bytes().split(b'\n')[:-1] if file.exists() else []


def settled(folder):
    "What stands in a dataset's journals: addresses, and searches."
    def read(name):
        for o in lines(folder/'.fetch'/name):
            try: yield json.loads(o)
            except ValueError: pass   # torn by a kill, and gone on after
    return {o['url'] for o in read('journal.jsonl')}, {tuple(o['key'].split('|')[i] for i in (0, 2)) for o in read('searches.jsonl')}


def address(url): return re.sub(r'^\w+://[^/]*', '', url).split('/')[1].split('?')[0], number(url)


def asked(kitchen):
    "How often the servers were asked, by what an address says (its folder and number), and by search."
    fault, pics, searches = Counter(), Counter(), Counter()
    for target, n in kitchen.server.log().started.items(): fault[address(target)] += n
    for _, _, target in list(kitchen.gallery.log):
        q = parse_qs(urlsplit(target).query)
        if 'q' in q: searches['openverse', q['q'][0]] += 1
        elif 'gsrsearch' in q: searches['wikimedia', q['gsrsearch'][0].removesuffix(' filetype:bitmap')] += 1
        else: pics[kitchen.gallery.base+target] += 1
    return fault, pics, searches


def moment(rng, folder, seconds, ends):
    "What to kill the next build of `folder` at: after so many more lines of a journal or seconds, or so soon after it has written downloads.csv, which is asked for until it has been tried `ends` times; now and then not at all, or a slow machine would kill one dataset at its end for ever."
    late = (folder/'downloads.csv').exists()   # all has been settled before: it ends in a moment
    searched = (folder/'searches.csv').exists()
    kind = rng.choice(['end'] if searched and ends > 0 else ['end', 'end', 'time', 'none'] if late else ['lines', 'lines', 'lines', 'lines', 'time', 'time', 'end'] if searched else ['search', 'search', 'search', 'lines'])
    return kind, {'search': rng.randint(0, 2), 'lines': rng.randint(1, 70), 'time': rng.uniform(0, .3 if late else .6*seconds), 'end': rng.choice([0, 0, rng.uniform(0, .1)]), 'none': 0}[kind]


KILLS, LEAST = (50, 3) if WHOLE else (14, 1)    # and how many at least of each kind


@posix
def test_killed_again_and_again(kitchen, tmp_path):
    "The dataset of a build that was killed, and killed again, is that of one that was left in peace; and nothing that was settled was asked for twice."
    whole, runner, rng, kinds, folders = comparable(kitchen.whole), Runner(kitchen.beside, tmp_path/'notes'), random.Random(11), Counter(), []
    tried = Counter()   # beside `kinds`, those that landed: at the very end a busy machine may be done before the signal comes
    of = Counter(address(o.url) for o in kitchen.items)
    done = True
    try:
        while (more := sum(kinds.values()) < KILLS or min(kinds[o] for o in ('search', 'lines', 'time')) < LEAST) or not done:
            if done:
                folders.append(folder := kitchen.sets/f'set{len(folders)}')
                kitchen.server.reset()   # some of its behaviours go by what was asked before
                kitchen.gallery.log.clear()
            kind, k = moment(rng, folder, kitchen.told['seconds'], LEAST-tried['end']) if more else ('none', 0)
            (urls, searches), before, at = settled(folder), asked(kitchen), {o: len(lines(folder/'.fetch'/f'{o}.jsonl')) for o in ('journal', 'searches')}
            mark, ending = folder/'downloads.csv', None if not (folder/'downloads.csv').exists() else (folder/'downloads.csv').stat().st_ino
            reached = {'search': lambda: len(lines(folder/'.fetch/searches.jsonl')) > at['searches']+k or (folder/'searches.csv').exists(),   # noqa: B023
                       'lines': lambda: len(lines(folder/'.fetch/journal.jsonl')) >= at['journal']+k,   # noqa: B023
                       'end': lambda: mark.exists() and mark.stat().st_ino != ending}.get(kind, lambda: False)   # noqa: B023
            runner.start('build', kitchen.recipe, folder, '--json', '--allow-private')
            done = not runner.wait(reached, k if kind == 'time' else 60)
            if kind == 'end' and not done: time.sleep(k)
            if not done: done = not runner.kill()
            assert runner.code in (0, -signal.SIGKILL), Path(f'{runner.out}.err').read_text()
            tried[kind] += 1
            kinds[kind] += not done
            valid(folder)
            now = asked(kitchen)
            for u in urls:
                if u.startswith(kitchen.gallery.base): assert now[1][u] == before[1][u], u
                elif of[key := address(u)] == 1: assert now[0][key] == before[0][key], u
            for s in searches: assert now[2][s] == before[2][s], s
            assert not list(kitchen.beside.iterdir()) and {p.name for p in kitchen.sets.iterdir()} - {p.name for p in folders} <= {'whole', 'twice'}
            if done:
                equal(comparable(folder), whole)
                assert not list((folder/'.fetch/store').iterdir())
    finally: runner.close()
    print(f'{sum(kinds.values())} kills in {len(folders)} folders: {dict(+kinds)}')
    assert tried['end'] >= LEAST, (kinds, tried)
    before = asked(kitchen)
    r = kitchen.build(folder.name)
    assert r.returncode == 0 and json.loads(r.stdout)['counts'] == kitchen.told['counts']
    equal(comparable(folder), whole)
    now = asked(kitchen)
    assert all(now[0][o] == before[0][o] for o in of) and now[1:] == before[1:]   # one that is done asks for nothing


def test_the_same_twice(kitchen):
    "Recipe, seed and servers are the same: so is the dataset. So is one from the recipe that the first left in its folder."
    kitchen.server.reset()
    r = kitchen.build('twice')
    assert r.returncode == 0, r.stderr
    equal(comparable(kitchen.sets/'twice'), comparable(kitchen.whole))
    assert Recipe.load(kitchen.whole/'recipe.yaml') == Recipe.load(kitchen.recipe)


# The command

@pytest.fixture(scope='module')
def photos_224(tmp_path_factory):
    "Eight pictures for each class of the first lesson."
    return pictures(tmp_path_factory.mktemp('lesson'), 1000, 224, chihuahua=8, muffin=8, dalmatian=8, cone=8, scone=8)


@pytest.fixture(scope='module')
def shown(tmp_path_factory): return pictures(tmp_path_factory.mktemp('shown'), 2000, chihuahua=40, muffin=40)


@pytest.fixture
def gallery(shown):
    with Gallery(shown) as g: yield g


@pytest.fixture(scope='module')
def server():
    with fault_server.FaultServer(hosts=('127.0.0.1', '127.0.0.2'), tls=False) as s: yield s


def recipe(**classes): return Recipe(**{'name': 'test', 'min_side': 32, 'pictures': 10, 'classes': classes or {'chihuahua': 'chihuahua', 'muffin': 'muffin'}})
def build(r, folder, *sources, **kw): return r.build(folder, list(sources), kw.pop('limits', NEAR), wait=.02, **kw)
def asked_pictures(g): return Counter(o[2] for o in g.log if '/picture/' in o[2])
def closed_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def test_by_name(run, photos_224, tmp_path):
    with Gallery(photos_224) as g:
        r = run('chihuahua_or_muffin', tmp_path/'set', '--source', f'openverse:{g.base}', '--max', '5', '--allow-private', '--json')
        assert r.code == 0 and {'found', 'kept', 'failed', 'by_reason', 'seconds'} <= set(r.json)
        assert r.json['kept'] == r.json['n'] == 25 and r.json['failed'] == 0 and r.json['by_reason'] == {} and r.json['short'] == {} and r.json['seconds'] >= 0
        assert r.json['classes'] == sorted(Recipe.named('chihuahua_or_muffin').classes) and r.json['counts']['kept'] == 25
        df = ImageSet.load(tmp_path/'set').df
        assert Counter(df.label) == dict.fromkeys(r.json['classes'], 5) and all(df.license) and all(df.creator) and all(df.page.str.startswith(g.base))
        said = run('chihuahua_or_muffin', tmp_path/'set', '--source', f'openverse:{g.base}', '--max', '5', '--allow-private')
    assert said.code == 0 and '25 pictures of ' in said.out and '25 kept of' in said.out and 'lookalikes train' in said.out and 'Traceback' not in said.err


def test_by_yaml(run, gallery, tmp_path):
    (tmp_path/'two.yaml').write_text(f'sources: wikimedia:{gallery.base}\npictures: 6\nmin_side: 32\nclasses: {{muffin: muffin, chihuahua: chihuahua}}\n')
    r = run(tmp_path/'two.yaml', tmp_path/'set', '--allow-private', '--json', '--seed', '7')
    assert r.code == 0 and r.json['kept'] == 12 and r.err == ''
    made = Recipe.load(tmp_path/'set/recipe.yaml')
    assert made.seed == 7 and made.pictures == 6 and made.name == 'two'
    again = run(tmp_path/'set/recipe.yaml', tmp_path/'again', '--allow-private', '--json')
    assert again.code == 0
    equal(comparable(tmp_path/'set'), comparable(tmp_path/'again'))


def test_by_table_of_queries(run, photos_224, tmp_path):
    (tmp_path/'q.csv').write_text('class,query\ndog,chihuahua\ncake,muffin\ncake,muffin on a plate\n')
    with Gallery(photos_224) as g:
        r = run(tmp_path/'q.csv', tmp_path/'set', '--source', f'openverse:{g.base}', '--source', f'wikimedia:{g.base}', '--max', '7', '--allow-private', '--json')
        assert r.code == 0 and r.json['kept'] == 14 and r.json['classes'] == ['cake', 'dog']
        df = ImageSet.load(tmp_path/'set').df
        assert set(df['query'][df.label == 'dog']) == {'chihuahua'} and set(df['query']) <= {'chihuahua', 'muffin', 'muffin on a plate'}
        more = run(tmp_path/'q.csv', tmp_path/'set', '--source', f'openverse:{g.base}', '--allow-private')
        assert more.code == 0 and 'dog: 8 of 150 (openverse: only 8 of 300: no more results)' in more.err and '16 pictures of cake, dog' in more.out


def test_results_that_are_known_to_be_too_small(run, gallery, tmp_path):
    (tmp_path/'q.csv').write_text('class,query\nmuffin,muffin\n')
    refused(run(tmp_path/'q.csv', tmp_path/'set', '--source', f'openverse:{gallery.base}', '--allow-private'), '40 smaller than 100 px')
    assert not asked_pictures(gallery)


def test_by_table_of_addresses(run, server, tmp_path):
    server.reset()
    rows = [(label, server.sized(i, 128)) for i, label in enumerate(['plum']*6+['fig']*6)] + [('fig', server.url('status-404', 3))]
    write_urls(tmp_path/'list.csv', rows, ('label', 'url'))
    r = run(tmp_path/'list.csv', tmp_path/'set', '--allow-private', '--json')
    assert r.code == 0 and r.json['kept'] == 12 and r.json['failed'] == 1 and r.json['by_reason'] == {'HTTP 404': 1} and r.json['found'] == 13
    assert 'fig: 6 of 150 (urls: only 7 of 300' in r.err
    assert run(tmp_path/'list.csv', tmp_path/'few', '--allow-private', '--json', '--max', '4').json['kept'] == 8
    assert run(tmp_path/'set/recipe.yaml', tmp_path/'again', '--allow-private', '--json').code == 0
    equal(comparable(tmp_path/'set'), comparable(tmp_path/'again'))


@pytest.mark.parametrize('head', ['class,url\n', 'category;link\n', ''])
def test_each_address_goes_to_the_class_of_its_row(run, server, tmp_path, head):
    rows = [(server.sized(200+i, 128), label) for i, label in enumerate(['plum']*4+['fig']*4)]
    (tmp_path/'list.csv').write_text(head + ''.join(f"{label}{';' if ';' in head else ','}{url}\n" for url, label in rows))
    r = run(tmp_path/'list.csv', tmp_path/'set', '--allow-private', '--json')
    assert r.code == 0 and r.json['found'] == 8, r.err
    df = ImageSet.load(tmp_path/'set').df
    assert dict(zip(df.url, df.label)) == dict(rows)


def test_private_addresses_are_refused_and_named(run, server, tmp_path):
    server.reset()
    write_urls(tmp_path/'list.csv', [('plum', server.sized(i, 128)) for i in range(4)], ('class', 'url'))
    r = run(tmp_path/'list.csv', tmp_path/'set', '--json')
    assert r.code == 1 and r.json['by_reason'] == {'private address': 4} and r.json['kept'] == 0 and '--allow-private' in r.err
    assert not server.log().started
    assert set(read_csv(tmp_path/'set/downloads.csv').reason) == {'private address (127.0.0.1 is 127.0.0.1), not asked'}
    r = run(tmp_path/'list.csv', tmp_path/'set', '--json', '--allow-private')   # with leave, they are asked after all
    assert r.code == 0 and r.json['kept'] == 4


def test_nothing_reachable(run, tmp_path):
    (tmp_path/'q.csv').write_text('class,query\nmuffin,muffin\n')
    r = run(tmp_path/'q.csv', tmp_path/'set', '--source', f'openverse:http://127.0.0.1:{closed_port()}', '--json')
    refused(r, 'no search found anything', '127.0.0.1 cannot be reached', 'after 3 attempts', 'Try another source', 'folder:PATH', 'lookalikes draw')


def test_retry(run, server, tmp_path):
    "What failed for a passing reason is asked again when that is wanted, and nothing else is."
    server.reset()
    write_urls(tmp_path/'list.csv', [('plum', server.sized(1, 128)), ('plum', server.url('status-503', 2)), ('plum', server.url('status-404', 3))], ('label', 'url'))
    def times(): return [sum(n for target, n in server.log().started.items() if o in target) for o in ('/sized/', '/status-503/', '/status-404/')]
    for options, want in ((), [1, 3, 1]), ((), [1, 3, 1]), (('--retry',), [1, 6, 1]):
        r = run(tmp_path/'list.csv', tmp_path/'set', '--allow-private', '--json', *options)
        assert r.code == 0 and r.json['by_reason'] == {'HTTP 404': 1, 'HTTP 503': 1} and times() == want


def test_retry_after_a_server_was_down(run, tmp_path):
    port = closed_port()
    write_urls(tmp_path/'list.csv', [('muffin', f'http://127.0.0.1:{port}/picture/{i}/x.jpg') for i in range(4)], ('label', 'url'))
    r = run(tmp_path/'list.csv', tmp_path/'set', '--allow-private', '--json')
    assert r.code == 1 and r.json['by_reason'] == {'no connection': 4}
    with Gallery(pictures(tmp_path/'shown', 2000, 128, muffin=4), port=port):
        r = run(tmp_path/'list.csv', tmp_path/'set', '--allow-private', '--json', '--retry')
    assert r.code == 0 and r.json['kept'] == 4


def test_retry_searches_again(shown, tmp_path):
    with Gallery(shown, limit=3, retry_after=0) as g:
        first = build(recipe(), tmp_path/'set', Openverse(g.base))   # all three attempts at the first query are turned away
        assert first.short == {'chihuahua': f'0 of 10 ({first.searches.source[0]}: {first.searches.reason[0]})'} and 'rate limited (HTTP 429) after 3 attempts' in first.searches.reason[0]
        again = build(recipe(), tmp_path/'set', Openverse(g.base), retry_failed=True)
    assert again.short == {} and len(again.images) == 20 and Counter(again.images.df.label) == dict(chihuahua=10, muffin=10)


@pytest.mark.parametrize('args, words', [(('chihuahua_or_mufin',), ('did you mean chihuahua_or_muffin?',)), (('nothing_like_it',), ('no recipe is called', 'known are', 'guitars')),
                                         (('no.yaml',), ('no.yaml', 'no such file')), (('guitars', '--source', 'openvers'), ('no source is called', 'openverse')),
                                         (('guitars', '--source', 'urls:no.csv'), ('no.csv: no such file',))])
def test_refuses(run, tmp_path, args, words):
    refused(run(args[0], tmp_path/'set', *args[1:]), *words)
    assert not (tmp_path/'set').exists() or args[1:]


def test_a_folder_of_other_things_is_left_alone(run, gallery, tmp_path):
    other = tmp_path/'photos'
    (other/'2024').mkdir(parents=True)
    (other/'2024/cat.jpg').write_bytes(b'...')
    (other/'diary.txt').write_text('dear diary')
    before = snapshot(tmp_path)
    refused(run('guitars', other, '--source', f'openverse:{gallery.base}'), 'photos: not empty', '2024', 'nothing was written')
    refused(run('guitars', other/'diary.txt', '--source', f'openverse:{gallery.base}'), 'diary.txt: a file')
    assert snapshot(tmp_path) == before and not gallery.log


@posix
@pytest.mark.parametrize('when', ['searching', 'fetching'])
def test_ctrl_c(run, shown, server, tmp_path, when):
    server.reset()
    with Gallery(shown, delay=.15 if when == 'searching' else 0) as g:
        write_urls(tmp_path/'list.csv', [(server.url('slow-start', i), 'plum') for i in range(80)])
        (tmp_path/'r.yaml').write_text(f'sources: [openverse:{g.base}, urls:list.csv]\npictures: 80\nmin_side: 32\nclasses: {{chihuahua: chihuahua, muffin: [muffin, muffin tin], plum: plum}}')
        args = tmp_path/'r.yaml', tmp_path/'set', '--allow-private', '--json'
        code = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler); ' + COMMAND   # a shell's background job ignores it
        p = subprocess.Popen([sys.executable, '-c', code, 'build', *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        file, n = (tmp_path/'set/.fetch/searches.jsonl', 1) if when == 'searching' else (tmp_path/'set/.fetch/journal.jsonl', 90)
        end = time.monotonic()+60
        while len(lines(file)) < n:
            assert time.monotonic() < end and p.poll() is None
            time.sleep(.01)
        start = time.monotonic()
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
        assert time.monotonic()-start < 10 and p.returncode == 130 and out == ''
        assert len(err.splitlines()) == 1 and err.startswith('lookalikes: stopped') and 'the same command goes on from there' in err, err
        had = valid(tmp_path/'set')
        assert had == 0 if when == 'searching' else 0 < had < 160
        urls, _ = settled(tmp_path/'set')
        before = asked_pictures(g), server.log().started
        g.delay = 0
        r = run(*args)
        assert r.code == 0 and r.json['kept'] == r.json['n'] == valid(tmp_path/'set') == 160 and not list((tmp_path/'set/.fetch/store').iterdir())
        now = asked_pictures(g), server.log().started
        for u in urls: assert all(a[target] == b[target] for a, b in zip(before, now) for target in a if u.endswith(target))


# Credits

HOSTILE = ['a|b', '<script>alert(1)</script>', '<img src=x onerror=alert(1)>', '[x](javascript:alert(1))', '![i](http://127.0.0.1/x.png)', 'line\nbreak', 'two\n\n| a | b | c |\n|---|---|---|',
           '`code`', '&lt;b&gt;', '~~s~~', '# head', '\\|', 'end\\', '*b* _i_ __u__', 'a](http://x) b[', '---', '"quotes\' and `ticks`', '<!-- -->', '$x$', 'שלום <b>', '猫 № 1']


def credits_of(tmp_path, **columns):
    "Credits as they come of a manifest that somebody's program wrote."
    n = max(map(len, columns.values()))
    df = pd.DataFrame({k: pd.Series(v, dtype=object) for k, v in dict({'file': [f'a/{i}.jpg' for i in range(n)], 'label': ['a']*n, 'url': ['http://example.org/x.jpg']*n} | columns).items()})
    return ImageSet(df, tmp_path).save().load(tmp_path).credits()


def table_rows(credits):
    "The cells of each row of the saved file's tables, as a browser has them, and all links."
    html = pytest.importorskip('markdown_it').MarkdownIt('commonmark', {'html': True}).enable('table').render(credits.save().read_bytes().decode())
    assert not re.search(r'<(script|img|b|!--)\b', html)
    return [re.findall(r'<td>(.*?)</td>', o, re.S) for o in re.findall(r'<tr>(.*?)</tr>', html, re.S) if '<td>' in o], re.findall(r'href="(.*?)"', html)


def test_hostile_titles_and_creators(tmp_path):
    n = len(HOSTILE)
    c = credits_of(tmp_path, title=HOSTILE, creator=HOSTILE[::-1], license=['CC BY 4.0', '', 'x|y <b>'][:n]*(n//3), license_url=['javascript:alert(1)']*n,
                   page=(['javascript:alert(1)', 'https://e.org/(a)', 'https://e.org/a b', 'https://e.org/a|b', 'data:text/html,x', 'https://e.org/"><script>', '//e.org', 'file:///etc/passwd', 'https://e.org/<a>']*n)[:n])
    rows, links = table_rows(c)
    assert len(c) == n and len(rows) == n and all(len(r) == 3 and r[2].endswith('.jpg') for r in rows)
    assert links and all(re.match('https?://', o) for o in links)
    text = (tmp_path/'CREDITS.md').read_text(encoding='utf-8')
    assert len([o for o in text.split('\n') if o.startswith('| ') and 'picture | creator' not in o]) == n
    assert all(f'a/{i}.jpg' in text for i in range(n))


def test_licences_apart(tmp_path):
    c = credits_of(tmp_path, license=['', 'CC0 1.0', 'CC BY 4.0', 'CC0 1.0', ''], license_url=['', 'https://creativecommons.org/publicdomain/zero/1.0/', '', '', ''], status=['ok', 'ok', 'ok', 'ok', 'quarantined'])
    assert len(c) == 4 and c.by_license == {'CC0 1.0': 2, '': 1, 'CC BY 4.0': 1} and '1 not stated' in repr(c)
    heads = [o[3:] for o in c.markdown().split('\n') if o.startswith('## ')]
    assert heads == ['CC BY 4.0', '[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/)', 'Licence not stated'] and 'a/4.jpg' not in c.markdown()
    assert '4 pictures' in c.markdown() and 'Ask before' in c.markdown().split('Licence not stated')[1]
    assert credits_of(tmp_path/'none', license=['CC0 1.0'], status=['quarantined']).markdown().startswith('# Credits\n\n0 pictures.')


def test_credits_of_a_build(gallery, tmp_path):
    got = build(recipe(), tmp_path/'set', Openverse(gallery.base))
    rows, links = table_rows(got.images.credits())
    assert len(rows) == len(got.images) == 20 and {r[2] for r in rows} == set(got.images.df.file)
    assert {o for o in links if '/page/' in o} == set(got.images.df.page)


@pytest.mark.parametrize('text', ['carriage\rreturn', 'both\r\nof them'])
def test_line_ends_of_other_systems_in_titles(tmp_path, text):
    rows, _ = table_rows(credits_of(tmp_path, title=[text], creator=[text]))
    assert len(rows) == 1 and len(rows[0]) == 3


def test_marks_of_direction_end_where_they_began(tmp_path):
    text = credits_of(tmp_path, title=['abc\u202edef'], creator=['x\u2066y']).markdown()
    assert not re.search('[\u202a-\u202e\u2066-\u2069]', text)


def test_blank_titles_and_creators(tmp_path):
    text = credits_of(tmp_path, title=['  '], creator=['\t'], page=['https://example.org/1']).markdown()
    assert '[0](https://example.org/1)' in text and '| not stated |' in text


def test_bytes_that_are_no_text_in_an_address(tmp_path):
    c = credits_of(tmp_path, page=['http://example.org/1'])
    manifest = tmp_path/'manifest.csv'
    manifest.write_bytes(manifest.read_bytes().replace(b'example.org/1', b'example.org/caf\xe9'))   # as a spreadsheet saves it
    c = ImageSet.load(tmp_path).credits()
    assert 'http://example.org/caf' in c.save().read_bytes().decode()


# Going on after the owner's changes

def df_of(folder): return ImageSet.load(folder).df


def test_going_on_respects_the_owner(gallery, tmp_path):
    r, folder = recipe(), tmp_path/'set'
    build(r, folder, Openverse(gallery.base))
    images = ImageSet.load(folder)
    df = images.df.copy()
    m = df.index[df.label == 'muffin'].tolist()
    df.loc[m[0], 'label'] = 'chihuahua'                                           # relabelled
    df.loc[m[1], ['status', 'reason']] = 'quarantined', 'a drawing'               # quarantined where it is
    moved, deleted = df.file[m[2]], df.file[m[3]]
    (folder/'.quarantine/muffin').mkdir(parents=True)
    os.rename(folder/moved, folder/'.quarantine'/moved)
    df.loc[m[2], ['file', 'status', 'reason']] = f'.quarantine/{moved}', 'quarantined', 'a mug'   # and moved away
    df.loc[m[5], ['status', 'reason']] = 'quarantined', 'moved, the table still has its old place'
    os.rename(folder/df.file[m[5]], folder/'.quarantine'/df.file[m[5]])
    df['stars'] = [str(i % 5) for i in range(len(df))]                           # a column of their own
    ImageSet(df, folder).save()
    (folder/deleted).unlink()
    before, asked_before = df_of(folder), asked_pictures(gallery)
    got = build(r, folder, Openverse(gallery.base))
    assert df_of(folder).equals(before)                                          # every row as its owner left it, splits too
    assert (folder/deleted).exists() and sha((folder/deleted).read_bytes()) == df.sha256[m[3]]
    assert not (folder/moved).exists() and not (folder/df.file[m[5]]).exists() and (folder/'.quarantine'/moved).exists()
    assert sum((asked_pictures(gallery)-asked_before).values()) == 1             # only for the file that was missing
    assert len(got.images.credits()) == 17 and moved not in (folder/'CREDITS.md').read_text()
    assert set(got.images.ok.df.file) == {f for f in files(folder) if '/' in f} - set(df.file[[m[1]]])


def test_a_bigger_recipe_keeps_what_is_there(gallery, tmp_path):
    folder = tmp_path/'set'
    build(recipe(), folder, Openverse(gallery.base))
    before, first = df_of(folder), asked_pictures(gallery)
    got = build(recipe(chihuahua='chihuahua', muffin='muffin', tin='photo tin muffin').replace(pictures=20, classes=dict(chihuahua='chihuahua', muffin={'queries': 'muffin', 'pictures': 30})), folder, Openverse(gallery.base))
    now = df_of(folder)
    assert now[:len(before)].equals(before) and Counter(now.label) == dict(chihuahua=20, muffin=30) and got.note == '' and got.short == {}
    assert set(now.split) == {'train', 'valid', 'test'} and now.file.is_unique and now.sha256.is_unique
    asked_now = asked_pictures(gallery)
    assert sum(asked_now.values()) == 50 and all(asked_now[o] == 1 for o in first)   # none again
    with Gallery(pictures(tmp_path/'more', 3000, scone=12)) as more:                  # and a class that is new
        got = build(recipe(chihuahua='chihuahua', muffin='muffin', scone='scone'), folder, Openverse(gallery.base), Openverse(more.base))
    last = df_of(folder)
    assert last[:len(now)].equals(now) and Counter(last.label) == dict(chihuahua=20, muffin=30, scone=10) and set(last.split[last.label == 'scone']) == {'train', 'valid', 'test'}


def test_fewer_wanted_keeps_what_is_there(gallery, tmp_path):
    build(recipe(), tmp_path/'set', Openverse(gallery.base))
    before, n = files(tmp_path/'set'), sum(asked_pictures(gallery).values())
    got = build(recipe().replace(pictures=3), tmp_path/'set', Openverse(gallery.base))
    now = files(tmp_path/'set')
    assert now['manifest.csv'] == before['manifest.csv'] and {k for k in now if '/' in k} == {k for k in before if '/' in k} and len(got.images) == 20
    assert sum(asked_pictures(gallery).values()) == n and got.short == {}


def test_a_few_more_pictures_get_a_split(gallery, tmp_path):
    build(recipe(), tmp_path/'set', Openverse(gallery.base))
    got = build(recipe().replace(pictures=11), tmp_path/'set', Openverse(gallery.base))
    assert len(got.images) == 22 and got.note == '' and '' not in set(got.images.df.split)


def test_a_bigger_recipe_counts_what_is_there(gallery, tmp_path):
    r = recipe(muffin=['muffin', 'a muffin', 'muffin tin', 'muffin plate'])
    build(r, tmp_path/'set', Openverse(gallery.base))
    got = build(r.replace(pictures=16), tmp_path/'set', Openverse(gallery.base))
    assert len(got.images) == 16


# Searches that fall short

def test_a_class_that_gets_nothing(gallery, tmp_path):
    got = build(recipe(chihuahua='chihuahua', muffin='muffin', pear='pear tart'), tmp_path/'set', Openverse(gallery.base), Wikimedia(gallery.base))
    assert set(got.short) == {'pear'} and got.short['pear'].startswith('0 of 10 (openverse: nothing found: no results') and 'wikimedia: nothing found: no results' in got.short['pear']
    assert got.table.loc['pear'].tolist() == [10, 0, 0, 0, 0, 0] and got.table.loc['muffin', 'kept'] == 10
    assert 'pear' in got._repr_html_() and got.note == ''


def test_the_next_source_is_asked_for_the_rest(tmp_path):
    first, second = pictures(tmp_path/'one', 4000, muffin=7), pictures(tmp_path/'two', 4100, muffin=60)
    with Gallery(first) as a, Gallery(second) as b:
        got = build(recipe(muffin='muffin').replace(pictures=20), tmp_path/'set', Openverse(a.base), Wikimedia(b.base))
        s = got.searches
        assert s.asked.tolist() == [40, 33] and s.found.tolist() == [7, 33] and s.source.tolist() == ['openverse', 'wikimedia']
        assert s.reason[0] == 'only 7 of 40: no more results' and s.reason[1] == ''
        assert Counter(got.images.df.source) == dict(openverse=7, wikimedia=13) and sum(asked_pictures(b).values()) == 13
        assert read_csv(tmp_path/'set/searches.csv').astype(str).values.tolist() == s.astype(str).values.tolist()
        enough = build(recipe(muffin='muffin').replace(pictures=3, candidates=2.), tmp_path/'few', Openverse(a.base), Wikimedia(b.base))
        assert enough.searches.source.tolist() == ['openverse']   # nobody else is asked


def test_copies_and_excluded_words_are_counted(tmp_path):
    folder = tmp_path/'shown'
    shown = pictures(folder, 5000, muffin=20)
    shown[0] = (shown[0][0], *[f.rename(folder/f'cartoon muffin {i}.jpg') if i < 5 else f for i, f in enumerate(shown[0][1:])])
    with Gallery(shown) as g:
        r = Recipe(**recipe(muffin=['muffin', 'muffin tin']).model_dump() | dict(exclude=['cartoon']))
        got = build(r, tmp_path/'set', Openverse(g.base), Wikimedia(g.base))
    s = got.searches
    assert s.excluded.tolist()[0] == 5 or s.excluded.sum() >= 5
    assert s.found.tolist()[:1] == [10] and s.known.sum() >= 10 and sum(s.found) == 15
    assert got.outcomes.url.is_unique and not got.outcomes.title.str.contains('cartoon').any()
    assert all(f"{k} found before" in w for k, w in zip(s.known, s.reason) if k and w) and all(f"{k} with an excluded word" in w for k, w in zip(s.excluded, s.reason) if k and w)


def test_a_class_too_small_to_split(run, tmp_path):
    with Gallery(pictures(tmp_path/'shown', 6000, muffin=20, scone=2)) as g:
        got = build(recipe(muffin='muffin', scone='scone'), tmp_path/'set', Openverse(g.base))
        assert len(got.images) == 12 and set(got.images.df.split) == {''} and got.note.startswith("Not split: class 'scone' has 2 usable") and got.short['scone'].startswith('2 of 10')
        (tmp_path/'r.yaml').write_text(f'sources: openverse:{g.base}\npictures: 10\nmin_side: 32\nclasses: {{muffin: muffin, scone: scone}}')
        r = run(tmp_path/'r.yaml', tmp_path/'set', '--allow-private', '--json')
        assert r.code == 0 and 'Not split' in r.err and 'scone: 2 of 10' in r.err
    with Gallery(pictures(tmp_path/'more', 6100, muffin=20, scone=8)) as g:   # more of them later: all are split
        got = build(recipe(muffin='muffin', scone='scone'), tmp_path/'set', Openverse(g.base))
    assert got.note == '' and '' not in set(got.images.df.split)


class Dead:
    "A source that cannot be reached."
    name = 'dead'
    def __init__(self): self.asked = 0
    def pages(self, ask):
        self.asked += 1
        raise SearchError('dead.example cannot be reached', True)


def test_a_dead_source_is_not_asked_for_every_query(gallery, tmp_path):
    dead = Dead()
    got = build(recipe(muffin=['muffin', *(f'muffin {i}' for i in range(9))], chihuahua=['chihuahua', *(f'chihuahua {i}' for i in range(9))]), tmp_path/'set', dead, Openverse(gallery.base))
    assert got.short == {} and got.searches.reason.str.contains('dead.example cannot be reached').any() and dead.asked <= 15


def test_the_same_command_once_the_network_is_back(shown, tmp_path):
    port = closed_port()
    with pytest.raises(ConnectionError, match='cannot be reached'): build(recipe(), tmp_path/'set', Openverse(f'http://127.0.0.1:{port}'))
    with Gallery(shown, port=port) as g: assert len(build(recipe(), tmp_path/'set', Openverse(g.base)).images) == 20


def test_the_recipe_in_the_folder_names_the_sources_that_were_asked(run, gallery, tmp_path):
    (tmp_path/'r.yaml').write_text('sources: duckduckgo\npictures: 5\nmin_side: 32\nclasses: {muffin: muffin}')
    assert run(tmp_path/'r.yaml', tmp_path/'set', '--source', f'openverse:{gallery.base}', '--allow-private', '--json').code == 0
    assert Recipe.load(tmp_path/'set/recipe.yaml').sources == [f'openverse:{gallery.base}']


def test_half_written_files_of_a_killed_run_are_removed(gallery, tmp_path):
    (tmp_path/'set/.fetch').mkdir(parents=True)
    for name in 'manifest.csv', 'CREDITS.md', 'recipe.yaml': (tmp_path/f'set/.{name}.999999.tmp').write_text('half')
    build(recipe(), tmp_path/'set', Openverse(gallery.base))
    assert not list((tmp_path/'set').glob('.*.tmp'))


def test_a_second_build_is_refused_before_it_searches(gallery, tmp_path):
    from filelock import FileLock
    (tmp_path/'set/.fetch').mkdir(parents=True)
    with FileLock(tmp_path/'set/.fetch/lock'), pytest.raises(BlockingIOError, match='another process'): build(recipe(), tmp_path/'set', Openverse(gallery.base))
    assert not gallery.log


# Two thousand candidates

def test_no_more_requests_than_needed(server, tmp_path):
    "Wanted is met exactly; who is asked are the first of each class, up to the last picture that was wanted."
    server.reset()
    items = fault_server.urls(server, n=2000, seed=9, skip=('ca', 'private', 'robots', 'noai', *SLOW, *NO_URL, '429-seconds', '503-seconds', '429-date', 'slow-start', 'endless-chunked', 'gzip-bomb-twice', 'large'))
    write_urls(tmp_path/'list.csv', [(o.url, o.label) for o in items])
    r = recipe(cherry={'queries': 'cherry', 'pictures': 100}, plum={'queries': 'plum', 'pictures': 150}, quince={'queries': 'quince', 'pictures': 20}).replace(candidates=50)
    got = build(r, tmp_path/'set', f"urls:{tmp_path/'list.csv'}", limits=Limits(connect=1., read=2., whole=5., attempts=1, wait=.05, per_host=16, allow_private=True, robots=False))
    assert Counter(got.images.df.label) == dict(cherry=100, plum=150, quince=20) and valid(tmp_path/'set') == 270 and got.short == {}
    out, first = got.outcomes, Counter(Hit(o.url).url for o in items)
    for label in 'cherry', 'plum', 'quince':
        o = out.outcome[out.label == label].tolist()
        n = o.index('not needed')
        assert set(o[n:]) == {'not needed'} and o[n-1] == 'kept'
    asked_for, needed = Counter(), {address(u) for u in out.url[out.outcome != 'not needed']}
    for target, n in server.log().started.items():
        if not re.search(r'/redirect|url-newline|^/secret', target): asked_for[address(target)] += n
    assert set(asked_for) <= needed
    same = Counter(address(u) for u in first)
    assert all(n <= same[k] for k, n in asked_for.items())   # once each
    assert len(out) == len(first) >= 1900


def test_good_ones_are_asked_for_as_often_as_wanted(server, tmp_path):
    server.reset()
    write_urls(tmp_path/'list.csv', [(server.url('good', i), 'plum') for i in range(2000)])
    got = build(recipe(plum='plum').replace(pictures=123, candidates=50), tmp_path/'set', f"urls:{tmp_path/'list.csv'}", limits=Limits(allow_private=True, robots=False))
    assert got.found == 2000 and len(got.images) == 123 and got.counts == {'kept': 123, 'not needed': 1877}
    assert sum(server.log().started.values()) == 123 and got.images.df.url.tolist() == [server.url('good', i) for i in range(123)]
