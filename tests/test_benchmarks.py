"The benchmarks run from end to end on a few drawn pictures, most of them at length only, and write results that name no place on this machine."
import json
import os
import platform
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, at_length
from PIL import Image

FOLDER = ROOT/'benchmarks'


@pytest.fixture
def run(warm):
    def go(*args):
        r = warm.python(*map(str, args))
        assert r.returncode == 0, f'{args}\n{r.stdout[-3000:]}\n{r.stderr[-3000:]}'
        return r
    return go


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    "A folder of photographs in small: two breeds that a colour tells apart."
    path, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
    (path/'pet_breeds'/'images').mkdir(parents=True)
    for label, colour in (('Red_setter', (200, 60, 40)), ('Bombay', (30, 30, 40))):
        for i in range(10):
            # soft patches, not noise: two ways to cut and resize must give nearly the same picture
            a = np.clip(np.array(colour) + rng.normal(0, 25, (3, 4, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(a).resize((96, 72), Image.Resampling.BICUBIC).save(path/'pet_breeds'/'images'/f'{label}_{i}.jpg')
    return path


def results(out, question, *folders):
    "The table and the last run's details, both checked for what must not be in them."
    table, runs = out/f'{question}.csv', out/f'{question}.json'
    for text in (table.read_text(encoding='utf-8'), runs.read_text(encoding='utf-8')):
        for o in (ROOT, out, *folders): assert str(o) not in text and json.dumps(str(o))[1:-1] not in text
        assert not re.search(r'(?<![\w.+/=-])/(work|root|home|Users|tmp)/', text)
        assert len(platform.node()) < 4 or not re.search(rf'\b{re.escape(platform.node())}\b', text)
    last = json.loads(runs.read_text(encoding='utf-8'))[-1]
    assert last['name'] == question and last['date'] and last['command'].startswith(f'python benchmarks/{question}.py --')
    assert {'processor', 'cores', 'memory_gib', 'device', 'accelerator', 'os', 'python', 'lookalikes', 'torch', 'timm', 'fastai', 'onnxruntime'} <= set(last['machine'])
    df = pd.read_csv(table)
    assert (df.command == last['command']).all() and (df.cores == last['machine']['cores']).all()
    return df, last


def check_spread(figures, n):
    assert len(figures['each']) == n and min(figures['each']) == figures['low'] and max(figures['each']) == figures['high']
    assert figures['median'] == pytest.approx(np.median(figures['each'])) and figures['low'] > 0


@pytest.mark.parametrize('script', sorted(o.name for o in FOLDER.glob('*.py') if "__name__ == '__main__'" in o.read_text(encoding='utf-8')))
def test_says_what_it_does(script, run):
    "What it imports from the library is there; most are run to their end at length only."
    said = run(FOLDER/script, '--help').stdout
    assert said.startswith('usage:') and re.search(r'--\w', said)


@at_length
def test_embed(drawn, tmp_path, run):
    run(FOLDER/'embed.py', '--photos', drawn, '--out', tmp_path, '--repeats', 2, '--sizes', 64, '--batch-sizes', 8)
    df, last = results(tmp_path, 'embed', drawn)
    row, detail = df.iloc[0], last['results'][0]
    assert len(df) == 1 and (row['size'], row.pictures) == (64, 20)
    for side in ('ours_s', 'peer_s'): check_spread(detail[side], 2)
    assert row.ratio == pytest.approx(detail['peer_s']['median']/detail['ours_s']['median'], abs=.006)
    assert len(row.ours_s_each.split()) == len(detail['ratio_each_round']) == 2
    assert detail['error_same_pixels'] < 1e-3 and detail['error_files_max'] < .5


@at_length
def test_probe(drawn, tmp_path, run):
    run(FOLDER/'probe.py', '--photos', drawn, '--out', tmp_path, '--repeats', 1, '--fits', 1, '--size', 64, '--minutes', .001)
    df, last = results(tmp_path, 'probe', drawn)
    assert df.goal.tolist() == ['our error', '10 % error', 'fit_probe', 'cross_validate']
    check_spread(last['ours_s']['total'], 2)
    for r in last['ours_each_run']: assert r['total'] == pytest.approx(sum(v for k, v in r.items() if k != 'total'))
    assert last['ours_errors']['n'] == 4 and last['ours_errors']['errors'] == 0 and last['cross_validate_errors']['n'] == 20
    ends = [o for t in last['peer_tries'] for o in t['epochs']]
    assert [o['frozen'] for o in ends[:2]] == [True, False] and 0 < ends[0]['seconds'] < ends[1]['seconds']
    for r in df[:2].itertuples():
        good = [o['seconds'] for o in ends if o['error'] <= r.error]
        assert r.peer_reached == bool(good) and r.ratio_is == ('measured' if good else 'more than')
        assert r.peer_s == pytest.approx(min(good) if good else ends[-1]['seconds'], abs=.01)
        assert r.ratio == pytest.approx(r.peer_s/r.ours_s_median, rel=.01)


def test_fetch(drawn, tmp_path, run):
    "All sides but img2dataset, which has a Python of its own: LOOKALIKES_IMG2DATASET may name it."
    peer = os.environ.get('LOOKALIKES_IMG2DATASET')
    run(FOLDER/'fetch.py', '--photos', drawn, '--out', tmp_path, '--repeats', 2, '--copies', 1, 2, '--delay', .005, '--hosts', 1, '--at-a-time', 16,
        *(['--img2dataset', peer] if peer else []))
    df, last = results(tmp_path, 'fetch', drawn, *([peer] if peer else []))
    long = ['ours', 'ours, its own limits, 1 host(s)'] + ['img2dataset', 'img2dataset, its shards alone']*bool(peer)
    short = long[:2] + ['ours, its own limits, one host', *(f'fastai{k}{v}' for k in ('', ', 16 threads') for v in ('', ', then verify_images'))] + long[2:]
    assert df.side.tolist() == short+long and df.pictures.tolist() == [20]*len(short) + [40]*len(long)
    assert (df.img2dataset == 'left out').all() == (peer is None)
    assert dict(zip(df.side, df.promised))['fastai'] == 2 and df.httpx.all()
    for d, (_, rows) in zip(last['lists'], df.groupby('pictures')):
        for r in rows.itertuples():
            check_spread(d['seconds'][r.side], 2)
            assert r.per_s == pytest.approx(r.pictures/r.s_median, rel=.01) and len(r.s_each.split()) == 2
            if r.side != 'ours': assert r.ratio == pytest.approx(r.s_median/d['seconds']['ours']['median'], abs=.006)
    s = last['lists'][0]['seconds']
    assert s['fastai, then verify_images']['low'] > s['fastai']['low'] > 20/8*.005  # eight at a time
    assert all(b/a == pytest.approx(r) for a, b, r in zip(s['ours']['each'], s['fastai']['each'], last['lists'][0]['ratio_each_round']['fastai']))


def test_fetch_looks_at_what_was_kept(drawn, run):
    "A copy is another file with the same pixels; a side that keeps too little, or other bytes, ends the benchmark."
    run('-c', """if True:
        import io, sys
        from pathlib import Path
        sys.path.insert(0, 'benchmarks')
        import fetch
        from PIL import Image
        data = next(Path(sys.argv[1]).rglob('*.jpg')).read_bytes()
        copies = [fetch.variant(data, k) for k in range(3)]
        assert copies[0] == data and len(set(copies)) == 3
        a, *others = [Image.open(io.BytesIO(o)) for o in copies]
        assert all(o.tobytes() == a.tobytes() for o in others) and [o.info['comment'] for o in others] == [b'1', b'2']
        def keep(*kept):
            def side(urls, folder):
                for i, o in enumerate(kept): (folder/f'{i}.jpg').write_bytes(o)
                return {'side': 1.}
            try: return fetch.run('side', side, ['a', 'b'], [fetch.sha256(o) for o in copies[:2]])
            except SystemExit as e: return str(e)
        assert keep(*copies[:2]) == {'side': 1.}
        assert [keep(copies[0]), keep(data, data), keep(*copies)] == [f'side: {n} of 2 files as they were served, and {k} others' for n, k in ((1, 0), (1, 1), (2, 1))]
        """, drawn)


def test_results_are_added_to(tmp_path, run):
    "A later run leaves what earlier ones wrote, also when it has another column."
    code = "import sys; sys.path.insert(0, 'benchmarks'); import machine; machine.write(sys.argv[1], 'q', 'c', {'cores': 2}, [%s], {})"
    for row in ("{'ratio': '1.50'}", "{'ratio': 2, 'size': 64}"): run('-c', code % row, tmp_path)
    df = pd.read_csv(tmp_path/'q.csv', dtype=str, keep_default_na=False)
    assert df.ratio.tolist() == ['1.50', '2'] and df['size'].tolist() == ['', '64']
    assert [r['name'] for r in json.loads((tmp_path/'q.json').read_text())] == ['q', 'q']


def test_says_where_photographs_are_missing(tmp_path):
    r = subprocess.run([sys.executable, '-c', "import sys; sys.path.insert(0, 'benchmarks'); import machine; machine.arguments('', sys.argv[1:])",
                        '--photos', str(tmp_path)], cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'COLUMNS': '200'})
    assert r.returncode == 2 and 'pet_breeds' in r.stderr and 'LOOKALIKES_PHOTOS' in r.stderr


def test_epoch(drawn, tmp_path, run):
    run(FOLDER/'epoch.py', '--photos', drawn, '--out', tmp_path, '--repeats', 1, '--size', 64, '--batch-size', 8, '--n', 20)
    df, last = results(tmp_path, 'epoch', drawn)
    row = df.iloc[0]
    assert row.n == 20 and row.ratio == pytest.approx(row.fastai_seconds/row.every_layer_seconds, rel=.1) and set(last['seconds']) == {'every_layer', 'late_layers', 'fastai'}


@at_length
def test_memory(drawn, tmp_path, run):
    run(FOLDER/'memory.py', '--photos', drawn, '--out', tmp_path, '--n', 20, '--repeats', 1, '--size', 64, '--batch-size', 8)
    df, last = results(tmp_path, 'memory', drawn)
    r = df.iloc[0]
    assert r.kept_seconds > 0 and r.ratio == pytest.approx(last['seconds']['usual'][0]/last['seconds']['kept'][0], abs=.006) and r.usual_page_faults > 0


@at_length
def test_finetune(drawn, tmp_path, run):
    run(FOLDER/'finetune.py', '--photos', drawn, '--out', tmp_path, '--sets', 'pet_breeds', '--seeds', 0, '--epochs', 1, '--peer-size', 64, '--table', tmp_path/'summary')
    df, last = results(tmp_path, 'finetune', drawn)
    row = df.iloc[0]
    assert (row.n, row.train) == (4, 12) and 0 <= row.errors <= 4 and 0 <= row.fastai_errors <= 4 and row.times_faster == pytest.approx(row.fastai_seconds/row.seconds, rel=.1)


@at_length
def test_views(drawn, tmp_path, run):
    run(FOLDER/'views.py', '--photos', drawn, '--out', tmp_path, '--n', 300, '--classes', 6, '--repeats', 1)
    df, last = results(tmp_path, 'views', drawn)
    assert (df.pictures == 300).all() and len(df) > 8


@at_length
def test_heatmaps(tmp_path, run):
    run(FOLDER/'heatmaps.py', '--lessons', 'cats_or_dogs', '--n', 8, '--explain', 2, '--out', tmp_path)
    row = pd.read_csv(tmp_path/'heatmaps.csv').iloc[0]
    assert row.n == 4 and 0 <= row.hits <= 4 and 0 < row.area < 1 and 0 <= row.sooner <= 4 and row.command == 'python benchmarks/heatmaps.py --n 8 --explain 2'


@at_length
def test_ladder(drawn, tmp_path, run):
    "The folder stands in for the guitars."
    for f in (drawn/'pet_breeds'/'images').iterdir():
        to = tmp_path/'photos'/'guitars'/f.name.rsplit('_', 1)[0]/f.name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(f.read_bytes())
    run(FOLDER/'ladder.py', '--photos', tmp_path/'photos', '--out', tmp_path, '--seeds', 0, '--epochs', 1, '--steps', 'probe', 'fine-tuned', 'several views', '--size', 64)
    df = pd.read_csv(tmp_path/'ladder.csv')
    assert list(df.rung) == ['probe', 'fine-tuned', 'several views'] and (df.n == 4).all() and df.command[0].startswith('python benchmarks/ladder.py --') and str(tmp_path) not in df.command[0]


def test_dedup(drawn, tmp_path, run):
    pytest.importorskip('imagededup', reason='imagededup is among the extra bench')
    run(FOLDER/'dedup.py', '--photos', drawn, '--out', tmp_path, '--repeats', 1)
    df, last = results(tmp_path, 'dedup', drawn)
    row, kinds = df.iloc[0], last['found_of_each_kind']
    assert (row.pictures, row.copies) == (29, 9) and row.ratio == pytest.approx(last['seconds']['imagededup']['median']/last['seconds']['hashes']['median'], abs=.006)
    assert row.ratio_low <= row.ratio <= row.ratio_high and 0 < row.ratio_embeddings
    for side, found in kinds.items():
        assert sum(k for _, k in found.values()) == row[f'{side}_found'] and found['exact_copy'] == [1, 1] and 0 < row[f'{side}_right'] <= row[f'{side}_pairs']
    # no hash of the picture as it is can know its mirror image
    assert kinds['hashes']['mirrored'] == [1, 1] and kinds['imagededup']['mirrored'] == [1, 0]


@at_length
def test_gradio_alone(drawn, tmp_path, run):
    pytest.importorskip('gradio_client', reason='gradio is among the extra serve')
    run(FOLDER/'gradio_alone.py', '--photos', drawn, '--out', tmp_path, '--pictures', 6, '--at-once', 3, '--repeats', 2)
    df, last = results(tmp_path, 'gradio_alone', drawn)
    row, seconds = df.iloc[0], last['seconds']
    assert row.pictures == 6 and row.same_class == 1 and all(len(seconds[k]) == 2 for k in ('ours', 'gradio', 'wide'))
    for column, side in (('ratio', 'gradio'), ('ratio_wide', 'wide')):
        each = [a/b for a, b in zip(seconds[side], seconds['ours'])]
        assert [row[f'{column}_low'], row[f'{column}_high']] == pytest.approx([min(each), max(each)], abs=.006) and row[f'{column}_low'] <= row[column] <= row[f'{column}_high']


@pytest.fixture
def promises(monkeypatch):
    "The module that says what is promised."
    monkeypatch.syspath_prepend(FOLDER)
    import promises
    return promises


def test_every_promise_has_its_figures(promises, monkeypatch):
    import all as every
    assert set(every.COMPARISONS) == {p.question for p in promises.PROMISES} and all((FOLDER/f'{o}.py').is_file() for o in every.COMPARISONS)
    for p in promises.PROMISES:
        table = promises.RESULTS/f'{p.question}.csv'
        if not table.exists(): continue
        d = promises.rows(p, full=False)
        assert len(d) == 0 or set(d) >= {'date', 'command', 'cores', 'load_at_start'} and (set(d) & {p.ratio, f'{p.ratio}_median'}), p
    found = promises.measured()
    assert len(found) == len(promises.PROMISES) and found.ratio.notna().any() and (found.kept.notna() == (found.ratio.notna() & found.promised.notna())).all()


def test_which_run_counts(promises, tmp_path):
    "The latest with enough pictures; a quiet one first; of rows measured one by one the later of a kind."
    p = promises.Promise('q', 'w', 'x', 3, where='size == 256', full='pictures >= 100')
    def write(*runs):
        pd.DataFrame([dict(date=f'2026-01-0{day}', command='c', size=256, pictures=n, ratio=ratio, cores=2, load_at_start=load, device='cpu', processor='P', memory_gib=8, os='Linux 6', lesson=lesson)
                      for day, n, ratio, load, lesson in runs]).to_csv(tmp_path/'q.csv', index=False)
        return promises.measured(tmp_path, True, [p]).iloc[0]
    assert write((1, 100, 4, 2, 'a'), (2, 100, 2, 2, 'a'), (3, 10, 9, 0, 'a')).ratio == 2
    kept = write((1, 100, 4, .2, 'a'), (2, 100, 2, 2, 'a'))
    assert (kept.ratio, kept.kept, kept.quiet, kept.date, kept.machine) == (4, True, True, '2026-01-01', '2 cores of P, 8 GiB, Linux') and np.isnan(kept.low)
    assert promises.measured(tmp_path, True, [promises.Promise('q', 'w', 'x', 3, where='size == 64')]).ratio.isna().all()
    several = promises.Promise('q', 'w', 'x', 3, each=('lesson',))
    write((1, 100, 1, 2, 'a'), (2, 100, 5, 2, 'b'), (3, 100, 3, 2, 'a'))
    o = promises.measured(tmp_path, True, [several]).iloc[0]
    assert (o.ratio, o.low, o.high, o.kept) == (4, 3, 5, True)
    text = promises.as_text(promises.measured(tmp_path, True, [several]), dict(q='failed'))
    assert text.iloc[0].tolist() == ['w', 'x', '3x', '4.0x', '3.0x', '5.0x', 'failed', '2026-01-03']


def every(*args):
    return subprocess.run([sys.executable, FOLDER/'all.py', *map(str, args)], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)


@at_length
def test_all_goes_on_when_one_fails(drawn, tmp_path):
    before = {p.name: p.read_bytes() for p in (FOLDER/'results').iterdir()}
    r = every('--quick', '--only', 'fetch', 'circles', '--photos', drawn, '--img2dataset', tmp_path/'no_python')
    assert r.returncode == 1 and re.search(r'^fetch: failed \(exit status 1\): img2dataset: .*no_python is no Python', r.stdout, re.M), r.stdout+r.stderr
    verdicts = {peer: [{'yes', 'no', 'failed'} & set(o.split()) for o in r.stdout.splitlines() if peer in o] for peer in ('matplotlib', 'download_images')}
    assert len(verdicts['matplotlib']) == 2 and all(o and o <= {'yes', 'no'} for o in verdicts['matplotlib']) and verdicts['download_images'] == [{'failed'}]
    assert 'machine: ' in r.stdout and 'circles: failed' not in r.stdout
    assert before == {p.name: p.read_bytes() for p in (FOLDER/'results').iterdir()}


def test_all_lists_and_refuses():
    r = every('--list')
    assert r.returncode == 0 and 'serve: ' in r.stdout and '10x promised' in r.stdout and 'nothing promised' in r.stdout
    r = every('--only', 'nothing')
    assert r.returncode == 2 and "'nothing'" in r.stderr and 'gradio_alone' in r.stderr
