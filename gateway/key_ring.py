"""The keys that prediction tokens are signed with: a file, so that all replicas and processes share them.

A line is `key-id:secret`, the secret in hex or base64url. The first key signs, every key verifies. To rotate, put a new
line first, and drop the old one when the last token signed with it has expired.
"""

import base64
import binascii
import logging
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.error import ConfigurationError

log = logging.getLogger(__name__)

MIN_SECRET_BYTES = 16

_NEW_SECRET_BYTES = 32
_MAX_FILE_BYTES = 64 * 1024
_LINE = re.compile(r"([A-Za-z0-9_-]{1,32})\s*:\s*(\S+)")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
_WORLD = stat.S_IROTH | stat.S_IWOTH


class KeyRingError(ConfigurationError):
    """The file can't be read, or is no list of keys."""


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and the name that tokens carry of it."""

    id: bytes
    secret: bytes


class KeyRing:
    """The keys in a file, read again when it changes."""

    def __init__(self, path: Path, keys: Mapping[bytes, Key], stamp: object) -> None:
        self._path = path
        self._keys = keys
        self._stamp = stamp
        self.signing = next(iter(keys.values()))

    @classmethod
    def load(cls, path: Path) -> "KeyRing":
        """Read the file; raises KeyRingError."""
        stamp, keys = _read(path)
        return cls(path, keys, stamp)

    @classmethod
    def make(cls, path: Path) -> "KeyRing":
        """Write a file with one fresh key, for its owner alone, and load it; KeyRingError when there is one already."""
        secret = base64.urlsafe_b64encode(secrets.token_bytes(_NEW_SECRET_BYTES)).decode().rstrip("=")
        text = f"# key-id:secret; the first key signs, every key verifies\nk{secrets.token_hex(3)}:{secret}\n"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(text)
        except OSError as exc:
            raise KeyRingError(f"{path}: the feedback keys can't be written: {exc.strerror}") from exc
        return cls.load(path)

    def find(self, key_id: bytes) -> Key | None:
        """The key of that id."""
        return self._keys.get(key_id)

    def refresh(self) -> None:
        """Read the file again if it changed; an edit that can't be read is logged once, and changes nothing."""
        try:
            if (stamp := _stamp(self._path)) == self._stamp:
                return
            self._stamp = stamp
            self._stamp, self._keys = _read(self._path)
        except KeyRingError as exc:
            log.error("the feedback keys stay as they were: %s", exc)
            return
        self.signing = next(iter(self._keys.values()))
        log.info("%d feedback keys are in force; %s signs", len(self._keys), self.signing.id.decode())


def _read(path: Path) -> tuple[object, Mapping[bytes, Key]]:
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise KeyRingError(f"{path}: the feedback keys can't be read: {exc.strerror}") from exc
    if len(text) > _MAX_FILE_BYTES:
        raise KeyRingError(f"{path}: expected feedback keys of at most {_MAX_FILE_BYTES} bytes, got more")
    keys = _parse(path, text)
    if state.st_mode & _WORLD:
        log.warning("%s holds secrets that every user of this machine can get at; chmod o-rw it", path)
    return _stamp_of(state), keys


def _parse(path: Path, text: bytes) -> Mapping[bytes, Key]:
    keys: dict[bytes, Key] = {}
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)  # what a message quotes is never the line: it holds a secret
        if match is None:
            raise KeyRingError(f"{path}, line {number}: expected key-id:secret, the id of letters, digits, _ and -")
        key_id, secret = match[1].encode(), _secret(match[2])
        if secret is None or len(secret) < MIN_SECRET_BYTES:
            raise KeyRingError(
                f"{path}, line {number}: expected a secret of at least {MIN_SECRET_BYTES} bytes in hex or base64url"
            )
        if key_id in keys:
            raise KeyRingError(
                f"{path}, line {number}: key {match[1]!r} is there twice; every key has an id of its own"
            )
        keys[key_id] = Key(key_id, secret)
    if not keys:
        raise KeyRingError(f"{path}: expected a line key-id:secret, got no key")
    return keys


def _secret(text: str) -> bytes | None:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    standard = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _stamp(path: Path) -> object:
    try:
        return _stamp_of(path.stat())
    except OSError:
        return None  # gone: reading it says so


def _stamp_of(state: os.stat_result) -> object:
    return (state.st_mtime_ns, state.st_size, state.st_ino)
