"""Tell what a model loses by grouping, by naming and by recognition.

    python tools/analysis_tools/diagnose.py CONFIG CHECKPOINT

On any labelled data set of a config the groups of the model are named in three ways. Oracle: by the
class that most of their pixels have. Present: by their best class among those of the image. Free:
by their best class of all, as in a prediction, by each naming rule. What oracle lacks is lost by
grouping, what present lacks to it by naming, and what free lacks to that by recognition.

Files in --out: diagnosis.md, diagnosis.json, diagnosis.csv (classes) and diagnosis.png.
"""

import argparse
import csv
import io
import shlex
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import TestLoop
from mmseg.registry import LOOPS

from pgseg_mm.apis.naming_choice import add_naming
from pgseg_mm.cli.arguments import add_launch_arguments
from pgseg_mm.cli.checkpoint_sources import SOURCES
from pgseg_mm.cli.folders import check_writable
from pgseg_mm.cli.numbers import number_from
from pgseg_mm.cli.processes import end_job
from pgseg_mm.cli.protocol_choice import add_protocol
from pgseg_mm.cli.provenance import describe, describe_machine, versions
from pgseg_mm.engine.diagnosis import Diagnosis, check_diagnosable, diagnose
from pgseg_mm.engine.test_runs import add_split, run_test, use_split
from pgseg_mm.serialization.atomic_files import write_atomically, write_json, write_text
from pgseg_mm.visualization import draw_diagnosis

MEANINGS = {
    'oracle': 'the class of most of its pixels',
    'present': "its best class among the image's",
}
LOSSES = {
    'grouping': '100 − oracle',
    'naming': 'oracle − present',
    'recognition': 'present − free',
}
CONFUSIONS = 10
"""Confusions of a way that are listed."""
CONFUSED = 20
"""Classes of the matrix at most."""


@LOOPS.register_module(force=True)
class DiagnosisLoop(TestLoop):
    """Diagnoses a model in place of a test.

    Args:
        naming: The rule that counts as the model's, or ``None`` for the head's.
        max_images: Images at most, or ``None``.
    """

    def __init__(
        self,
        *args: Any,
        naming: str | None = None,
        max_images: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_diagnosable(self.runner.model)
        self.naming = naming
        self.max_images = max_images

    def run(self) -> Diagnosis:
        """Go through the images once."""
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        indices = [getattr(metric, 'ignore_index', None) for metric in self.evaluator.metrics]
        ignored = next((index for index in indices if index is not None), 255)
        result = diagnose(
            self.runner.model,
            self.dataloader,
            naming=self.naming,
            max_images=self.max_images,
            ignore_index=ignored,
            fp16=self.fp16,
            progress=True,
        )
        metrics = {f'mIoU_{way}': result.miou(way) for way in result.ways}
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return result


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the model and of a data set with labels')
    parser.add_argument('checkpoint', help=SOURCES)
    add_naming(parser)
    add_split(parser)
    add_protocol(parser)
    parser.add_argument(
        '--max-images', type=number_from(1), metavar='N', help='only the first N images'
    )
    parser.add_argument('--out', help='folder of the results (default: the work directory)')
    add_launch_arguments(parser)
    return parser


def summary(result: Diagnosis) -> list[str]:
    """What each way reaches, what is lost between them, and how many groups there are."""
    lines = ['| groups are named by | mIoU | pixel accuracy |', '| --- | --: | --: |']
    for way in result.ways:
        name = f'{way}: {MEANINGS[way]}' if way in MEANINGS else f'free, by {way}'
        mark = '**' if way == result.naming else ''
        cells = f'{result.miou(way):.2f} | {result.accuracy(way):.2f}'
        lines.append(f'| {mark}{name}{mark} | {cells} |')
    lines += ['', '| lost by | points of mIoU |', '| --- | --: |']
    lines += [f'| {name} ({LOSSES[name]}) | {lost:.2f} |' for name, lost in result.losses.items()]
    used = f'{result.used_groups:.1f} of the {result.num_groups} groups of a window win a pixel.'
    return [*lines, '', f'Free is the naming by {result.naming}. {used}']


def confusions(result: Diagnosis, way: str) -> list[str]:
    """Table of the largest confusions of a way."""
    found = result.counts[way].largest(CONFUSIONS)
    rows = [f'| {each.label} | {each.prediction} | {100 * each.share:.1f} |' for each in found]
    head = ['| is | is taken for | % of its pixels |', '| --- | --- | --: |']
    return [*head, *rows] if rows else ['None.']


def class_rows(result: Diagnosis) -> tuple[list[str], list[list[Any]]]:
    """Columns, and a row a class: its name, its pixels, and its IoU by each way."""
    labelled = result.counts['oracle'].areas[2]
    columns = [result.counts[way].class_iou.tolist() for way in result.ways]
    rows = [
        [name, int(pixels), *(None if iou != iou else iou for iou in ious)]
        for name, pixels, *ious in zip(result.classes, labelled, *columns, strict=True)
    ]
    return ['class', 'pixels', *result.ways], rows


def as_csv(result: Diagnosis) -> str:
    """A line a class; classes that do not occur have empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    head, rows = class_rows(result)
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(result: Diagnosis, about: dict[str, Any]) -> str:
    """The whole page."""
    head, rows = class_rows(result)
    lines = [
        '# Diagnosis',
        '',
        f'`{about["checkpoint"]}` by `{about["config"]}` on {about["data"]}. Figures in percent.',
        '',
        *summary(result),
        '',
        '![IoU of classes, and confusions](diagnosis.png)',
        '',
        '## Largest confusions, free',
        '',
        *confusions(result, result.naming),
        '',
        '## Largest confusions, present',
        '',
        *confusions(result, 'present'),
        '',
        '## Classes',
        '',
        f'| {" | ".join(head)} |',
        f'| --- |{" --: |" * (len(head) - 1)}',
    ]
    for name, pixels, *ious in rows:
        cells = ' | '.join('' if iou is None else f'{iou:.1f}' for iou in ious)
        lines.append(f'| {name} | {pixels} | {cells} |')
    return '\n'.join([*lines, '', *describe(about), ''])


def draw(result: Diagnosis, file: Path) -> None:
    """The picture: three bars a class, and what is confused by the model's naming."""
    free = result.counts[result.naming]
    names = [name for each in free.largest(CONFUSED) for name in each[:2]]
    shown = list(dict.fromkeys(names))[:CONFUSED] or list(result.classes[:CONFUSED])
    names_of_ways = {'oracle': 'oracle', 'present': 'present', 'free': result.naming}
    ways = {name: result.counts[way].class_iou.tolist() for name, way in names_of_ways.items()}
    matrix = free.matrix([result.classes.index(name) for name in shown])
    draw_diagnosis(result.classes, ways, shown, matrix, file)


def write(result: Diagnosis, folder: Path, about: dict[str, Any]) -> None:
    write_atomically(folder / 'diagnosis.png', lambda file: draw(result, file))
    write_json(folder / 'diagnosis.json', {**about, **result.to_dict()})
    write_text(folder / 'diagnosis.csv', as_csv(result))
    write_text(folder / 'diagnosis.md', as_markdown(result, about))


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()

    def prepare(cfg: Config) -> None:
        loop = dict(type='DiagnosisLoop', naming=args.naming, max_images=args.max_images)
        use_split(cfg, args.split, loop)
        args.out = args.out or cfg.work_dir
        check_writable(args.out, '--out')

    runner, result = run_test(parser, args, prepare)
    if not is_main_process():
        return
    data = type(runner.test_dataloader.dataset).__name__
    about = {
        'command': shlex.join(['python', 'tools/analysis_tools/diagnose.py', *sys.argv[1:]]),
        'config': args.config,
        'checkpoint': args.checkpoint,
        'data': f'{data} ({args.split}, {result.num_images} images)',
        'machine': describe_machine(),
        'versions': versions(),
    }
    write(result, Path(args.out), about)
    lines = [*summary(result), '', 'Largest confusions, free:', '']
    print('\n'.join(['', *lines, *confusions(result, result.naming)]))
    print(f'\nWritten to {args.out}/diagnosis.md, .json, .csv and .png')


if __name__ == '__main__':
    main()
    end_job()
