"""Reading of files whose faults are told apart: those of the file, and those of the system."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
import urllib.error
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mmengine import fileio
from mmengine.logging import print_log

from pgseg_mm import limits
from pgseg_mm.errors import own_words
from pgseg_mm.messages import first_line, shown

ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""No file has this name."""
LASTING = {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.ENOSYS, errno.EDQUOT}
"""Trying again does not help."""
SENSELESS = {errno.EINVAL, errno.EOVERFLOW}
"""What was asked for makes no sense, such as a place behind any file's end."""
GONE = (404, 410)
"""HTTP's status where nothing has the address."""

Result = TypeVar('Result')


class UnusableFile(ValueError):
    """A file that is none to read, such as a folder, a device, or one that is too large.

    Args:
        reason: What it is or has, such as 'is a folder'.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooLongFile(UnusableFile):
    """A file that has more bytes than it may have."""


class FileAccessError(OSError):
    """The system could not read a file, which says nothing about the file.

    Args:
        message: A sentence with the system's number and text.
    """

    def __init__(self, message: str) -> None:
        super().__init__(own_words(self, message))


class DamagedFileError(ValueError):
    """A file of a data set under evaluation is missing or cannot be used.

    Args:
        message: A sentence that names file and data set.
    """

    def __init__(self, message: str) -> None:
        super().__init__(own_words(self, message))


def is_absent(error: OSError) -> bool:
    """Whether an error says that there is no such file."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in GONE
    return isinstance(error, FileNotFoundError) or error.errno in ABSENT


def is_of_system(error: BaseException) -> bool:
    """Whether an error is the system's; decoders raise theirs without a number."""
    if isinstance(error, FileAccessError):
        return True
    if not isinstance(error, OSError) or error.errno is None:
        return False
    return error.errno not in SENSELESS and not is_absent(error)


def any_error(error: OSError) -> bool:
    """All errors, where nothing is decoded."""
    return True


def retrying(
    read: Callable[[], Result],
    name: str,
    is_systems: Callable[[OSError], bool] = any_error,
) -> Result:
    """Read something, again if the system fails in a way that may pass.

    Args:
        read: Reads it.
        name: What to call it in messages.
        is_systems: Which errors are the system's; others are raised as they are.

    Raises:
        FileAccessError: The system fails.
        FileNotFoundError: There is no such file, whatever the system calls that.
    """
    pauses = list(limits.RETRY_PAUSES)
    while True:
        try:
            return read()
        except FileAccessError:
            raise
        except OSError as error:
            if is_absent(error):
                raise FileNotFoundError(errno.ENOENT, 'No such file', shown(name)) from error
            if not is_systems(error):
                raise
            if pauses and error.errno not in LASTING:
                pause = pauses.pop(0)
                print_log(
                    f'{name}: {_told(error)}; trying again in {pause} s.',
                    logger='current',
                    level=logging.WARNING,
                )
                time.sleep(pause)
                continue
            tries = len(limits.RETRY_PAUSES) - len(pauses) + 1
            raise FileAccessError(
                f'{name} could not be read ({_told(error)}; tried {tries} times). The file may be '
                'sound: look at permissions, limits, disks and network of this machine.'
            ) from error


def read_file(
    path: str,
    name: str,
    backend_args: Mapping[str, Any] | None = None,
    max_bytes: int | None = None,
) -> bytes:
    """Content of a file.

    Args:
        path: Where it is, on a disk or for one of mmengine's backends.
        name: What to call it in messages.
        backend_args: Arguments of mmengine's file backend.
        max_bytes: Most bytes that a file on a disk may have, ``MAX_MEMBER_BYTES`` by default.

    Raises:
        FileAccessError: The system fails, several times where that may pass.
        FileNotFoundError: There is no such file.
        UnusableFile: It is no regular file, or too large.
    """
    if backend_args or '://' in path:
        try:
            return retrying(lambda: fileio.get(path, backend_args), name)
        except (ImportError, KeyError) as error:  # of mmengine's choice of a backend
            raise FileAccessError(
                f'{name} has an address that cannot be read here ({_without_backend(error)}).'
            ) from error
    limit = limits.MAX_MEMBER_BYTES if max_bytes is None else max_bytes
    return retrying(lambda: read_regular(path, limit), name)


def _without_backend(error: ImportError | KeyError) -> str:
    """Why there is no backend of mmengine for an address."""
    if isinstance(error, KeyError):
        return f'there is no backend for {first_line(error)}'
    return first_line(error)


def read_regular(path: str, max_bytes: int) -> bytes:
    """Read a regular file at once.

    Raises:
        OSError: The system cannot read it.
        UnusableFile: It is no regular file, or a longer one.
    """
    if '\0' in path:
        raise UnusableFile('has a path with a zero byte')
    # A pipe that nobody writes to would be waited for.
    handle = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_BINARY', 0))
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kind = 'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'
            raise UnusableFile(f'is {kind}')
        if status.st_size > max_bytes:
            raise TooLongFile(f'has {status.st_size} bytes, more than {max_bytes}')
        with os.fdopen(handle, 'rb', closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(handle)


def _told(error: OSError) -> str:
    reason = getattr(error, 'reason', None)  # of urllib
    if isinstance(reason, OSError):
        error = reason
    if error.errno is None:
        return f'{type(error).__name__}: {shown(error)}'
    return f'[Errno {error.errno}] {error.strerror or os.strerror(error.errno)}'
