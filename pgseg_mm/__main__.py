"""Run a tool of the installed package, as ``python tools/train.py`` does in the repository."""

import os
import sys
from pathlib import Path

TOOLS = Path(__file__).parent / '.mim' / 'tools'
INTERPRETERS = {'.py': sys.executable, '.sh': 'bash'}
USAGE = """usage: python -m pgseg_mm TOOL [arguments of the tool]

e.g.   python -m pgseg_mm train pgseg_mm::pgseg/pgseg_tiny-p8_emoji-scenes-64x64.py
"""


def find_tool(name: str) -> Path | None:
    """Path of a tool that came with the package.

    Args:
        name: Path below ``tools/`` without its ending, such as ``train``, ``dist_train`` or
            ``dataset_converters/emoji_scenes``.

    Returns:
        The path, or None if there is no such tool.
    """
    paths = (TOOLS / f'{name}{ending}' for ending in INTERPRETERS)
    return next((path for path in paths if path.is_file()), None)


def main() -> None:
    """Become the tool that the first argument names."""
    tool = find_tool(sys.argv[1]) if len(sys.argv) > 1 else None
    if tool is None:
        missing = f'no tool {sys.argv[1]} in {TOOLS}' if len(sys.argv) > 1 else ''
        print(f'{USAGE}{missing}', file=sys.stderr)
        sys.exit(2)
    interpreter = INTERPRETERS[tool.suffix]
    environment = {'PYTHON': sys.executable, **os.environ}
    os.execvpe(interpreter, [interpreter, str(tool), *sys.argv[2:]], environment)


if __name__ == '__main__':
    main()
