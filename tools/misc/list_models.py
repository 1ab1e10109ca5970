"""List the published models: name, data, mean IoU as published, size, licence, whether it is here.

Any place that takes a checkpoint takes such a name.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from prettytable import PrettyTable

from pgseg_mm.checkpoints import hub
from pgseg_mm.checkpoints.hugging_face import CONFIG_NAME
from pgseg_mm.checkpoints.published import PublishedModel, published_models
from pgseg_mm.cli.arguments import print_any_text

BENCHMARKS = ('Pascal VOC 2012', 'Pascal Context', 'COCO-Object')
"""Those that all published models are evaluated on."""
MAX_WIDTH = 24
"""Letters of a column."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Describe the command line.

    Args:
        command: Name of the command that this is.
    """
    return argparse.ArgumentParser(
        prog=command, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def is_on_disk(model: PublishedModel) -> bool:
    """Whether a model of the hub has been downloaded, with all its files; nothing is asked."""
    if model.hub is None:
        return False
    repository, revision = hub.parse_name(model.hub)
    config = try_to_load_from_cache(repository, CONFIG_NAME, revision=revision)
    return isinstance(config, str) and hub.is_complete(Path(config).parent)


def tabulate(models: Iterable[PublishedModel]) -> str:
    """The models as a table."""
    table = PrettyTable(['name', 'data', *BENCHMARKS, 'MB', 'licence', 'on this disk'])
    table.align = 'l'
    table.max_width = MAX_WIDTH
    for model in models:
        figures = {result.dataset: f'{result.value:.1f}' for result in model.results}
        table.add_row(
            [
                model.name,
                ', '.join(model.data),
                *(figures.get(name, '–') for name in BENCHMARKS),
                model.megabytes or '–',
                model.license,
                'yes' if is_on_disk(model) else 'no' if model.hub else 'see below',
            ]
        )
    return table.get_string()


def main(argv: Sequence[str] | None = None, command: str | None = None) -> None:
    """Print the table.

    Args:
        argv: Arguments; those of the process by default.
        command: Name of the command that this is.
    """
    print_any_text()
    build_parser(command).parse_args(argv)
    models = published_models().values()
    print(tabulate(models))
    protocols = {model.protocol for model in models}
    print(f'Mean IoU in percent: {"; ".join(sorted(protocols))}.')
    for model in models:
        if model.hub is None:
            print(f'{model.name}: no program may fetch it; its authors link it on {model.page}')


if __name__ == '__main__':
    main()
