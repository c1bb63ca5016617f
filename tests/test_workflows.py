"What runs on GitHub and cannot be run here: workflows, forms and hooks are valid, name what exists, and ask for no more than they need."
import importlib.util
import re
import subprocess
import sys
from configparser import ConfigParser

import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT

GITHUB = ROOT/'.github'
WORKFLOWS = sorted((GITHUB/'workflows').glob('*.yaml'))
VERBS = re.findall(r'^\| `lookalikes (\w+)', (ROOT/'README.md').read_text(encoding='utf-8'), re.M)
FORMS = sorted(o for o in (GITHUB/'ISSUE_TEMPLATE').glob('*.yml') if o.name != 'config.yml')


def load(path): return yaml.load(path.read_text(encoding='utf-8'), Loader=yaml.BaseLoader)  # BaseLoader: `on:` stays a word, 3.10 stays 3.10


def jobs(): return [pytest.param(load(p), job, id=f'{p.stem}-{name}') for p in WORKFLOWS for name, job in load(p)['jobs'].items()]


def steps(job): return job.get('steps', [])


@pytest.fixture(scope='module')
def ini():
    c = ConfigParser(delimiters=['='])
    c.read(ROOT/'settings.ini', encoding='utf-8')
    return c['DEFAULT']


def script(name):
    "A module of .ci/."
    spec = importlib.util.spec_from_file_location(name, ROOT/f'.ci/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCHEMAS = {'github-workflows': WORKFLOWS, 'github-issue-forms': FORMS, 'github-issue-config': [GITHUB/'ISSUE_TEMPLATE/config.yml'],
           'dependabot': [GITHUB/'dependabot.yml'], 'citation-file-format': [ROOT/'CITATION.cff'], 'compose-spec': [ROOT/'compose.yaml']}


@pytest.mark.parametrize('schema', SCHEMAS)
def test_valid(schema):
    "Against the schemas that check-jsonschema carries along; in this process, for it takes seconds to begin."
    from check_jsonschema import main
    r = CliRunner().invoke(main, ['--builtin-schema', f'vendor.{schema}', *map(str, SCHEMAS[schema])])
    assert r.exit_code == 0, r.output


def test_invalid_is_noticed(tmp_path):
    from check_jsonschema import main
    (tmp_path/'test.yaml').write_text(WORKFLOWS[0].read_text(encoding='utf-8').replace('timeout-minutes', 'time-out'), encoding='utf-8')
    r = CliRunner().invoke(main, ['--builtin-schema', 'vendor.github-workflows', str(tmp_path/'test.yaml')])
    assert r.exit_code == 1 and 'time-out' in r.output


def test_every_python_and_every_system(ini):
    matrix = load(GITHUB/'workflows/test.yaml')['jobs']['test']['strategy']['matrix']
    cells = {(o, p) for o in matrix['os'] for p in matrix['python']} | {(o['os'], o['python']) for o in matrix['include']}
    listed = re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT/'setup.py').read_text(encoding='utf-8'))
    assert listed[0] == ini['min_python'] and listed[-1] == '3.13' and {p for o, p in cells if o == 'ubuntu-latest'} == set(listed)
    for system in 'macos-latest', 'windows-latest': assert {p for o, p in cells if o == system} >= {listed[0], listed[-1]}, system


def test_the_readmes_command_is_what_runs(ini):
    _, command = re.findall(r'^```sh\n(.*?)\n```', (ROOT/'README.md').read_text(encoding='utf-8'), re.M | re.S)
    here, windows = [o['run'].strip() for o in steps(load(GITHUB/'workflows/test.yaml')['jobs']['test']) if 'pytest' in o.get('run', '')]
    assert here == command
    assert windows == command.replace('python3', 'python').replace('bin/activate', 'Scripts/activate')


@pytest.mark.parametrize('flow,job', jobs())
def test_least_rights(flow, job):
    assert flow['permissions'] == {'contents': 'read'}
    # a publishing right is given to the job that publishes, which runs nobody's code but GitHub's and PyPA's
    if 'write' in job.get('permissions', {}).values():
        assert all(re.match('actions/|pypa/', o['uses']) if 'uses' in o else o['run'].lstrip().startswith(('gh ', 'open=$(gh ')) for o in steps(job))
    for o in steps(job):
        if o.get('uses', '').startswith('actions/checkout@'): assert o['with']['persist-credentials'] == 'false'
        # what strangers name, a branch or a title, must not become part of a script
        assert '${{' not in o.get('run', ''), o['run']


@pytest.mark.parametrize('flow,job', jobs())
def test_pinned_and_bounded(flow, job):
    if 'uses' in job:  # another workflow of ours, with bounds of its own
        target = ROOT/job['uses']
        assert target in WORKFLOWS and 'workflow_call' in load(target)['on']
        return
    assert 1 <= int(job['timeout-minutes']) <= 60
    assert job['runs-on'] in ('ubuntu-latest', '${{ matrix.os }}')
    for o in steps(job):
        if 'uses' in o: assert re.fullmatch(r'[\w.-]+(/[\w.-]+)+@v\d+(\.\d+)*', o['uses']), o['uses']
    used = re.findall(r'needs: \[?([\w, ]+)', yaml.safe_dump(job))
    assert set(re.split(', *', ', '.join(used))) - {''} <= set(flow['jobs'])


def test_one_version_of_each_action():
    uses = {o['uses'] for p in WORKFLOWS for job in load(p)['jobs'].values() for o in steps(job) if 'uses' in o}
    assert len(uses) == len({o.split('@')[0] for o in uses}) >= 7, sorted(uses)


@pytest.mark.parametrize('flow,job', jobs())
def test_what_is_run_exists(flow, job):
    "Files of ours, extras and commands that a step names."
    c = ConfigParser(delimiters=['='])
    c.read(ROOT/'settings.ini', encoding='utf-8')
    for o in steps(job):
        run = o.get('run', '')
        for path in re.findall(r'(?<![\w/.])(?:\.ci|tests|benchmarks)/[\w./-]+', run): assert (ROOT/path).exists(), path
        for extras in re.findall(r"'\.\[([\w,]+)\]'", run): assert set(extras.split(',')) <= set(c['extras']), extras
        for verb in re.findall(r'^\s*(?:pip \S+ .*&& )?lookalikes (\w+)', run, re.M): assert verb in VERBS, verb
        if path := o.get('with', {}).get('cache-dependency-path'): assert (ROOT/path).exists()


def test_hooks_are_local_and_exist():
    hooks = [h for r in load(ROOT/'.pre-commit-config.yaml')['repos'] for h in r['hooks'] if r['repo'] == 'local']
    assert {r['repo'] for r in load(ROOT/'.pre-commit-config.yaml')['repos']} == {'local'}
    assert [h['id'] for h in hooks] == ['nbdev-clean', 'nbdev-export', 'readme', 'ruff'] and {h['language'] for h in hooks} == {'system'}
    assert (ROOT/hooks[2]['entry'].split()[1]).exists()
    r = subprocess.run([sys.executable, '-m', 'pre_commit', 'validate-config', ROOT/'.pre-commit-config.yaml'], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout+r.stderr


def test_forms_name_the_lessons():
    lesson, = [o['attributes']['options'] for o in load(GITHUB/'ISSUE_TEMPLATE/lesson.yml')['body'] if o.get('id') == 'lesson']
    titles = [re.search(r'"# ([^"\\]+)', p.read_text(encoding='utf-8'))[1] for p in sorted((ROOT/'nbs').glob('0?_*.ipynb'))]
    assert lesson[:-1] == [f'{i}. {o}' for i, o in enumerate(titles, 1)]


def test_citation_agrees(ini):
    cff = load(ROOT/'CITATION.cff')
    assert (cff['version'], cff['license'], cff['repository-code'], cff['url']) == (ini['version'], ini['license'], ini['repository'], ini['documentation'])
    assert cff['keywords'] == ini['keywords'].split() and [o['name'] for o in cff['authors']] == [ini['author']]


def test_documents_name_what_exists():
    "Relative links of the documents at the top, and the files that SECURITY.md points to."
    for name in 'README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'CODE_OF_CONDUCT.md', 'CHANGELOG.md':
        text = (ROOT/name).read_text(encoding='utf-8')
        for target in re.findall(r'\]\((?!https?://|#)([^)#\s]+)', text): assert (ROOT/target).exists(), f'{name}: {target}'
        for target in re.findall(r'`((?:tests|lookalikes|nbs|\.ci|examples)/[\w./-]+)`', text):
            if 'NN_' not in target: assert (ROOT/target).exists(), f'{name}: {target}'
    modules = re.findall(r'\| ((?:`\w+`(?:, )?)+), (?:`tests/)', (ROOT/'SECURITY.md').read_text(encoding='utf-8'))
    assert len(modules) == 5 and all((ROOT/f'lookalikes/{m}.py').exists() for o in modules for m in re.findall(r'`(\w+)`', o))


@pytest.fixture
def house(tmp_path, ini):
    "settings.ini and a changelog, to be changed."
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nversion = 1.2.0\n', encoding='utf-8')
    (tmp_path/'CHANGELOG.md').write_text('# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-03-01\n\n### Added\n\n- Wings.\n\n## [1.1.0] - 2026-01-01\n\n- Feet.\n', encoding='utf-8')
    return tmp_path


def test_release_notes(house): assert script('release').notes(house, 'v1.2.0') == '### Added\n\n- Wings.'


@pytest.mark.parametrize('tag,old,new,says', [
    ('v1.3.0', '', '', 'settings.ini says version 1.2.0'), ('1.2.0', '', '', 'tag v1.2.0'),
    ('v1.2.0', '[1.2.0] -', '[1.2.1] -', r'no line `## \[1.2.0\]'), ('v1.2.0', '2026-03-01', 'soon', 'soon is not a day'), ('v1.2.0', '### Added\n\n- Wings.\n', '', 'says nothing')])
def test_releases_that_must_not_be(house, tag, old, new, says):
    log = house/'CHANGELOG.md'
    log.write_text(log.read_text(encoding='utf-8').replace(old, new), encoding='utf-8')
    with pytest.raises(ValueError, match=says): script('release').notes(house, tag)


def test_release_says_it_in_one_line():
    r = subprocess.run([sys.executable, ROOT/'.ci/release.py', 'v0.0.0'], capture_output=True, text=True)
    assert r.returncode == 1 and r.stdout == '' and r.stderr.count('\n') == 1 and 'the tag is v0.0.0' in r.stderr


def test_addresses_in_markdown():
    text = ('[a](https://a.example/x_(y)#part), <https://b.example>, `https://code.example`, [r][1], [![i](https://i.example/b.svg)](https://a.example/x_(y))\n\n'
            '```\nhttps://block.example\n```\n\n[1]: http://r.example\n[near](other.md)\n')
    assert list(script('links').addresses(text)) == ['https://a.example/x_(y)', 'https://b.example', 'http://r.example', 'https://a.example/x_(y)', 'https://i.example/b.svg']


def test_links_are_gathered():
    found = script('links').linked(ROOT)
    assert found['https://semver.org/spec/v2.0.0.html'] == {'CHANGELOG.md'} and len(found) > 40
    assert any(o.endswith('.ipynb') for names in found.values() for o in names) and not any('127.0.0.1' in o for o in found)


def test_links_that_lead_nowhere(tmp_path, capsys):
    from fault_server import FaultServer
    with FaultServer() as server:
        good, large, gone, busy, lost = (server.url(o) for o in ('good', 'large', 'status-404', 'status-503', 'no-such-host'))
        (tmp_path/'a.md').write_text(f'[1]({good}) [2]({gone}) [3]({busy}#x) [4]({lost}) [5]({large})', encoding='utf-8')
        (tmp_path/'untracked.md').write_text('[6](http://127.0.0.1:9/)', encoding='utf-8')
        for args in ['init', '-q'], ['add', 'a.md']: subprocess.run(['git', *args], cwd=tmp_path, check=True)
        bad = script('links').main(tmp_path, allow_private=True, attempts=1)
    out = capsys.readouterr().out
    assert bad == 2 and out.splitlines()[-1] == '5 addresses, 2 broken' and out.count('\n') == 4
    assert f'BROKEN  {gone}  HTTP 404 (not found)  (a.md)' in out and f'BROKEN  {lost}  no host' in out and f'unsure  {busy}  HTTP 503' in out
