"The whole audit against planted truth, on drawn twins and on photographs; the command; the page in a browser."
import hashlib
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import at_length
from sklearn.metrics import average_precision_score

from lookalikes.audit import KINDS, audit, write_audit
from lookalikes.backbone import embed
from lookalikes.clean import label_issues, leaks, merge_duplicates, outliers, quarantine, relabel, restore
from lookalikes.decisions import Decisions
from lookalikes.defects import plant, planted
from lookalikes.draw import draw
from lookalikes.imageset import ImageSet
from lookalikes.scoring import score

WORDS = dict(exact_copy='exact', near_copy='near_copy', wrong_label='wrong_label', unreadable='unreadable', blank='blank', dark='dark', tiny='tiny')


def content(folder): return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob('*')) if p.is_file()}


@pytest.fixture(scope='module')
def mess(tmp_path_factory):
    home = tmp_path_factory.mktemp('mess')
    images = draw('chihuahua_or_muffin', n=60, size=128, seed=9, path=home/'drawn', classes=['chihuahua', 'muffin']).split(valid=.25)
    return plant(images, home/'set', dict(wrong_label=8, exact_copy=4, copy_across_splits=4, copy_across_classes=2, reencoded=3, resized=3, captioned=3, mirrored=3, dark=2, blank=2, tiny=2, html=1, zero_bytes=1), seed=1)


@pytest.fixture(scope='module')
def found(mess): return audit(mess)


def test_what_was_planted_is_found(mess, found):
    marks = score(mess, found.table[found.table.kind.isin(WORDS)], WORDS).set_index('kind')
    assert (marks.recall[['exact', 'unreadable', 'blank', 'tiny']] == 1).all() and (marks.precision[['exact', 'unreadable', 'blank']] == 1).all()
    assert marks.recall['near_copy'] >= .9 and marks.precision['near_copy'] >= .98 and marks.recall['wrong_label'] >= .75 and marks.recall['dark'] == 1
    assert list(found.table.columns) == ['file', 'kind', 'score', 'evidence', 'other', 'suggested'] and set(found.table.kind) <= set(KINDS)
    assert found.table.score.between(0, 1).all() and found.table.evidence.ne('').all()
    torn = found.table[found.table.kind == 'conflicting_labels']
    assert {frozenset(o) for o in zip(torn.file, torn.other)} >= {frozenset(o) for o in planted(mess).query("kind == 'copy_across_classes'")[['file', 'of']].itertuples(index=False, name=None)}


def test_a_leaking_split_is_named_and_the_next_one_leaks_nothing(mess, found):
    across = planted(mess).query("kind == 'copy_across_splits'")
    assert set(across.file) | set(across.of) <= set(found.files('leak')) and found.counts['leak'] == len(leaks(mess))
    copies = planted(mess)[lambda t: t.of != '']
    for seed in range(20):
        for images in (mess.split(valid=.25, test=.2, seed=seed), found.images.split(valid=.3, seed=seed)):      # groups are filled in both
            split = images.df.set_index('file').split
            assert not len(leaks(images)) and (split[copies.file].to_numpy() == split[copies.of].to_numpy()).all()


def test_nothing_is_found_where_nothing_is(tmp_path):
    clean = audit(draw('chihuahua_or_muffin', n=40, size=128, seed=3, path=tmp_path/'clean', classes=['chihuahua', 'muffin']))
    assert not set(clean.counts) & {'unreadable', 'exact_copy', 'near_copy', 'conflicting_labels', 'leak', 'blank', 'tiny', 'shortcut'} and len(clean.files()) <= .1*80, clean.counts


def test_a_label_that_follows_brightness(tmp_path):
    from PIL import Image
    images = draw('chihuahua_or_muffin', n=30, size=96, seed=3, path=tmp_path/'drawn', classes=['chihuahua', 'muffin'])
    for i, label in enumerate(images.df.label):
        if label == 'muffin': Image.fromarray((np.asarray(images.open(i))*.6).astype(np.uint8)).resize((130, 96)).save(images.paths[i])
    found = audit(ImageSet(images.df[['file', 'label']], images.path))
    assert {'aspect', 'pixels'} <= set(found.shortcut_rates) and found.counts['shortcut'] >= 2 and '' not in found.files('shortcut')


@pytest.mark.parametrize('n', [0, 1, 2, 3])
def test_very_small_sets(n, tmp_path):
    images = draw('chihuahua_or_muffin', n=2, size=64, path=tmp_path/'d', classes=['chihuahua', 'muffin'])
    assert len(audit(images.where(np.arange(4) < n))) == 0


def test_broken_and_unlabelled(tmp_path):
    images = draw('chihuahua_or_muffin', n=4, size=64, path=tmp_path/'d', classes=['chihuahua', 'muffin'])
    for p in images.paths: p.write_bytes(b'<html>')
    assert audit(images).counts == dict(unreadable=8)
    again = draw('chihuahua_or_muffin', n=8, size=64, path=tmp_path/'e', classes=['muffin'])
    assert 'wrong_label' not in audit(again).counts and 'wrong_label' not in audit(again.replace(label='')).counts


def test_functions_for_scripts(mess, tmp_path):
    shutil.copytree(mess.path, tmp_path/'set')
    images = ImageSet.load(tmp_path/'set')
    before, issues = content(images.path), audit(images)
    merged, torn = merge_duplicates(issues.images, issues.copies.pairs)
    gone = set(merged.df.file[merged.df.status == 'quarantined'])
    assert torn and not gone & set(torn) and all(len(gone & set(c)) == len(c)-1 for c in issues.copies.clusters if not set(c) & set(torn))
    one = merged.ok.df.file.iloc[0]
    other = {'chihuahua': 'muffin', 'muffin': 'chihuahua'}[merged.ok.df.label.iloc[0]]
    last = relabel(quarantine(merged, torn[0], 'torn'), {one: other})
    assert last.df.set_index('file').label[one] == other and (images.path/'.quarantine'/torn[0]).exists() and not (images.path/torn[0]).exists()
    assert (restore(last, torn[0]).df.set_index('file').status[torn[0]]) == 'ok' and (images.path/torn[0]).exists()
    journal = Decisions(ImageSet.load(images.path))
    while journal.applies: journal.undo_apply()
    after = content(images.path)
    assert {k: v for k, v in after.items() if k in before} == before and {k.split('/')[0] for k in set(after)-set(before)} <= {'.quarantine', 'decisions.jsonl', '.manifest.lock'}


# Photographs

@at_length
@pytest.mark.parametrize('name, least', [('pet_breeds', .95), ('guitars', .75)])
def test_wrong_labels_among_photographs(name, least, photos, tmp_path):
    if not (photos/name).is_dir(): pytest.skip(f'no {name} among the photographs')
    images = ImageSet.from_names(photos/name/'images', r'^(.+)_\d+\.jpg$') if name == 'pet_breeds' else ImageSet.from_folder(photos/name)
    bad = plant(images, tmp_path/'bad', dict(wrong_label=.1), seed=4)
    doubts, wrong = label_issues(bad, embed(bad)), set(planted(bad).file)
    assert average_precision_score(doubts.file.isin(wrong), doubts.score) >= least
    assert len(doubts) == len(bad) and doubts.score.between(0, 1).all() and (doubts.suggested != doubts.label).all()
    shown = doubts[doubts.flagged]
    assert shown.file.isin(wrong).mean() > .4 and shown.file.isin(wrong).sum() > .6*len(wrong)


@at_length
def test_strangers_among_photographs(photos, tmp_path):
    if not (photos/'kittens_or_cats').is_dir() or not (photos/'lookalike_extras').is_dir(): pytest.skip('no kittens or no strangers among the photographs')
    images = ImageSet.from_folder(photos/'kittens_or_cats')
    bad = plant(images, tmp_path/'bad', dict(off_topic=8), seed=4, off_topic=ImageSet.from_folder(photos/'lookalike_extras'))
    far, strange = outliers(bad), set(planted(bad).file)
    assert far.file[far.flagged].isin(strange).sum() >= 6 and far.flagged.sum() <= 20 and far.equals(outliers(bad))


# The command

def test_command(run, mess, tmp_path):
    shutil.copytree(mess.path, tmp_path/'set')
    for name in ('manifest.csv', 'truth.csv'): (tmp_path/'set'/name).unlink()
    before = content(tmp_path/'set')
    r = run('audit', tmp_path/'set', '--json', '--report', tmp_path/'audit.html')
    assert r.code == 0 and {'n', 'issues', 'seconds'} <= set(r.json) and r.json['n'] == len(mess) and len(r.json['issues']['unreadable']) == 2 and r.err == ''
    assert content(tmp_path/'set') == before and (tmp_path/'audit.html').read_text().count('<figure>') > 10        # looking changes nothing
    assert run('audit', tmp_path/'set', '--strict', '--fast', '-q').code == 1
    aside = run('audit', tmp_path/'set', '--quarantine', '--json')
    sure = {*r.json['issues']['unreadable'], *r.json['issues']['blank']}
    assert aside.code == 0 and sure <= set(aside.json['quarantined']) and all((tmp_path/'set/.quarantine'/f).exists() for f in sure)
    text = run('audit', tmp_path/'set', '--fast')
    assert text.code == 0 and 'to look at' in text.out and 'unreadable' not in text.out
    back = run('audit', tmp_path/'set', '--restore', '--fast', '--json')
    assert back.code == 0 and sorted(back.json['restored']) == sorted(aside.json['quarantined'])
    assert {k: v for k, v in content(tmp_path/'set').items() if k in before} == before
    lost = run('audit', tmp_path/'nowhere')
    assert lost.code == 2 and lost.out == '' and len(lost.lines) == 1 and 'nowhere' in lost.err


def test_page_in_a_browser(found, tmp_path):
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if not chromium: pytest.skip('no Chromium')
    from playwright.sync_api import sync_playwright
    odd = audit(found.images)
    odd.table = pd.concat([odd.table, odd.table.tail(1).assign(evidence='<script>alert(1)</script>')], ignore_index=True)
    page, said = write_audit(tmp_path/'audit.html', odd), []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking'])
        tab = browser.new_page(viewport=dict(width=390, height=800))
        tab.on('console', lambda m: said.append(m.text))
        tab.on('pageerror', lambda e: said.append(str(e)))
        tab.on('request', lambda r: said.append(r.url) if not r.url.startswith(('file:', 'data:')) else None)
        tab.goto(page.as_uri())
        assert tab.locator('h2').count() == len(odd.counts) and tab.locator('img:not([alt])').count() == 0 and '<script>alert(1)</script>' in tab.inner_text('body')
        assert tab.evaluate('document.documentElement.scrollWidth <= innerWidth') and tab.evaluate('[...document.images].every(o => o.complete && o.naturalWidth)')
        browser.close()
    assert not said
