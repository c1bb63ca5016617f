"A newcomer's first hour: a fresh clone, installed as README says, opened in JupyterLab in a real Chromium, lesson 1 from `Run All Cells` to its end."
import json
import os
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest
from conftest import ROOT
from lab import CHROMIUM, jupyter, launch
from outside import away, environment

LESSON, = re.findall(r'`jupyter lab (\S+)`', (ROOT/'README.md').read_text(encoding='utf-8'))
CELLS = '''() => {
  const cells = window.jupyterapp?.shell.currentWidget?.content?.model?.cells, code = cells ? [...cells].filter(c => c.type == 'code') : []
  return code.map(c => { const all = c.outputs.toJSON(); return {
    count: c.executionCount, state: c.executionState, errors: all.filter(o => o.output_type == 'error').map(o => o.evalue),
    pictures: all.filter(o => o.data?.['image/png'] || [o.data?.['text/html']].flat().join('').includes('<img')).length} })
}'''
FINISHED = f"() => {{ const all = ({CELLS})(); return all.length && (all.some(c => c.errors.length) || all.every(c => c.count && c.state != 'running')) }}"


@pytest.fixture
def clone(tmp_path):
    "A fresh clone, and the interpreter of a fresh environment in which it is installed; what it requires is lent by the running environment."
    folder = tmp_path/'lookalikes'
    r = subprocess.run(['git', 'clone', '--quiet', '--no-local', ROOT.as_uri(), folder], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if r.returncode: pytest.skip(f'not a git checkout: {r.stderr.strip()}')
    others = {d.metadata['Name'].lower(): d for d in reversed([*distributions()]) if d.metadata['Name'] and d.metadata['Name'].lower() != 'lookalikes'}
    python = environment(tmp_path/'env', others)
    subprocess.run([python, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation', '-e', folder], env=away(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return folder, python


def test_lesson_1_runs_to_its_end(clone, tmp_path):
    if CHROMIUM is None: pytest.skip('no chromium on the PATH')
    playwright = pytest.importorskip('playwright.sync_api')
    for o in 'jupyterlab', 'ipykernel': pytest.importorskip(o)
    folder, python = clone
    kernel = tmp_path/'share/kernels/python3/kernel.json'
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps(dict(argv=[str(python), '-m', 'ipykernel_launcher', '-f', '{connection_file}'], display_name='Python 3', language='python')))
    env, trouble = dict(JUPYTER_PATH=str(kernel.parents[2]), LOOKALIKES_OFFLINE='1', MPLBACKEND='module://matplotlib_inline.backend_inline'), []
    with jupyter(tmp_path, folder, more=['--LabApp.expose_app_in_browser=True'], env=env) as base, playwright.sync_playwright() as pw:
        browser = launch(pw)
        try:
            page = browser.new_page(viewport=dict(width=1280, height=900))
            page.on('pageerror', lambda e: trouble.append(str(e)))
            page.set_default_timeout(60_000)
            page.goto(f'{base}/lab/tree/{LESSON}?token=tok')
            page.wait_for_function(f'() => ({CELLS})().length')
            page.wait_for_function("() => /Idle/.test(document.querySelector('#jp-main-statusbar')?.innerText || '')")
            assert not any(c['count'] for c in page.evaluate(CELLS)), 'nothing has run yet'
            page.get_by_role('menuitem', name='Run', exact=True).click()
            page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
            page.wait_for_function(FINISHED, timeout=0, polling=500)      # pytest's own limit holds
            cells = page.evaluate(CELLS)
            assert [c['count'] for c in cells] == [*range(1, len(cells)+1)] and not any(c['errors'] for c in cells), cells
            assert sum(c['pictures'] for c in cells) >= 6, 'two charts, and contact sheets of what was found'
            page.wait_for_function("() => /Idle/.test(document.querySelector('#jp-main-statusbar')?.innerText || '')")
            page.wait_for_function("() => { const all = [...document.querySelectorAll('.jp-OutputArea-output img')]; return all.length && all.every(o => o.naturalWidth) }")
            page.locator('.jp-OutputArea-output img[alt]').last.evaluate('o => o.scrollIntoView()')     # JupyterLab 4.3 and 4.4 hide what is out of sight
            if shots := os.environ.get('LOOKALIKES_SHOTS'): page.screenshot(path=Path(shots)/'jupyterlab-lesson-1.png')
            page.keyboard.press('Control+s')
            page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")
        finally: browser.close()
    assert not trouble, trouble
    cells = [c for c in json.loads((folder/LESSON).read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    streams = [''.join(o['text']) for c in cells for o in c['outputs'] if o['output_type'] == 'stream' and o['name'] == 'stderr']
    assert all(c['execution_count'] for c in cells) and not streams, streams
    status = subprocess.run(['git', 'status', '--porcelain'], cwd=folder, capture_output=True, text=True).stdout.splitlines()
    assert status == [f' M {LESSON}'], 'running the lesson leaves nothing else behind'
