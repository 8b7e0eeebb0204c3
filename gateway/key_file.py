"""A file of keys that may be edited while the gateway runs: a bad edit changes nothing, and is said once."""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from gateway.error import ConfigurationError

log = logging.getLogger(__name__)

_MAX_BYTES = 256 * 1024
_NEVER = object()
_WORLD = stat.S_IROTH | stat.S_IWOTH

T = TypeVar("T")


class KeyFileError(ConfigurationError):
    """The file can't be read, or is no list of keys."""


class KeyFile(Generic[T]):
    """What a file says, read again when it changes.

    `what` names its keys, `parse` reads its lines (number and text, without comments and empty ones) and raises
    ValueError with a sentence that holds no secret. `secret`: whoever can read the file has the keys.
    """

    def __init__(self, path: Path, what: str, parse: Callable[[list[tuple[int, str]]], T], *, secret: bool) -> None:
        self.path = path
        self.stale = False  # whether the file can't be read as it is now
        self._said = ""
        self._what = what
        self._parse = parse
        self._secret = secret
        self._stamp, self.content = self._read()

    def refresh(self) -> bool:
        """Read the file again if it changed; whether there is new content."""
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return False
        try:
            self._stamp, self.content = self._read()
        except KeyFileError as exc:
            # What is wrong in it stays so until it is edited; what couldn't be opened may be there the next time.
            self._stamp = _NEVER if isinstance(exc.__cause__, OSError) else stamp
            if str(exc) != self._said:
                log.error("the %s stay as they were: %s", self._what, exc)
            self.stale, self._said = True, str(exc)
            return False
        self.stale, self._said = False, ""
        return True

    def _read(self) -> tuple[object, T]:
        path, what = self.path, self._what
        try:
            with path.open("rb") as file:
                state = os.fstat(file.fileno())
                text = file.read(_MAX_BYTES + 1)
        except OSError as exc:
            raise KeyFileError(f"{path}: the {what} can't be read: {exc.strerror}") from exc
        if len(text) > _MAX_BYTES:
            raise KeyFileError(f"{path}: expected {what} of at most {_MAX_BYTES} bytes, got more")
        lines = [(i, line.strip()) for i, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1)]
        try:
            content = self._parse([(i, line) for i, line in lines if line and not line.startswith("#")])
        except ValueError as exc:
            raise KeyFileError(f"{path}, {exc}") from exc
        exposed = _WORLD if self._secret else stat.S_IWOTH
        if state.st_mode & exposed:
            log.warning("%s is open to every user of this machine; chmod o-rw it", path)
        return _stamp_of(state), content


def make(path: Path, text: str, what: str) -> None:
    """Write a file for its owner alone; KeyFileError when there is one already."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(text)
    except OSError as exc:
        raise KeyFileError(f"{path}: the {what} can't be written: {exc.strerror}") from exc


def _stamp(path: Path) -> object:
    try:
        return _stamp_of(path.stat())
    except OSError:
        return None  # gone: reading it says so


def _stamp_of(state: os.stat_result) -> object:
    return (state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino)
