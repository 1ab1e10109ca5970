"""The folder of a web demo's uploads: its own, of a limited size, and gone when the server ends."""

import fcntl
import logging
import os
import shutil
import stat
import tempfile
import threading
import time
from pathlib import Path

from pgseg_mm import limits

FOLDER_PREFIX = 'pgseg-web-'
LOCK_FILE = '.lock'
SWEEP_EVERY = 60
"""Seconds between two looks for old files."""
logger = logging.getLogger('pgseg_mm.web')


class NotAnUploadError(ValueError):
    """A path that is no file of this server's uploads, whatever else it may be."""

    def __init__(self) -> None:
        super().__init__('The image is not here, or no longer; upload it again.')


class NoRoomError(RuntimeError):
    """There are too many uploads for another."""

    def __init__(self) -> None:
        super().__init__('There is no room for another image at the moment; try again later.')


class UploadFolder:
    """A folder for the uploads and pictures of one server.

    Nobody else can write to it. A lock tells other servers that it is in use; the folders of those
    that were killed are removed by the next one to start.

    Args:
        parent: Folder to make it in, by default the system's for temporary files.
        max_file_bytes: Bytes of an upload at most.
    """

    def __init__(
        self, parent: str | Path | None = None, max_file_bytes: int = limits.MAX_WEB_FILE_BYTES
    ) -> None:
        self.max_file_bytes = max_file_bytes
        parent = Path(parent or tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent)
        self.path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent)).resolve()
        self._lock = lock(self.path)
        self._reserved = 0
        self._guard = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._sweep, daemon=True).start()

    def read(self, path: object) -> bytes:
        """The content of an upload.

        Args:
            path: What a request names; nothing is taken for granted.

        Raises:
            NotAnUploadError: It is no regular file in this folder, or too large.
        """
        with os.fdopen(self._open(path), 'rb') as file:
            content = file.read(self.max_file_bytes + 1)
        if len(content) > self.max_file_bytes:
            raise NotAnUploadError
        return content

    def add(self, path: Path) -> str:
        """Copy one of the server's own files here, as if it had been uploaded.

        Args:
            path: The file.

        Returns:
            Path of the copy.

        Raises:
            NoRoomError: There is no room for it.
        """
        size = path.stat().st_size
        self.reserve(size)
        try:
            return shutil.copy(path, tempfile.mkdtemp(dir=self.path))
        finally:
            self.release(size)

    def check(self, path: object) -> None:
        """Refuse what is no regular file in this folder.

        Raises:
            NotAnUploadError: If it is none.
        """
        os.close(self._open(path))

    def _open(self, path: object) -> int:
        if not isinstance(path, str) or not path.startswith(f'{self.path}{os.sep}'):
            raise NotAnUploadError
        try:
            if os.path.realpath(path) != path or Path(path).parent.parent != self.path:
                raise NotAnUploadError
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:  # ValueError: a zero or half a surrogate in it
            raise NotAnUploadError from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise NotAnUploadError
        return file

    def reserve(self, size: int) -> None:
        """Make room for an upload; :meth:`release` follows when it is there.

        The oldest files go first, but none that is younger than ``MIN_WEB_UPLOAD_AGE``.

        Args:
            size: Its bytes.

        Raises:
            NoRoomError: The files that must be kept leave none.
        """
        with self._guard:
            files = self._files()
            total = sum(size for _, size, _ in files) + self._reserved + size
            number = len(files) + 1
            young = time.time() - limits.MIN_WEB_UPLOAD_AGE
            for changed, freed, path in files:
                fits = total <= limits.MAX_WEB_UPLOAD_BYTES
                if (fits and number <= limits.MAX_WEB_UPLOAD_FILES) or changed > young:
                    break
                remove(path)
                total, number = total - freed, number - 1
            if total > limits.MAX_WEB_UPLOAD_BYTES or number > limits.MAX_WEB_UPLOAD_FILES:
                raise NoRoomError
            self._reserved += size

    def release(self, size: int) -> None:
        """Give back what was reserved: the upload is there, or has failed."""
        with self._guard:
            self._reserved -= size

    def remove_old(self) -> None:
        """Remove the files that are older than ``MAX_WEB_UPLOAD_AGE``."""
        old = time.time() - limits.MAX_WEB_UPLOAD_AGE
        for changed, _, path in self._files():
            if changed < old:
                remove(path)

    def close(self) -> None:
        """Remove the folder."""
        self._closed.set()
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        if self.path.exists():
            logger.warning('Some of the uploads in %s could not be removed.', self.path)

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time, size and path of every file, the oldest first."""
        found = []
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = Path(folder, name)
                try:
                    status = path.lstat()
                except FileNotFoundError:  # gradio removes files as well
                    continue
                if path != self.path / LOCK_FILE:
                    found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    def _sweep(self) -> None:
        while not self._closed.wait(SWEEP_EVERY):
            self.remove_old()


def remove(path: Path) -> None:
    """Remove a file, and its folder if nothing else is in it."""
    path.unlink(missing_ok=True)
    folder = path.parent
    if folder.name.startswith(FOLDER_PREFIX):
        return
    try:
        folder.rmdir()
    except OSError as error:
        logger.debug('%s stays: %s', folder, error)


def lock(folder: Path) -> int:
    """Take a folder's lock, which the system gives back when this process ends.

    Raises:
        OSError: Another process has it.
    """
    file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


def remove_leftovers(parent: Path) -> None:
    """Remove the folders of servers that were killed: those of this user whose lock is free."""
    for folder in parent.glob(f'{FOLDER_PREFIX}*'):
        status = folder.lstat()
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        if not ours or not (folder / LOCK_FILE).is_file():
            continue
        try:
            held = lock(folder)
        except OSError:
            continue  # its server runs
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)
        logger.warning('Removed %s, which a server that was killed had left.', folder)
