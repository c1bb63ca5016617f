"Recipes: every mistake named by its line, words kept as written, and the shelf found wherever the package lies."
import json
import os
import pickle
import random
import re
import subprocess
import sys
import sysconfig
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from lookalikes.recipe import LICENSES, SOURCE_NAMES, Class, Recipe, RecipeError, _folder_name

SHELF = ROOT/'data'/'recipes'
NAMES = ['cats_or_dogs', 'chihuahua_or_muffin', 'guitars', 'kittens_or_cats', 'not_cats_or_dogs', 'paintings', 'pet_breeds']
CAT = 'classes:\n  cat: a cat\n'


def load(tmp_path, text, name='my.yaml'):
    (tmp_path/name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Recipe.load(tmp_path/name)


def table(tmp_path, text, name='my.csv', **kw):
    (tmp_path/name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Recipe.from_csv(tmp_path/name, **kw)


def refused(read, tmp_path, text):
    "What is said about `text`, from the file's name on."
    with pytest.raises(RecipeError) as e: read(tmp_path, text)
    said = str(e.value)
    assert '\n' not in said and 'pydantic' not in said and 'Traceback' not in said
    assert said.startswith(str(tmp_path)) and len(said) < 600 + len(str(tmp_path))
    return said[len(str(tmp_path))+1:]


# Short forms and defaults

def test_a_short_recipe(tmp_path):
    r = load(tmp_path, 'classes:\n  muffin: blueberry  muffin\n  cat: [a cat, grey cat]\n  dog:\n  - a dog\n  owl: {queries: an owl, exclude: toy, pictures: 7}\n', 'birds.v2.yaml')
    assert r.name == 'birds.v2' and list(r.classes) == ['muffin', 'cat', 'dog', 'owl']
    assert [c.queries for c in r.classes.values()] == [['blueberry muffin'], ['a cat', 'grey cat'], ['a dog'], ['an owl']]
    assert r.classes['owl'] == Class(queries=['an owl'], exclude=['toy'], pictures=7)
    assert (r.sources, r.pictures, r.candidates, r.min_side, r.max_side) == (['duckduckgo', 'openverse', 'wikimedia'], 150, 2., 100, 800)
    assert (r.license, r.safe, r.exclude, dict(**r.split), r.seed) == ('any', True, [], {'valid': .2, 'test': .2}, 42)
    assert [r.wanted(o) for o in r.classes] == [150, 150, 150, 7]


def test_all_fields(tmp_path):
    r = load(tmp_path, """
name: mine
about: |
  Two lines
  of text
sources: [openverse, 'urls:list.csv', folder:my photos, 'openverse:http://localhost:8000']
pictures: 1_000
candidates: 1.5
min_side: 0
max_side: null
license: share-commercially
safe: no
exclude: mug
split: {valid: .1}
seed: 0
""" + CAT)
    assert (r.name, r.about, r.pictures, r.candidates, r.min_side, r.max_side) == ('mine', 'Two lines\nof text', 1000, 1.5, 0, None)
    assert (r.license, r.safe, r.exclude, r.split.valid, r.split.test, r.seed) == ('share-commercially', False, ['mug'], .1, .2, 0)
    assert [r.source_path(o) for o in r.sources] == [None, tmp_path/'list.csv', tmp_path/'my photos', None]


def test_settings_left_empty_keep_their_default(tmp_path):
    assert load(tmp_path, 'about:\nexclude: ~\npictures: null\nsources:\n'+CAT) == load(tmp_path, CAT)
    assert load(tmp_path, 'max_side:\n'+CAT).max_side is None


@pytest.mark.parametrize('word', 'no yes on off y null ~x 007 1e3 0x1F 1_000 2024-01-01 1.5 true Infinity = 3.10 ünï 犬 नमस्ते Ça%20va'.split())
def test_words_stay_as_they_are_written(word, tmp_path):
    r = load(tmp_path, f'exclude: [{word}x]\nclasses:\n  {word}: {word}\n  other: [{word} b, {word} c]\n')
    assert list(r.classes) == [word, 'other'] and r.classes[word].queries == [word] and r.classes['other'].queries == [f'{word} b', f'{word} c'] and r.exclude == [word+'x']
    assert Recipe.load(r.save(tmp_path/'again.yaml')) == r


def test_queries_stay_as_they_are_written(tmp_path):
    assert load(tmp_path, 'classes: {a: [12:30, .5, no, ~, null, 2024-01-01], b: 1e3}').classes['a'].queries == ['12:30', '.5', 'no', '~', 'null', '2024-01-01']


# Mistakes in YAML: file, line, place and advice

MISTAKES = {
    'unknown key': ('pictrues: 3\n'+CAT, 'line 1: pictrues: .*did you mean pictures'),
    'unknown key left empty': (CAT+'picturs:\n', 'line 3: picturs: .*did you mean pictures'),
    'unknown key far from any': (CAT+'zzz: 1\n', 'line 3: zzz: .*known are name, about'),
    'unknown key of a class': ('classes:\n  cat:\n    queries: a cat\n    exlude: x\n', 'line 4: classes.cat.exlude: .*did you mean exclude'),
    'unknown key of split': (CAT+'split:\n  valid: .2\n  train: .6\n', 'line 5: split.train: .*known are valid, test'),
    'duplicate key': ('seed: 1\n'+CAT+'seed: 2\n', 'line 4: seed: stands in line 1'),
    'duplicate class': (CAT+'  dog: a dog\n  cat: kitten\n', r'line 4: classes.cat: stands in line 2 already'),
    'duplicate key left empty': ('about:\nabout: x\n'+CAT, 'line 2: about: stands in line 1'),
    'duplicate key of a class': ('classes:\n  cat:\n    queries: a\n    queries: b\n', 'line 4: classes.cat.queries: stands in line 3'),
    'tab': ('classes:\n\tcat: a cat\n', 'line 2: a tab; indent with spaces'),
    'empty': ('', 'my.yaml: empty'),
    'only comments': ('# nothing\n\n', 'line 1: empty; a recipe needs'),
    'text': ('just some words\n', "line 1: 'just some words' where a recipe is wanted"),
    'list': ('# one\n- cat\n- dog\n', 'line 2: a list where a recipe is wanted'),
    'no classes': ('pictures: 3\n', 'line 1: classes: missing; name the classes'),
    'classes left empty': ('pictures: 3\nclasses:\n', 'line 2: classes: nothing where a mapping'),
    'no class': ('classes: {}\n', 'line 1: classes: no class'),
    'list of classes': ('classes:\n- cat\n- dog\n', 'line 1: classes: a list where a mapping'),
    'class without query': ('classes:\n  cat: a cat\n  dog:\n', 'line 3: classes.dog.queries: at least one query'),
    'empty queries': ('classes:\n  cat:\n    queries: []\n', 'line 3: classes.cat.queries: at least one query'),
    'class mapping without queries': ('classes:\n  cat:\n    pictures: 3\n', 'line 2: classes.cat.queries: missing; say what'),
    'one empty query': ("classes:\n  cat:\n    - a cat\n    - ''\n", 'classes.cat.queries: at least one query'),
    'mapping among queries': ('classes:\n  cat:\n    - a cat\n    - meme: cat\n', "line 4: classes.cat.queries: a mapping where text is wanted; text with ': ' in it needs quotes"),
    'list among queries': ('classes:\n  cat: [a cat, [b]]\n', 'line 2: classes.cat.queries: a list where text is wanted'),
    'colon in a query': ('classes:\n  cat: cat: black\n', "line 2: a second ': ' in this line"),
    'mapping where text is wanted': ('about: {a: b}\n'+CAT, 'line 1: about: a mapping where text'),
    'mapping where a list is wanted': (CAT+'exclude:\n  mug: 1\n', 'line 3: exclude: a mapping where a list'),
    'split is a number': (CAT+'split: .2\n', r"line 3: split: '.2' where a mapping"),
    'no pictures': ('pictures: 0\n'+CAT, "line 1: pictures: '0': must be greater than or equal to 1"),
    'half a picture': ('pictures: 1.5\n'+CAT, "line 1: pictures: '1.5' where a whole number"),
    'word for pictures': ('pictures: many\n'+CAT, "line 1: pictures: 'many' where a whole number"),
    'too many pictures': ('pictures: 999999999999\n'+CAT, 'line 1: pictures: .*100000'),
    'absurdly many': (f"pictures: {'9'*5000}\n"+CAT, 'line 1: pictures: .* where a whole number'),
    'pictures of a class': ('classes:\n  cat: {queries: a, pictures: -1}\n', 'line 2: classes.cat.pictures: .*greater'),
    'sides': (CAT+'min_side: 900\n', 'line 3: min_side: min_side is 900 and max_side 800'),
    'sides, both': ('max_side: 50\n'+CAT, 'line 1: max_side: min_side is 100 and max_side 50'),
    'max_side 0': ('max_side: 0\nmin_side: 0\n'+CAT, 'line 1: max_side: .*and 16'),
    'candidates': ('candidates: .5\n'+CAT, 'line 1: candidates: .*greater than or equal to 1'),
    'candidates nan': ('candidates: nan\n'+CAT, 'line 1: candidates: .* a number is wanted'),
    'split all': (CAT+'split:\n  valid: .5\n  test: .5\n', 'line 3: split: valid 0.5 and test 0.5 leave nothing to train on'),
    'split percent': (CAT+'split: {valid: 20%}\n', "line 3: split.valid: '20%' where a number"),
    'split negative': (CAT+'split:\n  test: -.1\n', 'line 4: split.test: .*greater'),
    'split nan': (CAT+'split: {test: .nan}\n', 'line 3: split.test: .*number'),
    'seed': ('seed: 1.5\n'+CAT, 'line 1: seed: .*whole number'),
    'seed negative': ('seed: -1\n'+CAT, 'line 1: seed: .*greater'),
    'safe': ('safe: maybe\n'+CAT, "line 1: safe: 'maybe' where true or false"),
    'license': ('license: public domain\n'+CAT, 'line 1: license: .*did you mean public-domain'),
    'license far': ('license: MIT\n'+CAT, 'line 1: license: .*any, share'),
    'source': (CAT+'sources:\n  - openverse\n  - duckduck\n', 'line 5: sources: .*did you mean duckduckgo'),
    'source without a place': (CAT+"sources: ['urls:']\n", 'line 3: sources: urls needs a place, such as urls:list.csv'),
    'source with a place too many': (CAT+"sources: ['wikimedia:cats']\n", 'line 3: sources: .*write wikimedia'),
    'no source': (CAT+'sources: []\n', 'line 3: sources: no source'),
    'same query of two classes': (CAT+'  dog:\n    - a dog\n    - A Cat\n', r"line 5: classes.dog.queries: 'A Cat' is searched for class 'cat' too.*\(see line 2\)"),
    'query twice': ('classes:\n  cat:\n    queries:\n      - a cat\n      - a  CAT\n', r'line 5: classes.cat.queries: .*twice.*\(see line 4\)'),
    'excluded word in a query': ('exclude: [toy]\nclasses:\n  poodle:\n    - poodle\n    - Toy poodle\n', "line 5: classes.poodle.queries: .*asks for 'toy', which is excluded"),
    'word excluded for the class': ('classes:\n  poodle:\n    queries: toy poodle\n    exclude: toy\n', "line 3: classes.poodle.queries: .*asks for 'toy'"),
    'long query': (f"classes:\n  cat: {'cat '*100}\n", 'line 2: classes.cat.queries: 399 characters; at most 300'),
    'control character in a query': ('classes:\n  cat: "a\\acat"\n', r'line 2: classes.cat.queries: the character U\+0007'),
    'half a character': ('classes:\n  cat: "a \\ud800 cat"\n', r'line 2: classes.cat.queries: the character U\+D800'),
    'control character in the file': ('classes:\n  cat: a\x07cat\n', r'line 2: the character U\+0007 cannot stand in YAML'),
    'nul': ('classes:\n  cat: a\0cat\n', r'line 2: the character U\+0000'),
    'no such character': ('classes:\n  cat: "\\U99999999"\n', 'line 1: not valid YAML'),
    'open quote': ('classes:\n  cat: "a cat\n  dog: a dog\n', 'line 2: not valid YAML: found unexpected end of stream'),
    'open bracket': ('classes:\n  cat: [a cat\n  dog: a dog\n', 'line 3: '),
    'two recipes': (CAT+'---\n'+CAT, r'line 3: a second recipe begins here'),
    'star': ('classes:\n  cat: *cat\n', r'line 2: .*text that begins with \* or & needs quotes'),
    'merge': ('x: &x {a: b}\nclasses:\n  <<: *x\n', 'line 3: classes: merging with << is not read'),
    'tag': ('classes:\n  cat: !!python/object/apply:os.system ["echo"]\n', 'line 2: classes.cat: the tag .*python.* means nothing'),
    'tag of a key': ('classes:\n  !foo cat: a\n', 'line 2: classes: the tag !foo'),
    'list for a key': ('classes:\n  [a, b]: c\n', 'line 2: classes: a list or mapping where a name'),
    'template': ('classes:\n  cat: {{ query }}\n', 'line 2: classes.cat: a list or mapping where a name'),
    'deep': ('about: '+'['*50+']'*50+'\n'+CAT, 'line 1: about: nested deeper'),
    'very deep': ('about: '+'['*50_000+'\n'+CAT, 'line 1: nested deeper'),
    'contains itself': ('classes: &x\n  cat: *x\n', 'nested deeper, or repeated'),
    'expands without end': ('a: &a ['+'x,'*99+'x]\nb: &b ['+'*a,'*99+'*a]\nc: ['+'*b,'*99+'*b]\n'+CAT, 'repeated more often'),
    'latin-1': ('classes:\n  cat: a cat\n  café: x\n'.encode('latin-1'), 'line 3: not UTF-8 text; save the file as UTF-8'),
    'a picture': (b'\xff\xd8\xff\xe0'+bytes(range(256))*20, 'line 1: not UTF-8'),
    'too large': (b'#'*(2**20+1), 'over the limit'),
}


@pytest.mark.parametrize('what', MISTAKES)
def test_mistakes_are_told_by_line(what, tmp_path):
    text, said = MISTAKES[what]
    assert re.search(said, refused(load, tmp_path, text)), refused(load, tmp_path, text)


NO_FOLDER = ['.', '..', '...', '.hidden', 'a/b', 'a\\b', 'a:b', 'what?', 'a*', '<b>', 'a|b', '"quoted"', 'trailing.', ' before', 'after ', 'con', 'NUL', 'Com1', 'lpt9.txt', 'COM¹', 'aux .x',
             'a\x07b', 'a\u200bb', 'a\u202eb', 'a\u2028b', 'x'*101, '犬'*90, 'manifest.csv', 'CREDITS.md', '   ']


@pytest.mark.parametrize('name', NO_FOLDER)
def test_names_that_cannot_be_folders(name, tmp_path):
    said = refused(load, tmp_path, f'classes:\n  cat: a cat\n  {json.dumps(name)}: x\n')
    assert said.startswith('my.yaml, line 3: classes.')
    if advice := re.search(r"write '(.*)'$", said): assert _folder_name(advice[1]) == advice[1]
    with pytest.raises(RecipeError, match='^recipe: classes'): Recipe(classes={name: 'x'})


@pytest.mark.parametrize('name', ['gibson_Flying_V', 'a b', "l'été", 'x'*100, 'console', 'com10', '-v', 'a.b', '#1', 'می\u200cروم', '👩\u200d🚀', 'Ωmega', '100%'])
def test_names_that_can(name, tmp_path):
    assert list(load(tmp_path, f'classes:\n  {json.dumps(name)}: x\n').classes) == [name] == list(load(tmp_path, json.dumps({'classes': {name: 'x'}}, ensure_ascii=False)).classes)
    (tmp_path/name).mkdir()


@pytest.mark.parametrize('a,b', [('Cat', 'cat'), ('é', unicodedata.normalize('NFD', 'é')), ('É', unicodedata.normalize('NFD', 'é')), ('STRASSE', 'straße'), ('Σ', 'ς')])
def test_names_that_are_one_folder_elsewhere(a, b, tmp_path):
    assert re.match(rf'my.yaml, line 3: classes.{b}: .*one on Windows and macOS.*\(see line 2\)', refused(load, tmp_path, f'classes:\n  {a}: x\n  {b}: y\n'))


def test_all_mistakes_are_kept_and_the_first_is_told(tmp_path):
    with pytest.raises(RecipeError) as e: load(tmp_path, 'classes:\n  cat: {queries: a, pictures: 0}\nseed: x\npictrues: 3\n')
    assert e.value.lines == [2, 3, 4] and [p[0] for p in e.value.problems] == [('classes', 'cat', 'pictures'), ('seed',), ('pictrues',)]
    assert str(e.value).endswith('; and 2 more, line 3, 4')
    again = pickle.loads(pickle.dumps(e.value))
    assert (str(again), again.lines, again.problems) == (str(e.value), e.value.lines, e.value.problems)


def test_files_that_cannot_be_read(tmp_path):
    for path, said in ((tmp_path/'none.yaml', 'no such file'), (tmp_path, 'a folder, not a file')):
        with pytest.raises(RecipeError, match=said): Recipe.load(path)
        with pytest.raises(RecipeError, match=said): Recipe.from_csv(path)


def test_marks_and_line_ends(tmp_path):
    want = load(tmp_path, 'classes:\n  cät: a cat\n')
    for data in ('\ufeffclasses:\r\n  cät: a cat\r\n'.encode(), 'classes:\r  cät: a cat\r'.encode(), '\ufeffclasses:\n  cät: a cat\n'.encode('utf-16-le'), 'classes:\n  cät: a cat\n'.encode('utf-16')):
        assert load(tmp_path, data) == want


def test_broken_text_gives_nothing_but_recipe_errors(tmp_path):
    rng, good = random.Random(0), (SHELF/'chihuahua_or_muffin.yaml').read_text(encoding='utf-8')
    ends = Counter()
    for _ in range(150):
        text = list(good[:rng.randrange(200, 1500)])
        for _ in range(rng.randrange(1, 6)): text[rng.randrange(len(text))] = rng.choice(':-[]{}"\'#&*!|>%@`\t\n\\ ,?\0\x85\u2028é😀~')
        try: load(tmp_path, ''.join(text)); ends['read'] += 1
        except RecipeError as e:
            ends['refused'] += 1
            assert '\n' not in str(e) and re.search(r'my\.yaml, line \d+: ', str(e)), str(e)
    assert min(ends.values()) > 5 and len(ends) == 2, ends


# In Python

def test_python_is_checked_alike():
    with pytest.raises(RecipeError, match='^recipe: classes: missing'): Recipe()
    with pytest.raises(RecipeError, match='^recipe: picturs: .*did you mean pictures'): Recipe(classes={'a': 'x'}, picturs=3)
    with pytest.raises(RecipeError, match='classes.7: 7 where text is wanted'): Recipe(classes={7: 'x'})
    with pytest.raises(RecipeError, match='classes.a: 3 where a query, a list of queries'): Recipe(classes={'a': 3})
    with pytest.raises(RecipeError, match='^recipe: name: .*folder'): Recipe(name='a/b', classes={'a': 'x'})
    with pytest.raises(RecipeError, match='self: no such key'): Recipe(**{'self': 1, 'classes': {'a': 'x'}})
    r = Recipe(classes={'a': Class(queries='x')})
    with pytest.raises(Exception, match='frozen'): r.pictures = 3
    with pytest.raises(ValueError, match="no class 'b'; did you mean|no class 'b'; known are a"): r.wanted('b')


def test_replace():
    r = Recipe.named('guitars')
    assert r.replace() == r and r.replace().digest == r.digest
    n = r.replace(pictures=9, classes={'a': 'x'})
    assert (n.pictures, list(n.classes), r.pictures, len(r.classes)) == (9, ['a'], 200, 11) and n != r
    with pytest.raises(RecipeError, match='pictures'): r.replace(pictures=0)
    with pytest.raises(RecipeError, match='did you mean license'): r.replace(licence='any')


def test_sources_of_ones_own(monkeypatch):
    with pytest.raises(RecipeError, match='is no source'): Recipe(classes={'a': 'x'}, sources=['pond'])
    monkeypatch.setattr('lookalikes.recipe.SOURCE_NAMES', [*SOURCE_NAMES, 'pond'])
    assert Recipe(classes={'a': 'x'}, sources='pond').sources == ['pond']
    assert Recipe.schema() == json.loads((SHELF/'schema.json').read_text(encoding='utf-8'))


@pytest.mark.parametrize('word,text,hit', [
    ('mug', 'A Mug of tea', True), ('mug', 'smug', False), ('mug', 'mugs', False), ('mug', 'https://x.org/muffin-mug_2.jpg', True), ('mug', 'x/a%20MUG.png', True), ('mug', 'mug2', False),
    ('clip art', 'Clip-Art', True), ('clip art', 'clip the art', False), ('clip art', 'clip%20art', True), ('t-shirt', 'a T shirt', True), ('café', 'CAFE\u0301 au lait', True), ('café', 'cafe', False),
    ('STRASSE', 'straße', True), ('हिन', 'हिन्दी', False), ('हिन्दी', 'एक हिन्दी शब्द', True), ('マグ', '青いマグカップ', True), ('犬', '小犬の写真', True), ('開', '개', False), ('ｍｕｇ', 'mug', True), ('!', 'wow!', False)])
def test_excluded_words(word, text, hit):
    r = Recipe(classes={'a': {'queries': 'x', 'exclude': word}, 'b': 'y'})
    assert r.excluded('a', text) == (word if hit else '') and r.excluded('b', text) == ''
    assert r.replace(exclude=[word]).excluded('b', text) == (word if hit else '')


def test_a_query_may_say_itself_what_it_excludes():
    Recipe(exclude='mug', classes={'a': ['muffin -mug', 'muffin -"coffee mug" close', 'smug cat']})
    with pytest.raises(RecipeError, match='asks for'): Recipe(exclude='mug', classes={'a': 'mug-shaped muffin'})


def test_digest_is_of_what_decides_the_pictures():
    r = Recipe(classes={'a': 'x', 'b': ['y', 'z']})
    assert re.fullmatch('[0-9a-f]{64}', r.digest) and r.digest == Recipe(classes={'b': ['y', 'z'], 'a': {'queries': ['x']}}).digest
    assert r.digest == r.replace(name='other', about='words').digest
    changed = [r.replace(**o).digest for o in (dict(sources=['wikimedia']), dict(sources=r.sources[::-1]), dict(pictures=1), dict(candidates=3), dict(min_side=1), dict(max_side=None), dict(license='share'), dict(safe=False),
                                               dict(exclude='q'), dict(split={'valid': .3}), dict(seed=1), dict(classes={'a': 'x'}), dict(classes={'a': 'x', 'b': ['z', 'y']}))]
    assert len({r.digest, *changed}) == 1+len(changed)


def test_digest_is_the_same_in_another_process():
    run = "from lookalikes.recipe import Recipe; print(Recipe.named('guitars').digest)"
    out = subprocess.run([sys.executable, '-c', run], cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'PYTHONHASHSEED': '7'}, check=True).stdout
    assert out.strip() == Recipe.named('guitars').digest


def test_looks():
    r = Recipe(name='r', about='<b>', classes={'a': ['<script>', 'z'], 'b': {'queries': 'y', 'pictures': 3}}, license='share')
    assert repr(r) == str(r) == 'Recipe r: 2 classes, 3 queries, 3 to 150 pictures each, from duckduckgo, openverse, wikimedia; licence: share'
    assert repr(Recipe(classes={'a': 'x'})).startswith('Recipe recipe: 1 class, 1 query, 150 pictures each')
    html = r._repr_html_()
    assert '&lt;script&gt;<br>z' in html and '<script>' not in html and '&lt;b&gt;' in html and html.count('<tr>') == 3


# Saving

@pytest.mark.parametrize('name', NAMES)
def test_saved_recipes_load_equal(name, tmp_path):
    r = Recipe.named(name)
    again = Recipe.load(r.save(tmp_path/'x.yaml'))
    assert again == r and again.digest == r.digest and again.name == name
    assert again.save(tmp_path/'y.yaml').read_bytes() == (tmp_path/'x.yaml').read_bytes()


def test_random_recipes_survive_saving(tmp_path):
    rng = random.Random(0)
    words = ['no', '~', 'null', '#x', '- a', 'a: b', "it's", '"q"', '[x]', '{y}', '*s', '&t', '!u', '%v', '@w', '`b`', '007', '1e3', 'ünï', '犬', '😀', '\u200f', '?', '|', '>', '=', '<<', 'a\u00a0b', '\ufeffz', 'x'*90, '---', '...', '\\n']
    def text(k): return ' '.join(rng.choice(words) for _ in range(rng.randint(1, k)))
    for _ in range(60):
        classes = {f'{i} {rng.choice(["no", "ünï", "犬", "a b", "null", "#", "%", "007"])}': {'queries': [f'{i} {text(9)} {j}' for j in range(rng.randint(1, 3))], 'pictures': rng.choice([None, 5])} for i in range(3)}
        r = Recipe(classes=classes, about='\n'.join(text(30) for _ in range(rng.randint(0, 3))), name=rng.choice(['no', '1e3', 'x y']), max_side=rng.choice([None, 500]), candidates=rng.uniform(1, 9))
        assert Recipe.load(r.save(tmp_path/'r.yaml')) == r


def test_places_follow_the_file(tmp_path):
    (tmp_path/'a'/'b').mkdir(parents=True)
    r = load(tmp_path/'a', "sources: ['urls:list.csv', 'folder:../photos', wikimedia]\n"+CAT)
    moved = Recipe.load(r.save(tmp_path/'a'/'b'/'my.yaml'))
    assert moved == r and moved.sources == ['urls:../list.csv', 'folder:../../photos', 'wikimedia']
    assert moved.source_path(moved.sources[1]) == tmp_path/'photos'
    assert r.replace(pictures=3).source_path('urls:list.csv') == tmp_path/'a'/'list.csv'
    assert Recipe(classes={'a': 'x'}).source_path('folder:x') == Path.cwd()/'x'
    assert load(tmp_path/'a'/'b', "sources: ['urls:list.csv', 'folder:../photos', wikimedia]\n"+CAT) != r


# Tables

SAME = {
    'plain': 'class,query\ncat,a cat\ndog,"a dog, sitting"\ncat,grey cat\n',
    'no heading': 'cat,a cat\ndog,"a dog, sitting"\ncat,grey cat\n',
    'other names': 'Label,Search\ncat,a cat\ndog,"a dog, sitting"\ncat,grey cat\n',
    'other order': 'query,label\na cat,cat\n"a dog, sitting",dog\ngrey cat,cat\n',
    'more columns': 'n,class,note,query\n1,cat,,a cat\n2,dog,x,"a dog, sitting"\n3,cat,,grey cat\n',
    'semicolons': 'class;query\r\ncat;a cat\r\ndog;a dog, sitting\r\ncat;grey cat\r\n',
    'tabs': 'class\tquery\ncat\ta cat\ndog\ta dog, sitting\ncat\tgrey cat\n',
    'quoted, blank lines, spaces': '\n"class","query"\n\n "cat" , a cat \n'.replace(' "cat" ', '"cat"')+'dog,"a dog, sitting"\n,\ncat,grey cat\n\n',
    'mark': '\ufeffclass,query\ncat,a cat\ndog,"a dog, sitting"\ncat,grey cat',
}


@pytest.mark.parametrize('what', SAME)
def test_tables_of_searches(what, tmp_path):
    r = table(tmp_path, SAME[what], pictures=9)
    assert {k: c.queries for k, c in r.classes.items()} == {'cat': ['a cat', 'grey cat'], 'dog': ['a dog, sitting']}
    assert (r.name, r.pictures, r.sources) == ('my', 9, SOURCE_NAMES)


@pytest.mark.parametrize('text', ['label,url\ncat,https://x.org/1.jpg\ndog,http://x.org/2\ncat,https://x.org/3.jpg\n', 'cat,https://x.org/1.jpg\ndog,https://x.org/2.jpg\ncat,https://x.org/1.jpg\n',
                                  'file,label,query,url\na.jpg,cat,a cat,https://x.org/1.jpg\nb.jpg,dog,a dog,https://x.org/2.jpg\n'])
def test_tables_of_addresses(text, tmp_path):
    r = table(tmp_path, text)
    assert r.sources == ['urls:my.csv'] and r.source_path(r.sources[0]) == tmp_path/'my.csv' and {k: c.queries for k, c in r.classes.items()} == {'cat': ['cat'], 'dog': ['dog']}


BAD_TABLES = {
    'empty': ('', 'my.csv: empty'),
    'blank': ('\n\n,\n', 'line 1: empty; a table needs'),
    'one column': ('cat\ndog\n', 'line 1: .cat. names no two columns'),
    'three columns': ('cat,a cat,x\n', 'line 1: .*names no two columns'),
    'half a heading': ('class,frog\ncat,a cat\n', 'line 1: .*names no two columns'),
    'only a heading': ('class,query\n', 'line 1: classes: no class'),
    'no query': ('class,query\ncat,a cat\ndog,\n', 'line 3: the query is missing'),
    'no class': ('class,query\ncat,a cat\n\n,a dog\n', 'line 4: the class is missing'),
    'row too short': ('class,query\ncat\n', 'line 2: the query is missing'),
    'comma without quotes': ('cat,a cat\ndog,a dog, sitting\n', 'line 2: 3 columns where two are wanted'),
    'query twice': ('class,query\ncat,a cat\ndog,a dog\ncat,A cat\n', r"line 4: classes.cat.queries: 'A cat' stands here twice.*\(see line 2\)"),
    'query of two classes': ('class,query\ncat,a cat\ndog,a cat\n', r"line 3: classes.dog.queries: .*class 'cat' too.*\(see line 2\)"),
    'case': ('class,query\ncat,a cat\n\nCat,a big cat\n', r'line 4: classes.Cat: .*one on Windows.*\(see line 2\)'),
    'name': ('class,query\ncat,a cat\na/b,x\n', 'line 3: classes.a/b: / cannot stand'),
    'address among searches': ('cat,a cat\ndog,https://x.org/1.jpg\n', 'line 2: .*is an address among searches'),
    'search among addresses': ('label,url\ncat,https://x.org/1.jpg\ndog,ftp://x.org/1.jpg\n', "line 3: 'ftp://x.org/1.jpg' is no address"),
    'open quote': ('class,query\ncat,"a cat\ndog,a dog\n', 'line 2: not valid CSV'),
    'quote inside': ('class,query\ncat,"a" cat\n', 'line 2: not valid CSV'),
    'name of two lines': ('class,query\ncat,x\n"a/b","y\nz"\n', 'line 3: classes.a/b'),
    'line break in a cell': ('class,query\ncat,"a\ncat"\ndog,\n', 'line 4: the query is missing'),
    'latin-1': ('class,query\ncafé,x\n'.encode('latin-1'), 'line 2: not UTF-8'),
    'long cell': ('class,query\ncat,'+'x'*200_000+'\n', 'line 2: not valid CSV: field larger'),
}


@pytest.mark.parametrize('what', BAD_TABLES)
def test_mistakes_in_tables_are_told_by_line(what, tmp_path):
    text, said = BAD_TABLES[what]
    assert re.search(said, refused(table, tmp_path, text)), refused(table, tmp_path, text)


def test_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert table(tmp_path, SAME['plain']) == Recipe.find('my.csv') and load(tmp_path, CAT) == Recipe.find('my.yaml') and Recipe.find('guitars') == Recipe.named('guitars')
    (tmp_path/'plain').write_text(CAT)
    assert Recipe.find(tmp_path/'plain').name == 'plain'
    with pytest.raises(RecipeError, match='no such file'): Recipe.find('none.yaml')
    with pytest.raises(RecipeError, match='did you mean guitars'): Recipe.find('guitar')


# The shelf

def test_names():
    assert Recipe.names() == NAMES == sorted(p.stem for p in SHELF.glob('*.yaml'))
    with pytest.raises(RecipeError, match='no recipe is called x+; known are cats_or_dogs, .*pet_breeds'): Recipe.named('xxxxxxx')
    with pytest.raises(RecipeError, match="did you mean pet_breeds. Known are cats_or_dogs"): Recipe.named('pet-breeds')
    with pytest.raises(RecipeError, match='lookalikes draw counting_circles'): Recipe.named('counting_circles')
    with pytest.raises(RecipeError, match='no recipe is called'): Recipe.named('../recipes/guitars')


@pytest.mark.parametrize('name', NAMES)
def test_recipes_of_the_lessons(name):
    text, r = (SHELF/f'{name}.yaml').read_text(encoding='utf-8'), Recipe.named(name)
    assert text.startswith('# yaml-language-server: $schema=schema.json\n') and max(map(len, text.splitlines())) < 170
    assert r.name == name and r.about and r.exclude and r.min_side >= 150 and text.count('#') > 3
    for label, c in r.classes.items(): assert len(c.queries) >= 4, label
    # A word that stands in every address of a source would leave nothing of it.
    for url in ('https://upload.wikimedia.org/wikipedia/commons/thumb/a/ab/File.jpg/640px-File.jpg', 'https://commons.wikimedia.org/wiki/File:x.jpg', 'https://live.staticflickr.com/65535/1_b.jpg', 'https://api.openverse.org/v1/images/'):
        assert not any(r.excluded(o, url) for o in r.classes), url
    plain = yaml.safe_load(text)  # other readers of YAML see the same classes
    assert list(plain['classes']) == list(r.classes)


def test_classes_are_those_of_the_lessons():
    from lookalikes.draw import twin_of
    assert set(Recipe.named('chihuahua_or_muffin').classes) == set(twin_of('chihuahua_or_muffin'))
    assert set(Recipe.named('paintings').classes) == set(twin_of('paintings')) and Recipe.named('paintings').license == 'public-domain' == LICENSES[-1]
    assert list(Recipe.named('cats_or_dogs').classes) == ['cat', 'dog'] and set(Recipe.named('kittens_or_cats').classes) == {'kitten', 'cat'}
    assert set(Recipe.named('not_cats_or_dogs').classes) == {'bagel', 'mop', 'teddy', 'fried_chicken'}
    pets = list(Recipe.named('pet_breeds').classes)
    assert len(pets) == 37 and sum(o[0].isupper() for o in pets) == 12 and len(Recipe.named('guitars').classes) == 11


def test_classes_are_those_of_the_photographs(photos):
    for folder, name in (('pet_breeds/images', 'pet_breeds'), ('guitars', 'guitars'), ('paintings', 'paintings'), ('kittens_or_cats', 'kittens_or_cats')):
        if not (photos/folder).is_dir(): pytest.skip(f'no real photographs in {folder}')
        have = {re.sub(r'_\d+\.\w+$', '', p.name) for p in (photos/folder).iterdir() if p.name[0] != '.'}
        assert have == set(Recipe.named(name).classes)


def test_schema_is_the_one_on_the_shelf():
    text = json.dumps(Recipe.schema(), indent=2)+'\n'
    write = "python -c \"import json; from lookalikes.recipe import Recipe; print(json.dumps(Recipe.schema(), indent=2))\" > data/recipes/schema.json"
    assert (SHELF/'schema.json').read_text(encoding='utf-8') == text, f'run: {write}'


@pytest.mark.parametrize('name', NAMES)
def test_recipes_pass_the_schema(name):
    schema = pytest.importorskip('jsonschema', reason='jsonschema comes with jupyterlab').Draft202012Validator(Recipe.schema())
    plain = yaml.safe_load((SHELF/f'{name}.yaml').read_text(encoding='utf-8'))
    assert not list(schema.iter_errors(plain))
    for bad in ({'pictrues': 1}, {'pictures': 0}, {'license': 'MIT'}, {'sources': ['nowhere']}, {'classes': {}}, {'split': {'valid': 2}}): assert list(schema.iter_errors(plain | bad)), bad


def test_import_is_light():
    heavy = 'torch', 'torchvision', 'fastai', 'timm', 'sklearn', 'onnxruntime', 'matplotlib'
    run = f"import sys; from lookalikes.recipe import Recipe; Recipe.named('guitars'); print(*[o for o in {heavy} if o in sys.modules])"
    assert subprocess.run([sys.executable, '-c', run], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == ''


def test_the_shelf_of_an_editable_install(scratch, tmp_path):
    "In an environment of its own, which borrows what this one has installed."
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
    def run(*args): return subprocess.run(list(map(str, args)), capture_output=True, text=True, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, timeout=300)
    venv = tmp_path/'venv'
    made = run(sys.executable, '-m', 'venv', '--without-pip', venv)
    assert made.returncode == 0, made.stderr
    python = venv/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    home = Path(run(python, '-c', "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    (home/'zz_borrowed.pth').write_text(sysconfig.get_path('purelib')+'\n', encoding='utf-8')  # last, so that it does not hide the install
    done = run(python, '-m', 'pip', 'install', '--quiet', '--ignore-installed', '--no-deps', '--no-build-isolation', '--no-index', '-e', scratch)
    assert done.returncode == 0, done.stdout+done.stderr
    out = run(python, '-c', "import lookalikes; from lookalikes.recipe import Recipe; print(lookalikes.__file__); print(Recipe.named('guitars')); print(*Recipe.names())")
    assert out.returncode == 0, out.stderr
    where, _, names = out.stdout.splitlines()
    assert os.path.realpath(where).startswith(os.path.realpath(scratch)) and names.split() == NAMES
