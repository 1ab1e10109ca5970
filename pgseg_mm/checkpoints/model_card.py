"""Model cards for a hub, of what is known of a model; what is not known is left out."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log

from pgseg_mm.messages import first_of, shown
from pgseg_mm.serialization.loading import CheckpointError

from .architecture import Architecture
from .hugging_face import read_object
from .published import PublishedModel

MAX_CLASSES = 100
DATASET = re.compile(r'[\w.-]+(/[\w.-]+)?', re.ASCII)
"""Name of a data set on the hub, which has no others in its front matter."""
NOT_IN_SLUGS = re.compile(r'[^a-z0-9.]+')
METRICS = {'mIoU': 'mean_iou', 'aAcc': 'accuracy', 'mAcc': 'mean_accuracy'}
"""Metrics of the table of benchmarks by the names that the hub has."""
PROTOCOLS = {
    'published': 'as GroupViT and PGSeg were evaluated: short side of 448 px, windows of 448 px, '
    '224 px apart',
}
OLD_LABELS = {'tcl': 'published, with synonyms'}
"""What tables said that did not yet tell of what a protocol consists."""
PGSEG_BIBTEX = """@inproceedings{zhang2023pgseg,
  title={Uncovering Prototypical Knowledge for Weakly Open-Vocabulary Semantic Segmentation},
  author={Zhang, Fei and Zhou, Tianfei and Li, Boyang and He, Hao and Ma, Chaofan
          and Zhang, Tianjiao and Yao, Jiangchao and Zhang, Ya and Wang, Yanfeng},
  booktitle={Advances in Neural Information Processing Systems},
  year={2023}
}"""
GROUPVIT_BIBTEX = """@inproceedings{xu2022groupvit,
  title={GroupViT: Semantic Segmentation Emerges from Text Supervision},
  author={Xu, Jiarui and De Mello, Shalini and Liu, Sifei and Byeon, Wonmin and Breuel, Thomas
          and Kautz, Jan and Wang, Xiaolong},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2022}
}"""


class BenchmarkResult(NamedTuple):
    """A benchmark that was evaluated; metrics in percent."""

    name: str
    classes: int
    threshold: float | None
    images: int
    metrics: dict[str, float]


class BenchmarkTable(NamedTuple):
    """Results of ``tools/analysis_tools/zero_shot_table.py``."""

    protocol: str
    checkpoint: str
    """What was evaluated."""
    results: tuple[BenchmarkResult, ...]


@dataclass(frozen=True)
class Card:
    """What is known of a model; ``None`` and empty where nothing is."""

    name: str
    """What it is loaded by, such as ``hf-hub:owner/name``."""
    library: str
    """``library_name`` of the hub."""
    parameters: int
    """Numbers in its weights."""
    architecture: Architecture | None = None
    license: str | None = None
    """Of the hub's list, such as ``cc-by-4.0``, or ``other``."""
    license_name: str | None = None
    license_link: str | None = None
    datasets: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    """What it segments where no words are given."""
    table: BenchmarkTable | None = None
    published: PublishedModel | None = None
    """The published model that it is."""

    def text(self) -> str:
        """Content of ``README.md``: YAML front matter and Markdown."""
        sections = [
            f'---\n{self._front_matter()}\n---',
            f'# {_cell(self.name.removeprefix("hf-hub:"))}\n\n{self._about()}',
            f'## Use\n\n```bash\npip install "pgseg-mm[onedl]"\n```\n\n{self._use()}',
            self._architecture(),
            _section('Training data', '\n'.join(f'- {_cell(name)}' for name in self._data())),
            self._classes(),
            self._results(),
            self._published_results(),
            self._license(),
            _section('Citation', f'```bibtex\n{self._bibtex()}\n```'),
        ]
        return '\n\n'.join(section for section in sections if section) + '\n'

    def _data(self) -> tuple[str, ...]:
        return self.datasets or (self.published.data if self.published else ())

    def _front_matter(self) -> str:
        from huggingface_hub import EvalResult, ModelCardData  # only who pushes pays for it

        table = self.table
        measured = [] if table is None else list(table.results)
        results = [
            EvalResult(
                task_type='image-segmentation',
                task_name='zero-shot semantic segmentation',
                dataset_type=result.name,
                dataset_name=result.name,
                metric_type=METRICS[metric],
                metric_name=metric,
                metric_value=round(value, 2),
            )
            for result in measured
            for metric, value in result.metrics.items()
        ]
        found = dict.fromkeys(METRICS[metric] for r in measured for metric in r.metrics)
        return ModelCardData(
            license=self.license,
            license_name=_slug(self.license_name),
            license_link=self.license_link,
            library_name=self.library,
            pipeline_tag='image-segmentation',
            tags=['zero-shot-segmentation', 'open-vocabulary', 'groupvit'],
            datasets=[name for name in self.datasets if DATASET.fullmatch(name)] or None,
            metrics=list(found) or None,
            model_name=self.name.rpartition('/')[2] if results else None,
            eval_results=results or None,
        ).to_yaml()

    def _about(self) -> str:
        kind = 'A model'
        if self.architecture is not None:
            kind = 'PGSeg' if self.architecture.prototypes else 'GroupViT'
        return (
            f"{kind} for pgseg-mm (`pip install 'pgseg-mm[onedl]'`): segments images by any words."
        )

    def _use(self) -> str:
        lines = [
            'from pgseg_mm.apis import PGSegInferencer',
            f'inferencer = PGSegInferencer({self.name!r})',
            "result = inferencer('photo.jpg', classes=['dog', 'grass', 'sky'])[0]",
        ]
        text = _python(lines)
        if self.library != 'transformers':
            return text
        own = self.name.removeprefix('hf-hub:')
        return f'{text}\n\nOr with `transformers`:\n\n' + _python(
            [
                'from transformers import GroupViTModel',
                f'model = GroupViTModel.from_pretrained({own!r})',
            ]
        )

    def _architecture(self) -> str:
        if self.architecture is None:
            return ''
        rows = [('numbers in the weights', f'{self.parameters:,}')]
        rows += [(name.replace('_', ' '), v) for name, v in self.architecture.as_dict().items()]
        return _section('Architecture', _table(('', ''), rows))

    def _classes(self) -> str:
        if not self.classes:
            return ''
        named = first_of([_cell(name) for name in self.classes], MAX_CLASSES)
        text = f'Any words may be given. Without any, these {len(self.classes)}: {named}'
        return _section('Classes', text)

    def _results(self) -> str:
        if self.table is None or not self.table.results:
            return ''
        rows = [
            (
                _cell(result.name),
                result.classes,
                'no background' if result.threshold is None else f'{result.threshold:g}',
                result.images,
                *(f'{result.metrics[m]:.2f}' if m in result.metrics else '' for m in METRICS),
            )
            for result in self.table.results
        ]
        protocol = PROTOCOLS.get(self.table.protocol)
        told = f'{_cell(self.table.protocol)}{f" ({protocol})" if protocol else ""}'
        head = ('benchmark', 'classes', 'background threshold', 'images', *METRICS)
        return _section(
            'Zero-shot segmentation', f'In percent. Protocol: {told}.\n\n{_table(head, rows)}'
        )

    def _published_results(self) -> str:
        if self.published is None or not self.published.results:
            return ''
        rows = [(r.task, r.dataset, r.metric, r.value) for r in self.published.results]
        table = _table(('task', 'data', 'metric', 'value'), rows)
        return _section(
            'What its authors have published', f'In percent, {self.published.protocol}.\n\n{table}'
        )

    def _license(self) -> str:
        if self.license is None:
            return ''
        name = _cell(self.license_name or self.license)
        link = f', {_cell(self.license_link)}' if self.license_link else ''
        return _section('Licence', f'{name}{link}')

    def _bibtex(self) -> str:
        if self.architecture is not None and not self.architecture.prototypes:
            return GROUPVIT_BIBTEX
        return f'{PGSEG_BIBTEX}\n{GROUPVIT_BIBTEX}'


def read_benchmark_table(path: str | PathLike[str]) -> BenchmarkTable:
    """Read ``zero_shot.json`` of ``tools/analysis_tools/zero_shot_table.py``.

    Benchmarks that were not measured are counted in the log.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is another, or nothing was measured.
    """
    content = read_object(Path(path))
    rows = content.get('benchmarks')
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CheckpointError(
            f'{shown(path)} has no benchmarks; give zero_shot.json as zero_shot_table.py writes it'
        )
    measured = [row for row in rows if row.get('state') == 'measured']
    results = [_result(row, path) for row in measured]
    if len({str(row.get('protocol')) for row in measured}) > 1:
        results = [
            result._replace(name=f'{result.name} by {row["protocol"]}')
            for result, row in zip(results, measured, strict=True)
        ]
    if not results:
        raise CheckpointError(f'{shown(path)} has no benchmark that was measured')
    if left := len(rows) - len(results):
        print_log(
            f'{left} benchmarks of {shown(path)} were not measured and are left out',
            logger='current',
            level=logging.WARNING,
        )
    protocol = str(content.get('protocol'))
    if 'protocols' not in content:
        protocol = OLD_LABELS.get(protocol, protocol)
    return BenchmarkTable(protocol, str(content.get('checkpoint')), tuple(results))


def _result(row: Mapping[str, Any], path: str | PathLike[str]) -> BenchmarkResult:
    metrics = row.get('metrics')
    values = metrics if isinstance(metrics, Mapping) else {}
    known = {name: float(values[name]) for name in METRICS if _is_percentage(values.get(name))}
    threshold = row.get('threshold')
    counts = [row.get('classes'), row.get('images')]
    if (
        not known
        or not isinstance(row.get('name'), str)
        or not all(type(count) is int for count in counts)
        or not (threshold is None or _is_percentage(threshold))
    ):
        raise CheckpointError(
            f'{shown(path)}: benchmark {shown(row.get("name"))} lacks name, classes, images or a '
            f'metric of {", ".join(METRICS)} in percent'
        )
    return BenchmarkResult(row['name'], row['classes'], threshold, row['images'], known)


def _is_percentage(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 100


def _slug(name: str | None) -> str | None:
    return None if name is None else NOT_IN_SLUGS.sub('-', name.lower()).strip('-')


def _section(title: str, text: str) -> str:
    return f'## {title}\n\n{text}' if text else ''


def _python(lines: Sequence[str]) -> str:
    return '\n'.join(['```python', *lines, '```'])


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def _cell(text: str) -> str:
    """Names of other people: on one line, and without what Markdown would read."""
    return ''.join(f'\\{letter}' if letter in '\\`*_[]<>|#' else letter for letter in shown(text))
