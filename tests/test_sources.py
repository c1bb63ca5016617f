"Where pictures come from: folders, tables that hold them, addresses, and what becomes of everything that is none of these."
import hashlib
import io
import json
import os
import shutil

import fault_server
import numpy as np
import pandas as pd
import pytest
import troublesome as tr
from fault_server import BEHAVIOURS, expected
from PIL import Image

from lookalikes import scale
from lookalikes.engines import Local
from lookalikes.imageset import ImageSet
from lookalikes.picture import ImageError
from lookalikes.shards import Shards
from lookalikes.sources import Addresses, Folder, Pictures, list_place, source, write_place
from lookalikes.web import Limits

pa = pytest.importorskip('pyarrow')
pq = pytest.importorskip('pyarrow.parquet')
posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX names')


def picture(i, side=24):
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(out := io.BytesIO(), 'png', compress_level=1)
    return out.getvalue()


PICTURES = [picture(i) for i in range(11)]


def tree(folder, *files):
    for i, f in enumerate(files):
        (folder/f).parent.mkdir(parents=True, exist_ok=True)
        (folder/f).write_bytes(PICTURES[i % len(PICTURES)])
    return folder


def verify(place, out, **kw): return scale.verify(place, out, progress=False, **dict(engine=Local(1)) | kw)
def table(shards): return shards.table().to_pandas().set_index('file')
def reasons(shards): return dict(zip(shards.failed.file, shards.failed.reason))
def read(src): return list(src.read(src.rows()))
def sha(data): return hashlib.sha256(data).hexdigest()
def column(shards, name): return shards.table([name])[name].to_pylist()


# Folders

def test_the_troublesome_folder(tmp_path):
    "Nothing crashes; what cannot be opened is a row with the reason that opening it alone gives."
    tr.make(tmp_path/'src'/'things')
    got = verify(tmp_path/'src', tmp_path/'out', shard=16)
    alone = ImageSet.from_folder(tmp_path/'src').verify().df
    unicode = alone.file.map(lambda f: f == f.encode(errors='replace').decode())
    said = reasons(got)
    assert len(got) == len(alone) > 150 and len(said) > 70
    same = alone[unicode]
    bad = same[same.status == 'unreadable']
    assert {f: said.get(f) for f in bad.file} == dict(zip(bad.file, bad.reason.map(lambda r: ' '.join(r.split()))))
    ok, t = same[same.status == 'ok'], table(got)
    assert (t.loc[ok.file, ['sha256', 'width', 'height']].to_numpy() == ok[['sha256', 'width', 'height']].to_numpy()).all() and not set(ok.file) & set(said)
    other = alone.file[~unicode].map(lambda f: f.encode('utf-8', 'backslashreplace').decode())
    assert len(other) == 2*(os.name == 'posix') and all('not Unicode' in said[f] for f in other)
    assert len(said) == len(bad)+len(other) and all(r.isprintable() for r in said.values())
    before = got.table()
    os.unlink(got.part(1))
    again = verify(tmp_path/'src', tmp_path/'out', shard=16)
    assert again.worked == 16 and again.table() == before


@pytest.mark.parametrize('name', ['a/.hidden.png', '.git/b.png', '.quarantine/a/b.png', 'a/.cache/c.png'])
def test_hidden_files_are_no_pictures(tmp_path, name):
    verify(tree(tmp_path/'src', 'a/1.png', 'b/2.png', name), tmp_path/'out')
    assert column(Shards(tmp_path/'out'), 'file') == ['a/1.png', 'b/2.png']


def test_a_manifest_decides(tmp_path):
    "Its labels and its splits; what it has set aside is left out, what it found unreadable is tried again."
    images = ImageSet.from_folder(tree(tmp_path/'src', 'a/1.png', 'a/2.png', 'b/3.png', 'b/4.png', 'b/5.png'))
    images.replace(label=['x', 'y', 'x', 'y', 'z'], split=['train', 'valid', '', 'test', ''], status=['ok', 'quarantined', 'ok', 'unreadable', 'ok'], reason=['', 'blurred', '', 'HTML', '']).save()
    tree(tmp_path/'src', 'b/not_in_it.png')
    got = table(verify(tmp_path/'src', tmp_path/'out'))
    assert got.label.to_dict() == {'a/1.png': 'x', 'b/3.png': 'x', 'b/4.png': 'y', 'b/5.png': 'z'} and got.split.tolist() == ['train', '', 'test', ''] and (got.reason == '').all()


def test_splits_that_come_later(tmp_path):
    "The table keeps the columns that it began with."
    src = tree(tmp_path/'src', 'a/1.png', 'b/2.png')
    verify(src, tmp_path/'out')
    images = ImageSet.from_folder(tree(src, 'a/1.png', 'b/2.png', 'b/3.png'))
    images.replace(split=['train', 'train', 'test']).save()
    more = verify(src, tmp_path/'out', shard=None)
    assert more.worked == 1 and column(more, 'file') == ['a/1.png', 'b/2.png', 'b/3.png'] and 'split' not in more.table().schema.names
    (src/'manifest.csv').unlink()
    verify(src, tmp_path/'other')
    split = tree(tmp_path/'split'/'src', 'train/a/1.png', 'test/a/2.png')
    assert column(verify(split, tmp_path/'out2'), 'split') == ['test', 'train']
    tree(split, 'train/b/1.png', 'loose/b/2.png')
    more = verify(split, tmp_path/'out2')
    assert more.worked == 2 and column(more, 'split') == ['test', 'train', '', '']


def test_a_folder_that_is_none(tmp_path):
    (tmp_path/'empty').mkdir()
    (tmp_path/'x.jpg').write_bytes(PICTURES[0])
    tree(tmp_path/'broken', 'a/1.png')
    (tmp_path/'broken'/'manifest.csv').write_text('file,label\na/1.png\n')
    for place, error, say in [('none', FileNotFoundError, 'none: no such folder'), ('empty', ValueError, 'empty: no pictures'), ('x.jpg', NotADirectoryError, 'x.jpg: a file'),
                              ('broken', ValueError, r'broken.manifest\.csv, row 2'), ('none.parquet', FileNotFoundError, 'none.parquet: no such file'), ('none.csv', FileNotFoundError, 'none.csv: no such file'),
                              ('memory://nothing', ValueError, 'memory://nothing: no pictures'), ('spam://eggs', ValueError, 'spam://eggs')]:
        with pytest.raises(error, match=say): verify(place if '://' in place else tmp_path/place, tmp_path/'out')
    assert not (tmp_path/'out').exists()


# Tables that hold pictures

def tell(file, columns, row_group=None, names=None):
    t = pa.table(columns)
    if names: t = t.replace_schema_metadata(dict(huggingface=json.dumps(dict(info=dict(features=dict(label=dict(names=names, _type='ClassLabel')))))))
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(t, file, row_group_size=row_group or len(t) or 1)
    return file


@pytest.mark.parametrize('row_group', [1, 3, 4, 11])
@pytest.mark.parametrize('shape', ['bytes', 'struct'])
def test_row_groups_need_not_be_shards(tmp_path, row_group, shape):
    data = PICTURES if shape == 'bytes' else [dict(bytes=o, path=f'{i}.png') for i, o in enumerate(PICTURES)]
    file = tell(tmp_path/'zoo.parquet', {'bytes' if shape == 'bytes' else 'image': data, 'label': [i % 2 for i in range(11)]}, row_group, ['cat', 'dog'] if shape == 'struct' else None)
    src = source(file)
    assert isinstance(src, Pictures) and read(src) == PICTURES and list(src.read(src.rows().iloc[[2, 3, 9]])) == [PICTURES[i] for i in (2, 3, 9)]
    got = verify(file, tmp_path/'out', shard=4)
    assert got.n_shards == 3 and column(got, 'sha256') == [sha(o) for o in PICTURES] and got.failed.empty
    assert column(got, 'label') == [('cat', 'dog')[i % 2] if shape == 'struct' else str(i % 2) for i in range(11)] and column(got, 'file')[:2] == ['zoo/000000', 'zoo/000001']


def test_nulls(tmp_path):
    "No picture, no label, no name: a row all the same. A null among labels makes no fractions of the others, and -1 is the hub's word for none."
    data = [dict(bytes=PICTURES[0]), None, dict(bytes=None), dict(bytes=b''), dict(bytes=b'<html>'), dict(bytes=PICTURES[1])]
    file = tell(tmp_path/'zoo.parquet', dict(image=data, label=[0, 1, None, -1, 1, None], file=['a', None, 'c', 'd', 'e', 'f']), 2, ['cat', 'dog'])
    got = verify(file, tmp_path/'out', shard=4)
    assert column(got, 'file') == ['a', 'zoo/000001', 'c', 'd', 'e', 'f'] and column(got, 'label') == ['cat', 'dog', '', '', 'dog', '']
    none = 'no picture in this row'
    said = reasons(got)
    assert 'HTML' in said.pop('e') and said == {'zoo/000001': none, 'c': none, 'd': none}
    plain = tell(tmp_path/'plain.parquet', dict(bytes=PICTURES[:3], label=[3, None, 0]))
    assert column(verify(plain, tmp_path/'plain'), 'label') == ['3', '', '0']


def test_several_tables(tmp_path):
    "Names stay apart where two tables use the same; beside a name that occurs twice in one there is nothing to tell rows apart by."
    for i in range(3): tell(tmp_path/'zoo'/'data'/f'{i}.parquet', dict(bytes=PICTURES[3*i:3*i+3]), 2)
    (tmp_path/'zoo'/'.cache').mkdir()
    (tmp_path/'zoo'/'.cache'/'note.json').write_text('{}')
    got = verify(tmp_path/'zoo', tmp_path/'out', shard=4)
    assert column(got, 'sha256') == [sha(o) for o in PICTURES[:9]] and column(got, 'file')[3] == '1/000000'
    for name in 'ab': tell(tmp_path/'twins'/f'{name}.parquet', dict(bytes=PICTURES[:2], file=['x.png', 'y.png']))
    assert column(verify(tmp_path/'twins', tmp_path/'out2'), 'file') == ['a/x.png', 'a/y.png', 'b/x.png', 'b/y.png']
    tell(tmp_path/'twice.parquet', dict(bytes=PICTURES[:2], file=['x.png', 'x.png']))
    with pytest.raises(ValueError, match="twice.parquet: two rows are called 'x.png'"): verify(tmp_path/'twice.parquet', tmp_path/'out3')


def test_tables_that_are_none(tmp_path):
    tell(tmp_path/'empty.parquet', dict(bytes=pa.array([], pa.binary())))
    tell(tmp_path/'columns.parquet', dict(id=[1, 2], text=['a', 'b']))
    tell(tmp_path/'mixed'/'a.parquet', dict(bytes=PICTURES[:2]))
    tell(tmp_path/'mixed'/'b.parquet', dict(id=[1, 2]))
    tell(tmp_path/'image.parquet', dict(image=['a.png', 'b.png']))
    whole = tell(tmp_path/'whole.parquet', dict(bytes=PICTURES)).read_bytes()
    for name, data in dict(html=b'<html>', zero=b'', cut=whole[:len(whole)//2], foot=whole[:-9]+b'x'+whole[-8:]).items(): (tmp_path/f'{name}.parquet').write_bytes(data)
    for name, say in dict(empty='no rows', columns=r"no column url among \['id', 'text'\]", mixed=r"b\.parquet: neither .* among \['id'\]", image='no column url', html='not a Parquet file', zero='not a Parquet file',
                          cut='not a Parquet file', foot='not a Parquet file').items():
        with pytest.raises(ValueError, match=f'{name}.*{say}'): verify(tmp_path/(name if name == 'mixed' else f'{name}.parquet'), tmp_path/'out')
    assert not (tmp_path/'out').exists()


def test_a_table_that_changes_under_way(tmp_path):
    "Damaged, or gone, between plan and work: its rows fail, the others do not."
    files = [tell(tmp_path/'zoo'/f'{i}.parquet', dict(bytes=PICTURES[3*i:3*i+3])) for i in range(3)]
    first = verify(tmp_path/'zoo', tmp_path/'out', shard=3)
    for k in range(3): os.unlink(first.part(k))
    src = source(tmp_path/'zoo')
    rows = src.rows()
    data = bytearray(files[0].read_bytes())
    data[20:60] = bytes(40)
    files[0].write_bytes(data)
    files[1].unlink()
    got = list(src.read(rows))
    assert got[6:] == PICTURES[6:9] and any(isinstance(o, ImageError) or o != p for o, p in zip(got[:3], PICTURES)), 'the damage did none'
    assert all('1.parquet: no such file' in o.reason for o in got[3:6])
    again = verify(tmp_path/'zoo', tmp_path/'out', shard=3)
    assert again.worked == 9 and '0/000000' in reasons(again) and list(reasons(again))[-3:] == ['1/000000', '1/000001', '1/000002'] and column(again, 'sha256')[6:] == [sha(o) for o in PICTURES[6:9]]


def test_what_one_step_wrote_the_next_one_reads(tmp_path):
    "Fetched pictures, without the rows that failed; and the tables of two fetches are two sources."
    src = tree(tmp_path/'src', 'a/1.png', 'a/2.png', 'b/3.png')
    (src/'a'/'2.png').write_bytes(b'<html>')
    got = scale.fetch(src, tmp_path/'fetched', engine=Local(1), progress=False)
    assert (len(got), list(reasons(got))) == (3, ['a/2.png']) and column(got, 'bytes') == [PICTURES[0], None, PICTURES[2]]
    checked = verify(tmp_path/'fetched', tmp_path/'checked')
    assert column(checked, 'file') == ['a/1.png', 'b/3.png'] and column(checked, 'label') == ['a', 'b'] and checked.failed.empty
    assert checked.table(['sha256', 'width']) == got.table(['sha256', 'width', 'reason']).to_pandas().query("reason == ''")[['sha256', 'width']].pipe(pa.Table.from_pandas, preserve_index=False, schema=checked.table(['sha256', 'width']).schema)
    scale.fetch(tree(tmp_path/'more', 'c/4.png'), tmp_path/'fetched too', engine=Local(1), progress=False)
    with pytest.raises(ValueError, match="begun with source 'fetched', now it is 'fetched too'"): verify(tmp_path/'fetched too', tmp_path/'checked')
    with pytest.raises(ValueError, match='no column url'): verify(tmp_path/'checked', tmp_path/'nothing')


def test_fetched_pictures_as_a_folder(tmp_path):
    "Each once, a folder per class, as `fetch` of one machine has them."
    src = tree(tmp_path/'src', 'a/1.png', 'a/2.png', 'b/3.png')
    shutil.copy(src/'a'/'1.png', src/'b'/'again.png')
    (src/'b'/'bad.png').write_bytes(b'<html>')
    got = scale.fetch(src, tmp_path/'fetched', engine=Local(1), progress=False)
    saved = got.save_pictures(tmp_path/'set')
    assert saved == ImageSet.load(tmp_path/'set') and [(tmp_path/'set'/f).read_bytes() for f in saved.df.file] == PICTURES[:3] and saved.df.label.tolist() == ['a', 'a', 'b']
    assert saved.df.file.tolist() == [f'{c}/{sha(o)[:16]}.png' for c, o in zip('aab', PICTURES)] and saved.verify() == saved
    with pytest.raises(FileExistsError, match='not empty'): got.save_pictures(src)
    bad = scale.fetch(tell(tmp_path/'bad.parquet', dict(bytes=PICTURES[:1], label=['../up'])), tmp_path/'bad', engine=Local(1), progress=False)
    with pytest.raises(ValueError, match=r"class '\.\./up'"): bad.save_pictures(tmp_path/'new')


# Addresses

@pytest.fixture(scope='module')
def server():
    with fault_server.FaultServer() as s: yield s


def quick(server, **kw):
    return Limits(allow_private=tuple(f'{h}/32' for h in server.hosts), **dict(connect=2., read=2., whole=6., wait=.05, max_wait=4.) | kw)


def test_every_way_for_an_address_to_fail(server, tmp_path):
    server.reset()
    names = [n for n in BEHAVIOURS if server.has(n) and n != 'ca' and BEHAVIOURS[n].option not in ('ca', 'cookies', 'min_side')]
    rows = pd.DataFrame([dict(url=server.url(n, 100+i), label=n) for i, n in enumerate(names)])
    rows.sample(frac=1, random_state=0).to_parquet(tmp_path/'urls.parquet')
    got = scale.fetch(tmp_path/'urls.parquet', tmp_path/'out', engine=Local(2), shard=200, limits=quick(server, total=200, per_host=40), progress=False).table().to_pandas().set_index('label')
    log = server.log()
    assert len(got) == len(names) > 60 and not log.secrets and not log.errors
    wrong = [(n, r.reason) for n, r in got.iterrows() if (r.bytes != expected(r.url) if BEHAVIOURS[n].good else not BEHAVIOURS[n].fits(r.reason))]
    assert not wrong


def test_a_host_is_asked_by_one_worker(tmp_path):
    with fault_server.FaultServer(delay=.05) as server:
        urls = [server.url('good', i, server.hosts[i % len(server.hosts)]) for i in range(60)]
        pd.DataFrame(dict(url=[*urls, *urls[:20]], label=['first']*60+['again']*20)).to_csv(tmp_path/'urls.csv', index=False)
        rows = source(tmp_path/'urls.csv').rows()
        assert len(rows) == 60 and rows.lane.nunique() == len(server.hosts) and set(rows.label) == {'first'}
        got = scale.fetch(tmp_path/'urls.csv', tmp_path/'out', engine=Local(2), shard=5, limits=quick(server, per_host=2), progress=False)
        log = server.log()
    assert got.failed.empty and len(got) == 60 and all(log.started[f'/good/{i}.jpg'] == 1 for i in range(60))
    assert max(log.most.values()) <= 2+1        # a connection that is being closed may come on top
    assert dict(zip(column(got, 'file'), column(got, 'bytes'))) == {u: expected(u) for u in urls}


def test_hosts_keep_their_lane(tmp_path):
    "In a list that has grown, in another order, and by whatever name and scheme: two lanes for one host would be two workers asking it."
    def lanes(*urls):
        (tmp_path/'urls.txt').write_text('\n'.join(urls))
        rows = source(tmp_path/'urls.txt').rows()
        return dict(zip(rows.file, rows.lane))
    first = lanes('http://a.org/1.jpg', 'http://b.org/1.jpg')
    later = lanes('http://c.org/1.jpg', 'https://B.org:443/2.jpg', 'http://me@a.org:80/2.jpg', 'memory://a.org/3.jpg', 'http://a.org:8080/1.jpg', *first)
    assert {k: later[k] for k in first} == first and later['https://B.org:443/2.jpg'] == first['http://b.org/1.jpg'] and later['http://me@a.org:80/2.jpg'] == first['http://a.org/1.jpg']
    assert later['memory://a.org/3.jpg'] == -1 and len(set(later.values())) == 5


def test_lists_of_lines(server, tmp_path):
    a, b = server.url('good', 1), server.url('good', 2)
    (tmp_path/'urls.txt').write_bytes(f'\ufeff{a}\r\n# a remark\r\n\r\n  {b}  \r\n{a}\r\nnot an address\r\nftp://127.0.0.1/x.jpg\r\nhttp://[::1/x.jpg\r\n'.encode())
    got = scale.fetch(tmp_path/'urls.txt', tmp_path/'out', engine=Local(1), limits=quick(server), progress=False)
    assert {f: d for f, d in zip(column(got, 'file'), column(got, 'bytes')) if d} == {a: expected(a), b: expected(b)}
    assert set(reasons(got)) == {'not an address', 'ftp://127.0.0.1/x.jpg', 'http://[::1/x.jpg'} and all(reasons(got).values())
    for name, data, say in ('none.txt', b'# nothing\n', 'no addresses'), ('columns.csv', b'file,label\na,b\n', r"no column url among \['file', 'label'\]"), ('rows.csv', b'url,label\na\n', 'rows.csv, row 2'), ('blank.csv', b'', 'empty'):
        (tmp_path/name).write_bytes(data)
        with pytest.raises(ValueError, match=say): verify(tmp_path/name, tmp_path/'none')


def test_what_is_known_of_an_address_stays(server, tmp_path):
    origin = dict(label=['plum', 'NA'], query=['a plum', ''], page=['http://example.org', ''], license=['CC0', ''], creator=['me', ''])
    pd.DataFrame(dict(url=[server.url('good', i) for i in (1, 2)]) | origin).to_csv(tmp_path/'urls.csv', index=False)
    got = scale.fetch(tmp_path/'urls.csv', tmp_path/'out', engine=Local(1), limits=quick(server), progress=False)
    df = got.images().df
    assert all(df[c].tolist() == v for c, v in origin.items()) and df.url.tolist() == df.file.tolist() and (df.width == 96).all()
    assert got.save_pictures(tmp_path/'set').df[list(origin)].equals(df[list(origin)])


def test_sources_are_what_they_look_like(tmp_path):
    tell(tmp_path/'urls'/'a.parquet', dict(url=['http://example.org/1.jpg']))
    for place, kind in (tmp_path/'urls', Addresses), (tmp_path/'urls'/'a.parquet', Addresses), (tree(tmp_path/'src', 'a/1.png'), Folder): assert isinstance(source(place), kind)
    write_place('memory://shelf/a/1.png', PICTURES[0])
    write_place('memory://shelf/a/.hidden.png', PICTURES[0])
    write_place('memory://shelf/b/empty.png', b'')
    assert list_place('memory://shelf') == ['a/.hidden.png', 'a/1.png', 'b/empty.png'] and source('memory://shelf/') == source('memory://shelf')
    one, two = read(source('memory://shelf'))
    assert one == PICTURES[0] and two.reason == 'empty file'
