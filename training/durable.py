"""Files that are either there, whole and on the disk, or not there: for checkpoints, the ledger and published versions.

A file is written aside, flushed to the disk, renamed over the old one, and then the folder's entry is flushed too.
Source: rename(2) is atomic within a file system; fsync(2) says that a new entry needs an fsync of its folder.
"""

import errno
import os
from pathlib import Path

from contract.disk import sync_entry


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by a file with that content. Killed at any moment, the old or the new content is there, whole.

    The caller is the only writer of `path`; what a killed one left aside is written over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_entry(path.parent)


def explanation(exc: OSError, folder: Path) -> str:
    """What the operating system's refusal means for work in `folder`, and what to do about it."""
    where = exc.filename or folder
    match exc.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"the disk that holds {folder} is full: free some space and try again"
        case errno.EFBIG:
            return f"a file in {folder} would be larger than this process may write: raise its limit (ulimit -f)"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{where} can't be written: work as its owner, or make it writable"
        case errno.EXDEV:
            return f"{folder} is a mount point of its own: mount its parent folder, for files are made beside it"
        case _:
            return f"{where}: {exc.strerror or exc}"
