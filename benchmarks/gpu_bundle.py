"""Collects what the GPU check and the ablation need on a machine without a network.

    python -m benchmarks.gpu_bundle [--out gpu_bundle] [--python 3.12] [--platform x86_64]

The folder gets wheels of what the project and its check import and the machine is expected to lack,
a wheel of the project, an archive of the checkout, and run.sh, which installs the wheels into a
folder of its own and starts the check there. Which wheels follows from what is installed here: the
requirements of the roots, and theirs, down to what the machine has (--has). Versions are those
installed here. What has no wheel is built to one; it must then fit any Python. Of OpenMoji only the
graphics of the ablation's classes are taken along.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .bundled_graphics import write_graphics_wheel
from .gpu_check import commit

ROOT = Path(__file__).resolve().parents[1]
ROOTS = (
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmsegmentation',
    'onedl-mmpretrain',
    'open-clip-torch',
    'ftfy',
    'webdataset',
    'nltk',
    'resvg_py',
)
HAS = (
    'torch torchvision transformers timm scipy numpy opencv-python opencv-python-headless '
    'matplotlib pytest pillow pyyaml regex tqdm packaging safetensors huggingface-hub tokenizers '
    'tensorboard rich psutil requests typing-extensions filelock jinja2 setuptools wheel click '
    'pandas pyarrow pygments markdown-it-py mdurl attrs six protobuf fsspec networkx sympy '
    'scikit-image imageio tifffile lazy-loader'
)
"""What the machine has of its own, besides what these need."""
CLASSES = 100
"""Classes of the largest world of the ablation."""
MAX_MIB = 20
CONTENT = {'wheels', 'checkout.tar.gz', 'run.sh'}
"""Of a bundle, whole or not."""
SHELL = """\
#!/usr/bin/env bash
# Install the wheels beside this file into a folder and run the GPU check, or the ablation, there:
#   run.sh FOLDER [arguments of benchmarks.gpu_check]
#   run.sh FOLDER ablation [arguments of benchmarks.ablation]
# Nothing is downloaded; torch and the like are those of PYTHON (default: python3).
set -euo pipefail
if (($# < 1)); then
    echo "usage: $0 FOLDER [ablation] [arguments of benchmarks.gpu_check or of the ablation]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
module=benchmarks.gpu_check
if [[ "${1:-}" == ablation ]]; then
    module=benchmarks.ablation
    shift
fi
"$python" -c 'import torch, sys; v = tuple(map(int, torch.__version__.split("+")[0].split(".")[:2]))
sys.exit(0 if v >= (2, 6) else f"torch {torch.__version__} is there; the check needs 2.6 or later")'
"$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \\
    --target "$folder/site" "$here"/wheels/*.whl
mkdir -p "$folder/checkout"
tar -xzf "$here/checkout.tar.gz" -C "$folder/checkout"
cd "$folder/checkout"
# every stage begins with imports; what cannot be compiled is compiled when it is imported
"$python" -m compileall -qq -j 0 "$folder/site" "$folder/checkout" || true
export PYTHONPATH="$folder/checkout:$folder/site${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m "$module" "$@"
"""


def requirements_of(name: str, python: str) -> Iterator[str]:
    """Names of the distributions that an installed one needs, for some version of Python."""
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        environment = {'python_version': python, 'extra': ''}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield canonicalize_name(requirement.name)


def missing(roots: Sequence[str], has: Sequence[str], python: str) -> dict[str, str]:
    """Versions of all that the roots need and the machine lacks.

    Raises:
        PackageNotFoundError: If a root is not installed here.
    """
    there = {canonicalize_name(name) for name in has}
    found: dict[str, str] = {}
    waiting = [canonicalize_name(name) for name in roots]
    while waiting:
        name = waiting.pop()
        if name in found or name in there:
            continue
        try:
            found[name] = distribution(name).version
        except PackageNotFoundError:
            if name in map(canonicalize_name, roots):
                raise
            print(f'{name} is not installed here and left out')
            continue
        waiting += requirements_of(name, python)
    return found


def collect(folder: Path, packages: dict[str, str], python: str, platform: str) -> None:
    """Download wheels for the machine, and build those that there are none of.

    Raises:
        SystemExit: If a package has neither a wheel for the machine nor one for any.
    """
    platforms = [f'manylinux_2_{minor}_{platform}' for minor in (28, 27, 24, 17, 12, 5)]
    platforms += [
        f'manylinux2014_{platform}',
        f'manylinux2010_{platform}',
        f'manylinux1_{platform}',
    ]
    for_machine = ['--only-binary=:all:', '--implementation', 'cp', '--python-version', python]
    for name in platforms:
        for_machine += ['--platform', name]
    for name, version in sorted(packages.items()):
        pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
        wanted = ['--no-deps', f'{name}=={version}']
        done = subprocess.run(
            [*pip, 'download', *for_machine, '--dest', str(folder), *wanted],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            subprocess.run([*pip, 'wheel', '--wheel-dir', str(folder), *wanted], check=True)
    built = [path.name for path in folder.glob('*.whl')]
    foreign = [name for name in built if not fits(name.rpartition('-')[2], platform)]
    if foreign:
        raise SystemExit(f'no wheel for that machine: {", ".join(foreign)}')


def fits(tag: str, platform: str) -> bool:
    """Whether a wheel's platform is any, or all of a kind; one built here is for this machine."""
    return tag == 'any.whl' or 'manylinux' in tag and platform in tag


def add_project(folder: Path) -> None:
    """The project's wheel, and the checkout with the commit that it is of."""
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    wheel = [*pip, 'wheel', '--no-deps', '--wheel-dir', str(folder / 'wheels'), str(ROOT)]
    subprocess.run(wheel, check=True)
    listed = subprocess.run(
        ['git', '-C', str(ROOT), 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        capture_output=True,
        text=True,
        check=True,
    )
    with tarfile.open(folder / 'checkout.tar.gz', 'w:gz') as archive:
        for name in filter(None, listed.stdout.split('\0')):
            if (ROOT / name).is_file():
                archive.add(ROOT / name, name)
        content = f'{commit()}\n'.encode()
        member = tarfile.TarInfo('COMMIT')
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.gpu_bundle',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--out', type=Path, default=ROOT / 'gpu_bundle')
    parser.add_argument('--python', default='3.12', help='of the machine (default: %(default)s)')
    parser.add_argument('--platform', default='x86_64', help='default: %(default)s, manylinux')
    parser.add_argument('--has', nargs='+', default=HAS.split(), help='what the machine has')
    args = parser.parse_args()
    if not re.fullmatch(r'3\.\d+', args.python):
        parser.error(f'--python must be a version such as 3.12, got {args.python}')
    if args.out.exists():
        if not args.out.is_dir() or {path.name for path in args.out.iterdir()} - CONTENT:
            parser.error(f'--out {args.out} is there and no bundle; give a folder to be made')
        shutil.rmtree(args.out)
    (args.out / 'wheels').mkdir(parents=True)
    packages = missing(ROOTS, args.has, args.python)
    collect(args.out / 'wheels', packages, args.python, args.platform)
    write_graphics_wheel(args.out / 'wheels', CLASSES)
    add_project(args.out)
    script = args.out / 'run.sh'
    script.write_text(SHELL, encoding='utf-8')
    script.chmod(0o755)
    files = [path for path in args.out.rglob('*') if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    for path in sorted(files, key=lambda path: -path.stat().st_size)[:8]:
        print(f'{path.stat().st_size / 2**20:6.2f} MiB  {path.relative_to(args.out)}')
    print(f'{args.out}: {len(files)} files, {size:.1f} MiB')
    if size > MAX_MIB:
        print(f'that is more than {MAX_MIB} MiB', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
