"Circles whose number is known, statistics that must find what was planted, and a benchmark that runs."
import json
import re
import time

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, WHOLE, at_length
from fastcore.nbio import read_nb

from lookalikes.circles import CONTROLS, draw_circles
from lookalikes.draw import circles
from lookalikes.imageset import ImageSet
from lookalikes.shortcuts import Shortcuts, cheats, control_matrix, fit_counter, measure, shortcuts
from lookalikes.stats import wilson


@pytest.mark.parametrize('control', CONTROLS)
@pytest.mark.parametrize('overlap', [False, True])
@pytest.mark.parametrize('size', [64, (48, 96)])
def test_a_picture_does_not_depend_on_its_company(control, overlap, size):
    how = dict(counts=(1, 6), size=size, control=control, overlap=overlap, colours='random', seed=7)
    many = draw_circles(300, **how)
    for i in (0, 5, 255, 256, 299):
        one = draw_circles(1, start=i, **how)
        assert np.array_equal(one.pictures[0], many.pictures[i]) and one.truth.iloc[0].equals(many.truth.iloc[i])


@pytest.mark.parametrize('counts', [(1, 5), (45, 50), [3], [2, 20]])
@pytest.mark.parametrize('control', CONTROLS)
def test_no_circle_touches_another_or_leaves_the_page(counts, control):
    c = draw_circles(60, counts, 96, control, seed=1)
    apart = np.sqrt(((c.centres[:, :, None]-c.centres[:, None])**2).sum(-1)) - c.radii[:, :, None] - c.radii[:, None]
    apart[:, np.arange(apart.shape[1]), np.arange(apart.shape[1])] = np.inf
    assert np.nanmin(apart) > 0 and np.nanmin(c.centres-c.radii[..., None]) > 0 and np.nanmax(c.centres+c.radii[..., None]) < 96
    assert ((~np.isnan(c.radii)).sum(1) == c.counts).all() and set(c.counts) == set(range(counts[0], counts[1]+1) if isinstance(counts, tuple) else counts)
    assert np.allclose(c.density().sum((1, 2)), c.counts, atol=1e-3)


def test_fifty_circles_always_find_room():
    assert len(draw_circles(300, [50], seed=11)) == 300
    assert len(draw_circles(20, [50], density=.45, seed=11)) == 20
    with pytest.raises(ValueError, match='50 circles over 90% of the picture.*lower density'): draw_circles(1, [50], density=.9)


def test_the_hull_is_that_of_the_discs():
    from scipy.spatial import ConvexHull
    c, turn = draw_circles(40, (1, 8), 128, 'random', seed=2), np.linspace(0, 2*np.pi, 2000)
    for i in range(40):
        edge = np.concatenate([at+r*np.stack([np.cos(turn), np.sin(turn)], 1) for at, r in zip(c.centres[i], c.radii[i]) if r == r])
        assert c.truth.hull[i] == pytest.approx(ConvexHull(edge).volume, rel=2e-3)


def test_files_are_the_same_after_a_stop(tmp_path):
    whole = circles(20, (1, 3), 32, path=tmp_path/'a', seed=5)
    for f in whole.df.file[::3]: (tmp_path/'a'/f).unlink()
    (tmp_path/'a/manifest.csv').unlink()
    again = circles(20, (1, 3), 32, path=tmp_path/'a', seed=5)
    assert again.df.equals(whole.df) and not list(tmp_path.glob('a/*/.*.tmp')) and len(again.verify().problems) == 0
    assert set(again.df.label) == {'1', '2', '3'} and pd.read_csv(tmp_path/'a/truth.csv').shape[0] == 60


def test_area_is_named_at_equal_radius_and_not_at_equal_area():
    one, two = (shortcuts(draw_circles(500, (1, 5), control=k, seed=3)) for k in ('equal_radius', 'equal_area'))
    assert one.table.explains['area'] > .99 and 'area' in one.suspects
    assert two.table.explains['area'] < .2 and two.table.explains['perimeter'] > .95


def test_labels_without_meaning_have_no_shortcut():
    c = draw_circles(600, (1, 5), control='random', seed=4)
    rng, found = np.random.default_rng(0), []
    M = measure(c)
    for _ in range(10 if WHOLE else 4): found += shortcuts(c, rng.integers(0, 3, 600), measured=M).suspects
    assert len(found) <= 1  # Bonferroni: one set in forty


def staged(folder, change, n=60):
    "Noise photographs of two classes, one of them changed."
    from PIL import Image
    rng = np.random.default_rng(0)
    for label in 'ab':
        (folder/label).mkdir()
        for i in range(n):
            im = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((96, 72), Image.Resampling.BICUBIC)
            (change(im) if label == 'b' else im).save(folder/label/f'{i}.jpg', quality=90)
    return ImageSet.from_folder(folder)


@pytest.mark.parametrize('name,change', [('brightness', lambda im: im.point(lambda v: v*.7)), ('aspect', lambda im: im.resize((80, 72))), ('pixels', lambda im: im.resize((128, 96)))])
def test_what_a_label_follows_is_named(name, change, tmp_path):
    report = shortcuts(staged(tmp_path, change))
    assert report.table.explains[name] > .9 and name in report.suspects and report.n == 120 and report.chance == .5
    assert name in report._repr_html_()


def test_a_damaged_file_is_left_out(tmp_path):
    images = staged(tmp_path, lambda im: im, 20)
    (tmp_path/'a/3.jpg').write_bytes(b'<!doctype html>')
    report = shortcuts(images)
    assert report.n == 39 and not report.suspects


def test_real_photographs_take_seconds(photos):
    images = ImageSet.from_names(photos/'pet_breeds', r'^(.+)_\d+\.jpg$')
    images = images.where(np.arange(len(images)) < 1000)
    start = time.perf_counter()
    report = shortcuts(images)
    took = time.perf_counter()-start
    print(f'{took:.1f} s, {report}')
    assert isinstance(report, Shortcuts) and report.n > 990 and took < 60


def test_cheating_is_called_by_its_name():
    sets = {k: draw_circles(300, (1, 5), 48, k, seed=6) for k in ('equal_radius', 'equal_area', 'equal_perimeter')}
    true, area = (lambda s: s.counts), (lambda s: np.rint(s.truth.area/sets['equal_radius'].truth.area[0]))
    verdict = cheats({k: control_matrix(dict(equal_radius=sets['equal_radius']), sets, lambda _, f=f: f) for k, f in (('true', true), ('area', area))}, 'equal_radius')
    assert verdict.cheats.to_dict() == dict(area=True, true=False) and verdict.home.to_dict() == dict(area=0, true=0)


@pytest.mark.parametrize('head', ['classes', 'number', 'density'])
def test_a_net_learns_and_repeats(head):
    c = draw_circles(600, (1, 3), 32, seed=8)
    a, b = (fit_counter(c, head, epochs=6, width=12, seed=1) for _ in range(2))
    assert np.array_equal(a(c), b(c)) and a.losses[-1] < .5*a.losses[0] and len(a(c)) == 600


@at_length
def test_the_benchmark_runs(tmp_path, warm):
    (tmp_path/'photos/pet_breeds').mkdir(parents=True)
    r = warm.python('benchmarks/circles.py', '--photos', tmp_path/'photos', '--out', tmp_path, '--repeats', '2', '--pictures', '240', '--figures', '4', '--sizes', '64', timeout=300)
    assert r.returncode == 0, r.stderr[-3000:]
    df, last = pd.read_csv(tmp_path/'circles.csv'), json.loads((tmp_path/'circles.json').read_text())[-1]
    assert list(df.counts) == ['1-5', '45-50'] and (df.ratio > 10).all() and str(tmp_path) not in (tmp_path/'circles.json').read_text() and last['machine']['matplotlib']


def test_results_hold_what_the_lesson_says():
    df = pd.read_csv(ROOT/'data/results/circles.csv')
    d = df[(df.experiment == '1-5') & (df.model == 'density')].groupby('tested_on')
    assert (d.off.mean()[['equal_area', 'equal_perimeter']] < 2*d.off.mean()['equal_radius']).all()
    line = df[(df.experiment == '1-5') & (df.model == 'line on area')].groupby('tested_on').error_rate.mean()
    assert line['equal_radius'] < .01 and line['equal_area'] > .7


def test_the_table_of_the_lesson_is_that_of_the_results():
    models = {'line on area': ('line on area', ''), 'density, scaled': ('density', 'scale'), 'number, flips': ('number', 'flips'), 'classes, scaled': ('classes', 'scale'),
              'classes, crop and zoom': ('classes', 'crop'), 'classes, flips': ('classes', 'flips')}
    controls = {'': 'equal_radius', ', **equal area**': 'equal_area', ', **equal perimeter**': 'equal_perimeter', ', **random sizes**': 'random'}
    df, seen = pd.read_csv(ROOT/'data/results/circles.csv', dtype=dict(tested_on=str)).fillna({'augment': ''}), 0
    text, = [c.source for c in read_nb(ROOT/'nbs/04_counting_circles.ipynb').cells if c.source.startswith('| circles | who')]
    for where, who, n, rate, bounds in re.findall(r'^\| (.+?) \| (.+?) \| ([\d,]+) \| (.+?) \| (.+?) \|$', text, re.M):
        if 'published' in who: continue
        who = next(k for k in models if who.startswith(k))
        if where.startswith('1 to 5'): experiment, exam = '1-5', controls[where[6:]]
        elif 'trained on' in where: experiment, exam = 'trained on 1, 2, 4, 5', where[0]
        else: experiment, exam = where.replace(' to ', '-'), 'equal_radius'
        rows = df[(df.experiment == experiment) & (df.tested_on == exam) & (df.model == models[who][0]) & (df.augment == models[who][1])]
        low, high = wilson(int(rows.errors.sum()), int(rows.n.sum()))
        assert (n, rate, bounds) == (f'{rows.n.sum():,}', f'{rows.errors.sum()/rows.n.sum():.1%}'.replace('%', ' %'), f'{100*low:.1f} to {100*high:.1f} %'), (where, who)
        seen += 1
    assert seen == 29
