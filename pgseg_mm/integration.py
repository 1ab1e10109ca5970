"""All that this package changes outside of itself, each with its reason.

What belongs to the process or to another package is changed here and nowhere else, so that whoever
embeds the package can see what happens to theirs. A test looks for such changes elsewhere.

On ``import pgseg_mm``:

- :func:`name_configs`: mmengine finds configs named ``pgseg_mm::FOLDER/FILE.py``.
- :func:`keep_mmpretrain_importable`: mmpretrain without its multimodal models, for transformers 5.
- :func:`start_no_ghostscript`: Pillow starts no program for EPS files.
- :func:`replace_transform`: three loaders of images and label maps, in mmseg's registry.
- :func:`add_file_backend`: mmengine's files that are whole or not there, by a name of ours.
- :func:`replace_checkpoint_loaders`: addresses that begin with ``hf-hub:``, which mmengine lacks.

In a program that asks for it, such as ``tools/train.py``:

- :func:`replace_checkpoint_loaders`: mmengine loads checkpoints without running their code.
- :func:`announce_local_rank`, :func:`import_from`: what launchers and projects take for granted.
- :func:`end_process`: a gloo job ends without taking its interpreter down.

In a run whose config has the hook:

- :func:`take_signals`, :func:`give_back_signals`, :func:`end_by_signal`,
  :func:`outlive_signals`: a run that is told to end writes a checkpoint first (StopSignalHook).
- :func:`allow_graphs`: torch compiles a model of many parts (CompileHook).

For as long as a context lasts: :func:`plain_yaml`, :func:`environment`,
:func:`without_warnings`, :func:`silenced`.

Elsewhere, because that is what a module is for: random numbers in
``datasets.sampling.random_state``, the process group of a job on CPUs in ``cli.processes``. Own
components are added to mmseg's registries where they are defined. Objects that belong to one run
are changed by the part that works on them: the Runner's builders (``engine.preflight.building``),
its loaders (StopSignalHook), metrics and data sets (CheckedLoadingHook), and the package's own
instance of open_clip's tokenizer (``text.tokenizer``).

Heavy packages are imported within the functions: this module is imported before it is known that
they are there.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from packaging.version import Version

from .dependencies import installed_version

Class = TypeVar('Class', bound=type)
Handlers = dict[signal.Signals, Any]

REPLACED_TRANSFORMS = {
    'LoadImageFromFile': "mmcv's own hands files to OpenCV or Pillow, whatever they are",
    'LoadAnnotations': "mmseg's own hands label maps to Pillow without a list of formats",
    'LoadImageFromNDArray': "mmseg's inference_model writes this name into the config of a model "
    'that has been given an array; with its own, every later path would end with a KeyError',
}
"""Names in mmseg's registry that lead to transforms of this package, and why."""


def apply_on_import() -> None:
    """Change what must be changed before the parts of the package are imported."""
    keep_mmpretrain_importable()
    name_configs()
    start_no_ghostscript()


def name_configs() -> None:
    """Let mmengine find the package's configs by its import name, which pip does not know."""
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE['pgseg_mm'] = 'pgseg_mm'


def keep_mmpretrain_importable(
    find_version: Callable[[str], str | None] = installed_version,
) -> None:
    """Leave mmpretrain's multimodal models out where transformers is too new for them.

    They need functions that transformers 5 no longer has, and without them all of
    ``mmpretrain.models`` fails to import, classifiers included. In their place mmpretrain then has
    the placeholders that stand there where transformers is not installed.

    Args:
        find_version: Gives the installed version of a distribution, or None.
    """
    transformers = find_version('transformers')
    if transformers is not None and Version(transformers) >= Version('5'):
        from mmpretrain.utils import dependency

        dependency.WITH_MULTIMODAL = False


def start_no_ghostscript() -> None:
    """Keep Pillow from starting Ghostscript.

    Loaders of other packages hand files to Pillow without a list of formats; in a process that uses
    this package, an image that is EPS inside runs no program, either.
    """
    from PIL import EpsImagePlugin

    EpsImagePlugin.gs_binary = False


def replace_transform(name: str) -> Callable[[Class], Class]:
    """Decorator of a transform that takes a name in mmseg's registry from another one.

    So it serves every config of mmseg's scope that imports this package.

    Args:
        name: One of :data:`REPLACED_TRANSFORMS`.

    Raises:
        ValueError: The name is none of these.
    """
    from mmseg.registry import TRANSFORMS

    if name not in REPLACED_TRANSFORMS:
        raise ValueError(
            f'{name} is not in REPLACED_TRANSFORMS; say there why the name is taken from another'
        )
    return TRANSFORMS.register_module(name=name, force=True)


def add_file_backend(name: str, backend: type) -> None:
    """Add a backend to mmengine's, which hooks are told by name.

    Args:
        name: A name that begins with ``pgseg_``.
        backend: The class.
    """
    from mmengine.fileio import register_backend

    register_backend(name, backend, force=True)


def replace_checkpoint_loaders(
    loaders: Mapping[str, Callable[..., Any]], others: Callable[..., Any] | None = None
) -> None:
    """Have mmengine's ``load_checkpoint`` call these functions, in the whole process.

    Its own unpickle what they find, which runs whatever code a checkpoint holds.

    Args:
        loaders: By the beginning of an address; files of the disk begin with ``''``.
        others: In the place of all other loaders; by default these stay.
    """
    from mmengine.runner import CheckpointLoader

    if others is not None:
        prefixes = [prefix for prefix in CheckpointLoader._schemes if prefix not in loaders]
        CheckpointLoader.register_scheme(prefixes, others, force=True)
    for prefix, loader in loaders.items():
        CheckpointLoader.register_scheme(prefix, loader, force=True)


def announce_local_rank(rank: int) -> None:
    """Set ``LOCAL_RANK``, which mmengine reads, for launchers that pass it as an argument.

    Args:
        rank: Rank on this machine; one that a launcher has set stays, and Open MPI's comes first.
    """
    rank_of_mpi = os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', str(rank))
    os.environ.setdefault('LOCAL_RANK', rank_of_mpi)


def import_from(folder: str) -> None:
    """Let Python import from a folder, behind all others.

    Args:
        folder: Such as the one that has ``projects/``, whose configs import ``projects.NAME``.
    """
    if folder not in sys.path:
        sys.path.append(folder)


def end_process(status: int) -> NoReturn:
    """End this process without taking the interpreter down.

    DistributedDataParallel keeps gloo's threads alive even when the group is closed, and now and
    then one of them aborts a process while its interpreter is taken down ("terminate called without
    an active exception"). What is registered to run at exit has run, and output is written.

    Args:
        status: Exit status.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def take_signals(
    numbers: Iterable[signal.Signals], listener: Callable[[int, Any], None]
) -> Handlers:
    """Let a function handle signals; it must be called in the main thread.

    Returns:
        The handlers before, for :func:`give_back_signals`.
    """
    return {number: signal.signal(number, listener) for number in numbers}


def give_back_signals(previous: Handlers) -> None:
    """Undo :func:`take_signals`."""
    for number, handler in previous.items():
        signal.signal(number, handler)


def end_by_signal(number: int) -> None:
    """Let a signal end this process, as if nobody had listened."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def outlive_signals(owner: int) -> None:
    """Let this process, a worker of a data loader, live until its owner ends it.

    Terminals and launchers send signals to all processes of a job, and the owner needs its workers
    until the running step is finished.

    Args:
        owner: Process that has the loader, which need not be this one's parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()


def _end_with(owner: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != owner:
        pass  # it was sent to all processes of the job
    os._exit(0)


def allow_graphs(number: int) -> None:
    """Let torch compile so many graphs of one piece of code before it gives up, each as a whole.

    Blocks of a model share their code, and torch's own limit is meant for one module alone. Torch
    would cut graphs at the buckets of DistributedDataParallel, which are larger than a block, and
    refuses to cut one with checkpoints in it.

    Args:
        number: The limit of torch's compiler.
    """
    import torch

    torch._dynamo.config.recompile_limit = number
    torch._dynamo.config.optimize_ddp = False


@contextmanager
def plain_yaml() -> Iterator[None]:
    """Have mmengine read YAML without running code that it may ask for; tuples are read."""
    import yaml
    from mmengine.fileio.handlers import yaml_handler

    kept = yaml_handler.Loader
    yaml_handler.Loader = yaml.FullLoader
    try:
        yield
    finally:
        yaml_handler.Loader = kept


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Have other values in environment variables that are set, and the old ones behind it.

    Args:
        values: By the names of variables.
    """
    kept = {name: os.environ[name] for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Drop all warnings, such as Pillow's of images that are large or damaged in a detail.

    Python keeps its filters for the whole process, so that for this time other threads are silent,
    too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


@contextmanager
def silenced(logger: logging.Logger) -> Iterator[None]:
    """Have a logger say nothing, such as the figures of a rehearsal."""
    quiet = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = quiet
