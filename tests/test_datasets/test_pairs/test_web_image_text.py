"""Tar shards: what is read, what is skipped, in which order, and how to go on in the middle."""

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.registry import DATASETS

from pgseg_mm.datasets.pairs.shards import expand_shards
from shard_zoo import jpeg, sound, write_damaged_shards, write_shards, write_tar
from web_pairs import BATCH, PIPELINE, keys, make, read, records


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(
        'pgseg_mm.datasets.pairs.web_image_text.get_dist_info', lambda: (rank, world_size)
    )


def passes(record):
    return record.state['sources']['zoo'][0]


@pytest.mark.parametrize('block', [1, 8])
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('world_size', [1, 2])
def test_every_sound_sample_comes_once_a_pass_and_all_others_are_counted(
    tmp_path, monkeypatch, world_size, workers, block
):
    pattern, good, expected = write_damaged_shards(tmp_path)
    seen, counts = [], Counter()
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        ended = set()
        dataset = make(pattern, shuffle_block=block)
        for record in records(read(dataset, 480 // world_size, workers)):
            if record.worker not in ended:
                # What was skipped before the first sample of the second pass was skipped in the
                # first, since every shard begins with a sound sample, which block=1 leaves there.
                counts.update(record.skipped.get('zoo', {}))
            if passes(record) > 0:
                ended.add(record.worker)
            if record.worker not in ended:
                seen.append(record.key.rsplit('/', 1)[1])
        assert ended == set(range(max(workers, 1)))

    assert len(seen) == len(set(seen))
    assert set(seen) == good
    if block == 1:
        assert counts == expected


@pytest.mark.parametrize(('before', 'after', 'stop'), [(3, 4, 9), (3, 5, 9), (4, 6, 8), (4, 4, 8)])
def test_with_another_batch_size_no_sample_comes_twice(tmp_path, before, after, stop):
    pattern = write_shards(tmp_path, shards=4, samples=15)
    first = read(make(pattern), stop, workers=2, batch=before)
    states = {record.worker: record.state for record in records(first)}
    resumed = dict(epoch=0, begin=stop, first_worker=stop // before % 2)
    rest = read(make(pattern), 30, 2, 0, stop, states, after, resumed)
    assert len(set(keys(first) + keys(rest))) == stop + 30
    # of other epochs all batches begin at their beginning
    dataset = make(pattern)
    again = read(dataset, 24, workers=2, epoch=1, batch=after, resumed=resumed)
    workers = [record.worker for record in records(again)[::after]]
    assert workers == [0, 1, 0, 1, 0, 1][: len(workers)]
    if before == after:
        whole = keys(read(make(pattern), stop + 30, workers=2))
        assert keys(first) + keys(rest) == whole


def test_order_follows_seed_and_epoch_and_nothing_else(tmp_path):
    pattern = write_shards(tmp_path, shards=4, samples=20)
    first = keys(read(make(pattern), 80))

    assert sorted(first) == [f'{number:05d}' for number in range(80)]
    assert keys(read(make(pattern), 80)) == first
    assert keys(read(make(pattern), 80, epoch=1)) != first
    assert keys(read(make(pattern, seed=1), 80)) != first
    again = make(pattern, seed=1)
    again.set_progress(BATCH, seed=0)
    assert keys(read(again, 80)) == first
    assert keys(read(make(pattern, shuffle=False), 80)) == sorted(first)


def test_another_pass_and_another_epoch_have_another_order(tmp_path):
    pattern = write_shards(tmp_path, shards=2, samples=20)
    dataset = make(pattern)
    both = keys(read(dataset, 80))

    assert sorted(both[:40]) == sorted(both[40:])
    assert both[:40] != both[40:]
    assert keys(read(dataset, 40, epoch=1)) != both[:40]


def test_shards_have_another_order_in_another_pass(tmp_path):
    pattern = write_shards(tmp_path, shards=4, samples=4)
    read_from = [int(key) // 4 for key in keys(read(make(pattern, shuffle_block=1), 64))]
    orders = {tuple(read_from[start : start + 16 : 4]) for start in range(0, 64, 16)}
    assert len(orders) > 1


def test_sources_and_readers_draw_on_their_own(tmp_path, monkeypatch):
    sources = [
        dict(name=name, shards=write_shards(tmp_path / name, 2, 20), weight=1)
        for name in ('one', 'other')
    ]
    drawn = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        drawn.append(records(read(make(sources), 40)))
    first, second = ([record.source for record in of_rank] for of_rank in drawn)
    assert first != second
    orders = []
    for name in ('one', 'other'):  # the same files in another folder
        found = [record.key for record in drawn[0] if record.source == name]
        orders.append([Path(key).stem for key in found][:10])
    assert orders[0] != orders[1]


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('stop', [4, 28, 60, 100])
def test_going_on_from_any_state_gives_the_rest_with_its_augmentations(tmp_path, workers, stop):
    pattern, *_ = write_damaged_shards(tmp_path / 'a')
    second = write_shards(tmp_path / 'b', shards=2, samples=13)
    sources = [
        dict(name='zoo', shards=pattern, weight=3),
        dict(name='sound', shards=second, weight=1),
    ]
    whole = read(make(sources), 160, workers)
    states = {record.worker: record.state for record in records(whole[:stop])}
    rest = read(make(sources), 160 - stop, workers, start=stop, states=states)

    assert records(rest) == records(whole[stop:])
    for one, other in zip(rest, whole[stop:], strict=True):
        assert torch.equal(one['inputs'], other['inputs'])
        assert torch.equal(one['tokens'], other['tokens'])


def test_what_is_skipped_on_resuming_is_neither_opened_nor_decoded(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, shards=4, samples=20)
    whole = read(make(pattern, shuffle_block=5), 72)
    state = records(whole)[67].state  # of 80: in the last shard, 3 into its second block
    dataset = make(pattern, shuffle_block=5)
    for record in records(whole[:60]):
        Path(record.key).parent.unlink(missing_ok=True)  # the shards before
    decoded = []
    monkeypatch.setattr(
        'mmcv.imfrombytes',
        lambda image, **_: decoded.append(image) or np.zeros((32, 40, 3), np.uint8),
    )

    assert records(read(dataset, 4, start=68, states={0: state})) == records(whole[68:72])
    assert len(decoded) == 4


def test_sources_are_mixed_by_weight(tmp_path):
    sources = [
        dict(name=name, shards=write_shards(tmp_path / name, 2, 5), weight=weight)
        for name, weight in (('often', 3), ('seldom', 1))
    ]
    counts = Counter(record.source for record in records(read(make(sources), 400)))

    # Binomial of 400 draws with probability 1/4: a deviation of 8.7 around 100.
    assert 65 < counts['seldom'] < 135


def test_weights_and_length_come_from_the_stats_of_img2dataset(tmp_path):
    sources = []
    for name, samples in (('a', 6), ('b', 2)):
        pattern = write_shards(tmp_path / name, 2, samples)
        for shard in range(2):
            stats = tmp_path / name / f'{shard:05d}_stats.json'
            stats.write_text(json.dumps(dict(count=99, successes=samples)))
        sources.append(dict(name=name, shards=pattern))
    dataset = make(sources, samples_per_epoch=None)

    assert len(dataset) == 16
    assert [source.weight for source in dataset.sources] == [12, 4]


def test_without_stats_the_length_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match='set samples_per_epoch'):
        make(write_shards(tmp_path, 1, 1), samples_per_epoch=None)


def test_without_stats_several_sources_need_weights(tmp_path):
    write_shards(tmp_path, 2, 1)
    sources = [dict(name=str(n), shards=f'{tmp_path}/0000{n}.tar') for n in range(2)]
    with pytest.raises(ValueError, match="Source '0' has no weight"):
        make(sources)


def test_wildcards_and_lists_name_shards(tmp_path):
    write_shards(tmp_path, 4, 1)
    by_hand = [f'{tmp_path}/0000{number}.tar' for number in range(4)]

    assert make(f'{tmp_path}/*.tar').sources[0].shards == by_hand
    assert make([dict(shards=by_hand)]).sources[0].shards == by_hand
    with pytest.raises(ValueError, match='named twice'):
        make([dict(shards=[f'{tmp_path}/*.tar', by_hand[0]])])


def test_patterns_are_taken_as_they_are_but_for_braces_and_variables(tmp_path, monkeypatch):
    for name in ('back\\slash', 'a::b', 'x{0,1}'):
        path = write_shards(tmp_path / name, shards=1, samples=1).replace('{00000..00000}', '00000')
        assert expand_shards(path) == [path]
    write_shards(tmp_path / 'many', shards=60, samples=1)
    numbers = ','.join(f'{number:05d}' for number in range(60))
    assert len(expand_shards(f'{tmp_path}/many/{{{numbers}}}.tar')) == 60
    monkeypatch.setenv('SHARDS', str(tmp_path / 'a::b'))
    assert expand_shards('${SHARDS}/*.tar') == [f'{tmp_path}/a::b/00000.tar']
    for command in ('pipe:cat ${SHARDS}/0.tar', r'pipe:cat my\ data/0.tar', 'pipe:rsync h::m/a -'):
        assert expand_shards(command) == [command]
    assert expand_shards('pipe:cat {0..1}.tar') == ['pipe:cat 0.tar', 'pipe:cat 1.tar']


@pytest.mark.parametrize('name', [None, 'mine'])
def test_a_run_goes_on_where_its_folder_has_moved(tmp_path, name):
    named = {} if name is None else {'name': name}

    def source(folder):
        return [dict(shards=f'{tmp_path}/{folder}/*.tar', **named)]

    write_shards(tmp_path / 'one', shards=2, samples=12)
    whole = read(make(source('one')), 24)
    state = records(whole)[11].state
    (tmp_path / 'one').rename(tmp_path / 'other')
    rest = read(make(source('other')), 12, start=12, states={0: state})
    assert keys(rest) == keys(whole)[12:]
    with pytest.raises(ValueError, match='shards, weights, seed or shuffling differ'):
        read(make(source('other'), seed=1), 12, start=12, states={0: state})


def test_states_of_earlier_versions_name_their_folder(tmp_path):
    sources = [dict(shards=write_shards(tmp_path, shards=2, samples=12))]
    whole = read(make(sources), 24)
    dataset = make(sources)
    new, old = dataset._setups()
    assert new != old
    state = {**records(whole)[11].state, 'setup': old}
    assert keys(read(dataset, 12, start=12, states={0: state})) == keys(whole)[12:]


@pytest.mark.parametrize('where', ['samples_per_epoch', 'samples'])
def test_numbers_of_samples_are_whole(tmp_path, where):
    pattern = write_shards(tmp_path, shards=1, samples=2)

    def length(number):
        if where == 'samples':
            return len(make([dict(shards=pattern, samples=number)], samples_per_epoch=None))
        return len(make(pattern, samples_per_epoch=number))

    assert length(4e6) == 4_000_000
    for number in (2.5, '3', True, float('inf'), float('nan')):
        with pytest.raises(ValueError, match=f'{where}.* expected a whole number'):
            length(number)
    with pytest.raises(ValueError, match='expected at least 1'):
        length(0)


def test_pipes_are_read_to_their_end_and_resumed(tmp_path):
    paths = write_shards(tmp_path, 2, 20)
    pattern = f'pipe:cat {paths}'
    by_path = read(make(paths), 40)
    by_pipe = read(make(pattern), 40)

    assert keys(by_pipe) == keys(by_path)
    states = {0: records(by_pipe)[31].state}
    assert keys(read(make(pattern), 8, start=32, states=states)) == keys(by_path[32:])


def test_fewer_shards_than_readers_are_refused_with_the_numbers(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, 3, 4)
    with pytest.raises(ValueError, match="'zoo' has 3 shards for 4 readers"):
        read(make(pattern), 16, workers=4)
    as_rank(monkeypatch, 0, 8)
    with pytest.raises(ValueError, match="'zoo' has 3 shards for 8 readers"):
        make(pattern)


def test_a_position_of_other_workers_or_other_shards_is_refused(tmp_path):
    pattern = write_shards(tmp_path, 2, 20)
    state = records(read(make(pattern), 4))[-1].state

    with pytest.raises(ValueError, match='reader 0 of 1, but this is reader 0 of 2'):
        read(make(pattern), 8, workers=2, states={0: state})
    with pytest.raises(ValueError, match='differ from those of the run'):
        read(make(pattern, shuffle_block=9), 8, states={0: state})


def test_captions_come_from_txt_or_else_from_json(tmp_path):
    image = jpeg(0)
    write_tar(
        tmp_path / '0.tar',
        [
            ('a.jpg', image),
            ('a.json', b'{"caption": "of a, in json", "alt": "x"}'),
            ('a.txt', b'  of a\n'),
            ('b.WEBP', image),
            ('b.json', b'{"caption": "of b", "alt": "other b"}'),
            ('b.npy', b'ignored'),
            ('c.jpg', image),
            ('c.json', b'{"caption": null, "alt": 3}'),
            ('d.jpg', image),
            ('d.json', b'{'),
            ('e.png', image),
            ('e.txt', b'one of two with one name'),
            ('e.png', image),
            ('e.txt', b'the other one'),
        ],
    )

    def captions(length, **kwargs):
        dataset = make(f'{tmp_path}/0.tar', shuffle=False, **kwargs)
        return read(dataset, length)

    samples = captions(4)
    assert [sample['data_samples'].caption for sample in samples] == [
        'of a',
        'of b',
        'one of two with one name',
        'the other one',
    ]
    assert records(samples)[2].skipped == {'zoo': {'missing caption': 1, 'broken JSON': 1}}
    assert captions(4, caption_key='alt')[1]['data_samples'].caption == 'other b'


@pytest.mark.parametrize('kinds', [('jpg', 'png'), ('png', 'jpg')])
def test_of_two_images_the_kind_decides_and_not_the_place(tmp_path, kinds):
    pixels = {'jpg': (8, 8), 'png': (12, 12)}
    members = [(f'a.{kind}', jpeg(0, pixels[kind])) for kind in kinds]
    write_tar(tmp_path / '0.tar', [*members, ('a.txt', b'text'), *sound(1)])
    limits = dict(min_pixels=100, shuffle=False)
    (first,) = records(read(make(f'{tmp_path}/0.tar', **limits), 1))
    assert first.skipped == {'zoo': {'too small': 1}}


def test_images_out_of_the_limits_are_not_decoded(tmp_path, monkeypatch):
    members = [('a.jpg', jpeg(0, (10, 9))), ('a.txt', b'small')]
    members += [('b.jpg', jpeg(0, (10, 10))), ('b.txt', b'just enough')]
    members += [('c.jpg', jpeg(0, (60, 50))), ('c.txt', b'large'), *sound(2)]
    write_tar(tmp_path / '0.tar', members)
    limits = dict(min_pixels=100, max_pixels=2000)

    first, second = records(
        read(make(f'{tmp_path}/0.tar', shuffle=False, **limits), 2),
    )
    assert first.skipped == {'zoo': {'too small': 1}}
    assert second.skipped == {'zoo': {'too large': 1}}
    with pytest.raises(ValueError, match='max_pixels is 5; expected'):
        make(f'{tmp_path}/0.tar', min_pixels=6, max_pixels=5)


def test_it_is_built_from_a_config_and_can_be_looked_through(tmp_path):
    config = dict(
        type='WebImageTextDataset',
        sources=dict(shards=write_shards(tmp_path, 2, 3), samples=6),
        pipeline=PIPELINE,
        metainfo=dict(name='zoo'),
    )
    dataset = pickle.loads(pickle.dumps(DATASETS.build(config)))

    assert dataset.metainfo == dict(name='zoo')
    assert sorted(sample['data_samples'].caption for sample in dataset) == [
        f'picture {number}' for number in range(6)
    ]
