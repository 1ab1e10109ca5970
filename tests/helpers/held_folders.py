"""A process that holds a work directory, as a run does."""

import time
from multiprocessing.synchronize import Event

from pgseg_mm.serialization.work_folders import lock_folder


def hold_folder(folder: str, held: Event) -> None:
    """Lock a folder until the process is killed."""
    lock_folder(folder)
    held.set()
    time.sleep(300)
