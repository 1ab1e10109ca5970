"""The command ``pgseg``, which runs what came with the package.

It lies beside the package and not in it: to import the package takes seconds, because that
registers every component, and help needs none.
"""

import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, NoReturn

PACKAGE = Path(__file__).parent / 'pgseg_mm'
ROOTS = (PACKAGE / '.mim', PACKAGE.parent)
"""Where demo/ and tools/ lie: in an installed package, and in a checkout."""
INTERPRETERS = {'.py': sys.executable, '.sh': 'bash'}


class Command(NamedTuple):
    """A command."""

    script: str
    """Path of what it runs, as in the repository."""
    about: str
    """What it does."""
    called: bool = False
    """Whether the script's ``main(arguments, command)`` is called, which knows its name as a
    command; the others become a process, as on their own."""
    extra: str | None = None
    """The extra that the package must be installed with."""


COMMANDS = {
    'segment': Command('demo/image_demo.py', 'segment photographs by any words', called=True),
    'web': Command(
        'demo/web_demo.py', 'segment photographs in a browser', called=True, extra='web'
    ),
    'models': Command(
        'tools/misc/list_models.py', 'list the published models, by name', called=True
    ),
    'download': Command(
        'tools/misc/download_model.py', 'download a published model, or one of a hub', called=True
    ),
    'convert': Command(
        'tools/model_converters/convert.py',
        'convert a checkpoint from another code base, or to one',
        called=True,
    ),
    'push': Command(
        'tools/misc/push_to_hub.py', 'give a checkpoint to others: a hub, or a folder', called=True
    ),
    'train': Command('tools/train.py', 'train a model from a config'),
    'test': Command('tools/test.py', 'evaluate a checkpoint on the test set of a config'),
    'table': Command(
        'tools/analysis_tools/zero_shot_table.py', 'evaluate a checkpoint on all benchmarks'
    ),
}


def usage() -> str:
    """What the command says of itself."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:<{width}}  {command.about}' for name, command in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: pgseg COMMAND [arguments of the command]',
            '',
            *lines,
            '',
            'pgseg COMMAND --help tells the arguments. TOOL in place of COMMAND runs tools/TOOL',
            'of the package, such as dist_train or dataset_converters/emoji_scenes.',
            'python -m pgseg_mm is the same.',
            '',
            'e.g.  pgseg segment photo.jpg --texts "dog . grass . frisbee"',
        ]
    )


def find_file(path: str) -> Path | None:
    """Path of what came with the package.

    Args:
        path: Where it is in the repository, such as ``tools/train.py``.

    Returns:
        The path, or None if there is no such file.
    """
    return next((root / path for root in ROOTS if (root / path).is_file()), None)


def find_tool(name: str) -> Path | None:
    """Path of a tool that came with the package.

    Args:
        name: Path below ``tools/`` without its ending, such as ``train``, ``dist_train`` or
            ``dataset_converters/emoji_scenes``.

    Returns:
        The path, or None if there is no such tool.
    """
    paths = (find_file(f'tools/{name}{ending}') for ending in INTERPRETERS)
    return next((path for path in paths if path is not None), None)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names, or become it."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ('-h', '--help'):
        print(usage(), file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)
    name, *arguments = words
    if name == '--version':
        file = Path(__file__).with_name('pgseg_mm') / 'version.py'  # importing it imports torch
        print(f'pgseg-mm {runpy.run_path(str(file))["__version__"]}')
        sys.exit(0)
    command = COMMANDS.get(name)
    script = find_tool(name) if command is None else find_file(command.script)
    if script is None and command is not None:
        refuse('pgseg', f'{command.script} is not in the package; install it anew')
    if script is None:
        near = get_close_matches(name, COMMANDS, n=1)
        advice = f'did you mean {near[0]}?' if near else 'pgseg --help lists the commands'
        refuse('pgseg', f'no command and no tool {name}; {advice}')
    if command is not None and command.called:
        sys.exit(call(script, f'pgseg {name}', arguments, command.extra))
    interpreter = INTERPRETERS[script.suffix]
    environment = {'PYTHON': sys.executable, **os.environ}
    os.execvpe(interpreter, [interpreter, str(script), *arguments], environment)


def call(script: Path, command: str, arguments: Sequence[str], extra: str | None) -> int | None:
    """Run a script's ``main`` in this process.

    Args:
        script: The script; it finds its neighbours as when it is run.
        command: Name that it goes by in its messages.
        arguments: Its command line.
        extra: The extra of the package that it needs.

    Returns:
        Exit status, as :func:`sys.exit` takes it.
    """
    sys.path.insert(0, str(script.parent))
    try:
        main = importlib.import_module(script.stem).main
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and extra is not None
        refuse(command, f'{error}; run: pip install "pgseg-mm[{extra}]"' if absent else str(error))
    return main(arguments, command)


def refuse(command: str, message: str) -> NoReturn:
    """Leave with a sentence and status 2."""
    print(f'{command}: error: {message}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
    main()
