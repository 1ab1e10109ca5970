"""The converters that make lists of addresses and captions, on small files in the real layouts."""

import bz2
import csv
import gzip
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pq = pytest.importorskip('pyarrow.parquet')
pa_csv = pytest.importorskip('pyarrow.csv')

TOOLS = Path(__file__).parents[2] / 'tools' / 'dataset_converters'
QUOTED = 'a sign says "open" on a door'


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a converter in this process, and gives what it says."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def run_tool(tool: str, *arguments: object, status: int = 0) -> str:
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        if status == 0:
            runpy.run_path(str(TOOLS / tool), run_name='__main__')
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(TOOLS / tool), run_name='__main__')
        assert leaving.value.code == status or str(leaving.value.code).startswith('error: ')
        return f'{leaving.value.code}\n{capsys.readouterr().err}'

    return run_tool


def test_help_of_all_from_any_folder(tmp_path, run, capsys):
    for tool in ('cc3m.py', 'cc12m.py', 'redcaps.py'):
        with pytest.raises(SystemExit) as leaving:
            run(tool, '--help')
        assert leaving.value.code == 0
        assert f'tools/dataset_converters/{tool}' in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, TOOLS / 'yfcc14m.py', '--help'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '--caption' in done.stdout


@pytest.fixture
def cc3m(tmp_path) -> Path:
    path = tmp_path / 'Train_GCC-training.tsv'
    lines = [
        f'{QUOTED}\thttp://a.org/1.jpg'.encode(),
        '"café by the  sea\thttps://a.org/2.jpg'.encode(),  # a quote that never ends
        b'\thttp://a.org/3.jpg',
        b'no address\tnone',
        b'three\tfields\thttp://a.org/4.jpg',
        b'not utf-8 \xff\thttp://a.org/5.jpg',
    ]
    path.write_bytes(b'\n'.join(lines) + b'\n')
    return path


@pytest.mark.parametrize('suffix', ['.tsv', '.parquet'])
def test_cc3m_is_read_by_img2datasets_reader_and_losses_are_counted(run, cc3m, suffix):
    out = cc3m.parent / 'lists' / f'cc3m{suffix}'
    said = run('cc3m.py', cc3m, out).splitlines()
    if suffix == '.tsv':  # as img2dataset reads it
        options = pa_csv.ParseOptions(delimiter='\t')
        table = pa_csv.read_csv(out, parse_options=options).to_pydict()
    else:
        table = pq.read_table(out).to_pydict()
    assert table == {
        'url': ['http://a.org/1.jpg', 'https://a.org/2.jpg'],
        'caption': [QUOTED, '"café by the sea'],
    }
    assert said[0] == f'{out}: 2 pairs'
    assert set(said[1:]) == {
        'left out: 1 (empty caption)',
        'left out: 1 (no http address)',
        'left out: 1 (not 2 fields)',
        'left out: 1 (not UTF-8)',
    }


def test_a_mark_of_utf_8_is_no_part_of_the_first_row(run, tmp_path):
    source = tmp_path / 'cc12m.tsv'
    source.write_text('https://a.org/1.jpg\ta horse\n', encoding='utf-8-sig')
    run('cc12m.py', source, tmp_path / 'out.parquet')
    assert pq.read_table(tmp_path / 'out.parquet').to_pydict() == {
        'url': ['https://a.org/1.jpg'],
        'caption': ['a horse'],
    }


def test_cc12m_has_the_address_first(run, tmp_path):
    source = tmp_path / 'cc12m.tsv'
    source.write_text('https://a.org/1.jpg\ta <PERSON> on a horse\n')
    run('cc12m.py', source, tmp_path / 'out.tsv')
    with (tmp_path / 'out.tsv').open(newline='') as file:
        rows = list(csv.reader(file, delimiter='\t'))
    assert rows == [['url', 'caption'], ['https://a.org/1.jpg', 'a <PERSON> on a horse']]


def test_the_wrong_file_is_refused_and_an_earlier_list_stays(run, cc3m):
    out = cc3m.with_name('list.parquet')
    out.write_text('earlier')
    said = run('cc12m.py', cc3m, out, status=1)
    assert 'no usable row was found' in said and '4 times no http address' in said
    assert out.read_text() == 'earlier'
    assert 'must end in .parquet or .tsv' in run('cc3m.py', cc3m, 'list.csv', status=1)
    assert 'absent.tsv' in run('cc3m.py', 'absent.tsv', out, status=1)


def test_many_rows_span_row_groups(run, tmp_path):
    source = tmp_path / 'cc12m.tsv'
    rows = 70000
    source.write_text(''.join(f'http://a.org/{i}\tcaption {i}\n' for i in range(rows)))
    run('cc12m.py', source, tmp_path / 'out.parquet')
    file = pq.ParquetFile(tmp_path / 'out.parquet')
    assert (file.metadata.num_rows, file.metadata.num_row_groups) == (rows, 2)
    assert file.read()['caption'][-1].as_py() == f'caption {rows - 1}'


def post(number: int, **changes) -> dict:
    return {
        'image_id': f'id{number}',
        'author': 'someone',
        'url': f'https://i.redd.it/{number}.jpg',
        'raw_caption': f'My Cat {number} [OC]',
        'caption': f'my cat {number}',
        'subreddit': 'cats',
        'score': 7,
        'created_utc': 1546300800,
        'permalink': '/r/cats/',
        'crosspost_parents': None,
        **changes,
    }


@pytest.mark.parametrize(('suffix', 'pack'), [('.bz2', bz2.compress), ('.gz', gzip.compress)])
def test_a_download_that_was_cut_off_is_named(run, tmp_path, suffix, pack):
    path = tmp_path / f'cc12m.tsv{suffix}'
    rows = (f'http://a.org/{n}.jpg\tcaption {n}\n' for n in range(5000))
    content = pack(''.join(rows).encode())
    path.write_bytes(content[: len(content) // 2])
    said = run('cc12m.py', path, tmp_path / 'out.tsv', status=1)
    assert 'is damaged or cut off' in said and 'get it again' in said
    path.write_bytes(b'no archive')
    assert f'{path} is damaged' in run('cc12m.py', path, tmp_path / 'out.tsv', status=1)
    assert not (tmp_path / 'out.tsv').exists()


def test_the_list_that_is_read_is_not_written_over(run, cc3m):
    content = cc3m.read_bytes()
    assert 'is read, and would be written over' in run('cc3m.py', cc3m, cc3m, status=1)
    assert cc3m.read_bytes() == content


@pytest.fixture
def redcaps(tmp_path) -> Path:
    folder = tmp_path / 'annotations'
    folder.mkdir()
    dogs = [post(4, subreddit='dogpictures', caption='a dog')]
    cats = [post(1), post(2, caption=''), post(3, url=None)]
    for name, posts in (('cats_2019', cats), ('dogpictures_2020', dogs)):
        (folder / f'{name}.json').write_text(json.dumps({'info': {}, 'annotations': posts}))
    return folder


def test_redcaps_keeps_id_and_subreddit(run, redcaps, tmp_path):
    said = run('redcaps.py', redcaps, tmp_path / 'out.parquet')
    assert pq.read_table(tmp_path / 'out.parquet').to_pydict() == {
        'url': ['https://i.redd.it/1.jpg', 'https://i.redd.it/4.jpg'],
        'caption': ['my cat 1', 'a dog'],
        'image_id': ['id1', 'id4'],
        'subreddit': ['cats', 'dogpictures'],
    }
    assert 'left out: 1 (empty caption)' in said
    assert 'left out: 1 (an annotation lacks url, caption, image_id or subreddit)' in said


@pytest.mark.parametrize('suffix', ['.parquet', '.tsv'])
def test_half_a_letter_leaves_a_row_out(run, redcaps, tmp_path, suffix):
    posts = [post(5, caption='half a dog \ud83d'), post(6)]
    (redcaps / 'half_2020.json').write_text(json.dumps({'annotations': posts}))
    said = run('redcaps.py', redcaps, tmp_path / f'out{suffix}')
    assert 'left out: 1 (not UTF-8)' in said and ': 3 pairs' in said


def test_redcaps_of_some_subreddits(run, redcaps, tmp_path):
    run('redcaps.py', redcaps, tmp_path / 'out.parquet', '--subreddits', 'DogPictures')
    assert pq.read_table(tmp_path / 'out.parquet')['image_id'].to_pylist() == ['id4']
    said = run('redcaps.py', redcaps, 'out.parquet', '--subreddits', 'cats', 'owls', status=2)
    assert 'no annotation files of: owls' in said


def test_redcaps_names_a_broken_file(run, redcaps, tmp_path):
    (redcaps / 'owls_2020.json').write_text('{"annotations": [')
    said = run('redcaps.py', redcaps, tmp_path / 'out.parquet', status=1)
    assert 'owls_2020.json is not JSON' in said
    assert not (tmp_path / 'out.parquet').exists()


def metadata_line(number: int, title: str, description: str, marker: str = '0') -> str:
    columns = [str(number), str(1000 + number), 'hash', '1@N00', 'nick', '2012-02-16', '1331840483']
    columns += ['Canon', title, description, 'tag', '', '', '', '', 'http://www.flickr.com/photos']
    columns += [f'http://farm8.staticflickr.com/{number}.jpg', 'Attribution', 'http://cc', '7205']
    columns += ['8', 'secret', 'secret', 'jpg', marker]
    return '\t'.join(columns) + '\n'


@pytest.fixture
def yfcc(tmp_path) -> tuple[Path, Path]:
    metadata = tmp_path / 'yfcc100m_dataset.bz2'
    link = '%3Ca+href%3D%22http%3A%2F%2Fx.org%22+rel%3D%22nofollow%22%3Ehere%3C%2Fa%3E'
    lines = [
        metadata_line(0, 'A+red+boat', f'Seen+%28{link}%29%2C+Tom+%26amp%3B+I%0A50%25'),
        metadata_line(1, 'Not+in+the+subset', 'x'),
        metadata_line(2, 'Two+dogs', 'Two+dogs+play.+www.dogs.com'),
        metadata_line(3, 'A+film', '', marker='1'),
        metadata_line(4, 'Why%3F', 'Because'),
        metadata_line(5, '', ''),
        'too\tshort\n',
    ]
    metadata.write_bytes(bz2.compress(''.join(lines).encode()))
    subset = tmp_path / 'yfcc100m_subset_data.tsv'
    subset.write_text(''.join(f'{n}\t{1000 + n}\thash\n' for n in (5, 4, 3, 2, 0, 9)))
    return subset, metadata


def test_yfcc14m_joins_and_cleans(run, yfcc, tmp_path):
    said = run('yfcc14m.py', *yfcc, tmp_path / 'out.parquet')
    assert pq.read_table(tmp_path / 'out.parquet').to_pydict() == {
        'url': [f'http://farm8.staticflickr.com/{n}.jpg' for n in (0, 2, 4)],
        'caption': [
            'A red boat. Seen ( here ), Tom & I 50%',
            'Two dogs play.',
            'Why? Because',
        ],
        'photo_id': ['1000', '1002', '1004'],
    }
    assert set(said.splitlines()[1:]) == {
        'left out: 1 (a video)',
        'left out: 1 (empty caption)',
        'left out: 1 (not 25 fields)',
        'left out: 1 (in the subset, but not in the metadata)',
    }


@pytest.mark.parametrize(
    ('part', 'first'), [('title', 'A red boat'), ('description', 'Seen ( here ), Tom & I 50%')]
)
def test_yfcc14m_of_one_part(run, yfcc, tmp_path, part, first):
    run('yfcc14m.py', *yfcc, tmp_path / 'out.parquet', '--caption', part)
    assert pq.read_table(tmp_path / 'out.parquet')['caption'][0].as_py() == first


def test_yfcc14m_refuses_another_file_as_the_subset(run, yfcc, tmp_path):
    _, metadata = yfcc
    said = run('yfcc14m.py', metadata, metadata, tmp_path / 'out.parquet', status=2)
    assert 'is not the subset' in said
