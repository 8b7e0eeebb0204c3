"""What is written stays written: files and folders are flushed before anything names them."""

import os
from pathlib import Path


def sync_tree(folder: Path) -> None:
    """Flush a folder, and every file and folder below it, to the disk."""
    for below in sorted(folder.rglob("*"), reverse=True):
        sync_entry(below)
    sync_entry(folder)


def sync_entry(path: Path) -> None:
    """Flush one file's content, or one folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
