"""What docs/training_data.md and docs/training.md show is run small, and figures are checked."""

import bz2
import json
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from mmengine.config import Config
from mmseg.registry import DATA_SAMPLERS, DATASETS, HOOKS, MODELS, TRANSFORMS
from PIL import Image

from pages import ROOT, blocks, commands, read_page, section
from pgseg_mm.datasets.sampling.sample_key import SampleKey
from shard_zoo import write_shards

DATA = read_page('docs/training_data.md')
TRAINING = read_page('docs/training.md')
STAND_IN = """#!{python}
import json, os, sys
names = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'GPUS')
told = dict(arguments=sys.argv[1:], environment=[os.environ.get(name) for name in names])
open('told.jsonl', 'a').write(json.dumps(told) + '\\n')
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with the project's configs and tools in it, where the commands are run."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: list[str], monkeypatch) -> None:
    assert command[0] == 'python'
    monkeypatch.syspath_prepend(str(Path(command[1]).parent))
    monkeypatch.setattr(sys, 'argv', command[1:])
    runpy.run_path(command[1], run_name='__main__')


def write_inputs(folder: Path) -> None:
    """One pair of each set, in the layout it comes in."""
    (folder / 'Train_GCC-training.tsv').write_text('a cat\thttp://a.org/1.jpg\n')
    (folder / 'cc12m.tsv').write_text('http://a.org/1.jpg\ta cat\n')
    (folder / 'annotations').mkdir()
    post = dict(image_id='x', url='http://a.org/1.jpg', caption='a cat', subreddit='cats')
    annotations = json.dumps(dict(info={}, annotations=[post]))
    (folder / 'annotations' / 'cats_2020.json').write_text(annotations)
    columns = ['0', '17', 'hash', *['x'] * 22]
    columns[8], columns[9], columns[16], columns[24] = 'a+cat', '', 'http://a.org/1.jpg', '0'
    (folder / 'yfcc100m_dataset.bz2').write_bytes(bz2.compress('\t'.join(columns).encode()))
    subset = folder / 'yfcc100m_subset_data.tsv.bz2'
    subset.write_bytes(bz2.compress(b'0\t17\thash\n'))


def test_lists_are_made_with_the_columns_that_img2dataset_is_told(place, monkeypatch):
    pq = pytest.importorskip('pyarrow.parquet')
    write_inputs(place)
    for command in commands(DATA, 'cc3m.py', 'cc12m.py', 'redcaps.py', 'yfcc14m.py'):
        run(command, monkeypatch)
    (download,) = commands(DATA, 'img2dataset --url_list')
    options = dict(zip(download[1::2], download[2::2], strict=True))
    assert Path(options['--url_list']).is_file()
    extra = dict(redcaps12m=['image_id', 'subreddit'], yfcc14m=['photo_id'])
    for name in ('cc3m', 'cc12m', 'redcaps12m', 'yfcc14m'):
        table = pq.read_table(f'data/{name}.parquet')
        columns = [options['--url_col'], options['--caption_col'], *extra.get(name, [])]
        assert table.column_names == columns
        assert table.to_pylist()[0]['caption'] == 'a cat'
        if name in extra:
            assert json.dumps(extra[name], separators=(',', ':')) in DATA


def test_shards_are_looked_at(place, monkeypatch, capsys):
    pattern = write_shards(place / 'data' / 'cc3m', shards=2, samples=3)
    ours = str(Path(pattern).relative_to(place))
    (verify,) = commands(DATA, 'verify_shards.py')
    (shards,) = [word for word in verify if word.startswith('data/cc3m/{')]
    run([ours if word == shards else word for word in verify], monkeypatch)
    assert (place / 'data' / 'cc3m.json').is_file()
    (browse,) = commands(DATA, 'browse_dataset.py')
    source = f'train_dataloader.dataset.sources.0.shards={ours}'
    (place / 'small.py').write_text(
        f'_base_ = {browse[2]!r}\ntrain_dataloader = dict(dataset=dict(sources=['
        "dict(name='cc3m', shards='', samples=6)]))\n"
    )
    run([*browse[:2], 'small.py', *browse[3:], '--cfg-options', source], monkeypatch)
    assert len(list((place / 'seen').iterdir())) == 6


def test_pairs_of_a_list_take_the_place_of_a_recipe_s_shards(place):
    block = blocks(DATA, 'python')[0]
    folder = place / 'data' / 'mine'
    folder.mkdir(parents=True)
    Image.new('RGB', (40, 30)).save(folder / 'a.jpg')
    (folder / 'captions.jsonl').write_text('{"image": "a.jpg", "caption": "a dog"}\n')
    config = place / 'mine.py'
    config.write_text(block.replace("'./", f"'{ROOT}/configs/pgseg/"))
    cfg = Config.fromfile(config)
    assert cfg.train_dataloader.batch_size == 256
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sample = dataset[SampleKey(0, 0, 0, 1)]
    assert len(dataset) == 1 and sample['inputs'].shape == (3, 224, 224)


def test_pastes_and_mosaics_are_mixed_by_chance(place):
    (block,) = (b for b in blocks(read_page('configs/pgseg/README.md'), 'python') if 'Mosaic' in b)
    config = place / 'both.py'
    config.write_text(block.replace("'./", f"'{ROOT}/configs/pgseg/"))
    made = MODELS.build(Config.fromfile(config).model.data_preprocessor)
    kinds = [type(augment).__name__ for augment in made.batch_augments.augments]
    assert (kinds, made.batch_augments.probs) == (['PasteImages', 'MosaicImages'], [0.36, 0.35])


def test_captions_get_a_place_by_three_settings(place):
    (block,) = blocks(section(DATA, 'With a place for captions'), 'python')
    recipes = ROOT / 'configs/pgseg'
    base, shipped = (
        recipes / f'pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224{which}.py'
        for which in ('', '_paste')
    )
    config = place / 'mine.py'
    config.write_text(f'_base_ = [{str(base)!r}]\n{block}')
    mine, theirs = (Config.fromfile(file).model.to_dict() for file in (config, shipped))
    assert theirs['decode_head'].pop('background_threshold') == 0.5
    assert mine['decode_head'].pop('background_threshold') != 0.5
    assert mine == theirs


def test_prompts_are_of_words_of_ones_own(place):
    (block,) = blocks(section(DATA, 'Prompts against single groups'), 'python')
    config = place / 'mine.py'
    config.write_text(block.replace("'./", f"'{ROOT}/configs/pgseg/"))
    (place / 'words.txt').write_text('dog\nred apple, apple\n')
    mine = Config.fromfile(config)
    (name,) = (ROOT / 'configs/pgseg').glob('*-224x224_paste_late-interaction.py')
    shipped = Config.fromfile(name)
    assert mine.model == shipped.model
    *before, prompts, tokens, packed = mine.train_dataloader.dataset.pipeline
    *as_before, nouns, _, _ = shipped.train_dataloader.dataset.pipeline
    assert before == as_before and nouns.type == 'NounPrompts'
    made = TRANSFORMS.build(prompts)({'caption': 'a dog with an apple'})['prompts']
    assert len(made) == 3 and {'dog', 'apple'} == {
        w for p in made for w in ('dog', 'apple') if w in p
    }


def test_sources_of_shards_are_mixed_by_weight(place):
    write_shards(place / 'data' / 'cc3m', shards=332, samples=1)
    write_shards(place / 'mine', shards=32, samples=1)
    block = blocks(DATA, 'python')[-1]
    pipeline = "train_pipeline = [dict(type='DecodeImage')]\n"
    cfg = Config.fromstring(pipeline + block, '.py').train_dataloader
    assert cfg.dataset.sources[1].shards == 'pipe:ssh store cat mine/{00..31}.tar'
    cfg.dataset.sources[1].shards = 'pipe:cat mine/{00000..00031}.tar'
    dataset = DATASETS.build(cfg.dataset)
    assert len(dataset) == 4_000_000 and DATA_SAMPLERS.get(cfg.sampler.type)
    read = Counter(sample['read_record'].source for sample in islice(dataset, 120))
    assert set(read) == {'cc3m', 'mine'} and 1.5 < read['cc3m'] / read['mine'] < 6


def test_training_is_started_as_documented(place):
    for name in ('srun', 'python'):
        (place / name).write_text(STAND_IN.format(python=sys.executable))
        (place / name).chmod(0o755)
    env = {**os.environ, 'PATH': f'{place}:{os.environ["PATH"]}', 'PYTHON': str(place / 'python')}
    lines = commands(section(TRAINING, 'On several GPUs and machines'), 'dist_train.sh', 'slurm')
    assert len(lines) == 3
    for line in lines:
        first = line.index('bash')
        settings = dict(word.split('=', 1) for word in line[:first])
        subprocess.run(line[first:], env={**env, **settings}, check=True)
    told = [json.loads(line) for line in (place / 'told.jsonl').read_text().splitlines()]
    gpus = []
    for record in told:
        words = record['arguments']
        config = Config.fromfile(next(word for word in words if word.startswith('configs/')))
        config.merge_from_dict(dict([words[words.index('--cfg-options') + 1].split('=')]))
        assert config.load_from == 'groupvit.pth'
        options = dict(
            word.split('=', 1) for word in words if word.startswith('--') and '=' in word
        )
        nodes = int(options.get('--nnodes', 1))
        gpus.append(int(options.get('--ntasks', 0)) or nodes * int(options['--nproc_per_node']))
        assert gpus[-1] * config.train_dataloader.batch_size == 4096
    assert gpus == [4, 16, 16]


def test_options_that_are_named_exist():
    config = Config.fromfile(
        ROOT / 'configs/pgseg/pgseg_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py'
    )
    named = re.findall(r'--cfg-options\s+((?:[a-z][\w.]*=\S+\s*)+)', DATA + TRAINING)
    keys = {word.split('=')[0] for words in named for word in words.split()}
    assert {'auto_scale_lr.enable', 'default_hooks.checkpoint.interval'} <= keys
    before = config.to_dict()
    for key in keys | {'default_hooks.data_state.max_skipped', 'train_dataloader.num_workers'}:
        value = before
        for part in key.split('.'):
            value = value[int(part) if part.isdigit() else part]
    assert before['default_hooks']['data_state']['max_skipped'] == 0.1


def test_combined_config(tmp_path):
    (block,) = blocks(TRAINING, 'python')
    (tmp_path / 'mine.py').write_text(block.replace("'./", f"'{ROOT}/configs/pgseg/"))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert [hook.type for hook in cfg.custom_hooks] == ['VocabularyHook', 'EMAHook']
    assert all(HOOKS.get(hook.type) for hook in cfg.custom_hooks)
    assert len(cfg.visualizer.vis_backends) == 2 and cfg.visualizer.type == 'PGSegVisualizer'
    assert (cfg.optim_wrapper.dtype, cfg.optim_wrapper.optimizer.lr) == ('bfloat16', 1e-4)
    assert [source.name for source in cfg.train_dataloader.dataset.sources][-1] == 'redcaps12m'
    assert DATASETS.get(cfg.train_dataloader.dataset.type)


def test_shards_of_the_table_are_those_of_the_rows_and_of_the_configs():
    base = Config.fromfile(ROOT / 'configs/_base_/datasets/image_text_shards_224x224.py')
    names = {'CC3M': 'cc3m', 'CC12M': 'cc12m', 'RedCaps12M': 'redcaps12m', 'YFCC14M': 'yfcc14m'}
    for title, name in names.items():
        rows = re.search(rf'^\| {title} \|.*\| ([\d ]+) \|$', DATA, re.M)[1]
        last = -(-int(rows.replace(' ', '')) // 10000) - 1
        assert base[name].shards == f'data/{name}/{{00000..{last:05d}}}.tar'
        assert f'| {title} | `{{00000..{last:05d}}}.tar` |' in DATA


def test_figures_of_the_model(monkeypatch, capsys):
    sizes = []
    for folder, name in (('pgseg', 'pgseg'), ('groupvit', 'groupvit')):
        path = f'configs/{folder}/{name}_vit-small-p16_4xb1024-30e_cc3m-cc12m-224x224.py'
        model = MODELS.build(Config.fromfile(ROOT / path).model)
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
    assert [f'{size / 1e6:.1f}' for size in sizes] == ['64.7', '55.7']
    words = re.search(r'`(python tools/analysis_tools/get_flops.py\s+\S+)`', TRAINING)[1].split()
    monkeypatch.chdir(ROOT)
    run(words, monkeypatch)
    shown = capsys.readouterr().out
    image, caption = (float(re.search(rf'{part}.* (\S+) G', shown)[1]) for part in (
        'backbone', 'text_encoder',
    ))  # fmt: skip
    assert (
        f'{image:.2f} G multiply-adds' in TRAINING and f'{caption:.2f} G for a caption' in TRAINING
    )
    operations = (image + caption) * 1e9 * 2 * 3 * 14047648 * 30
    assert f'{operations / 1e19:.1f} × 10¹⁹' in TRAINING
    assert round(operations / (4 * 312e12 * 0.3) / 3600) == 11
    for count, text in ((16, '1.04 GB'), (20, '1.3 GB'), (6, '0.39 GB'), (12, '0.78 GB')):
        assert abs(count * sizes[0] / 1e9 - float(text.split()[0])) < 0.01 and text in TRAINING
