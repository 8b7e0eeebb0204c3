"""The keys that prediction tokens are signed with: a file, so that all replicas and processes share them.

A line is `key-id:secret`, the secret in hex or base64url. The first key signs, every key verifies. To rotate, put a new
line first, and drop the old one when the last token signed with it has expired.
"""

import base64
import binascii
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.key_file import KeyFile, make

log = logging.getLogger(__name__)

MIN_SECRET_BYTES = 16

_WHAT = "feedback keys"
_NEW_SECRET_BYTES = 32
_LINE = re.compile(r"([A-Za-z0-9_-]{1,32})\s*:\s*(\S+)")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and the name that tokens carry of it."""

    id: bytes
    secret: bytes


class KeyRing:
    """The keys in a file, read again when it changes; KeyFileError when they can't be."""

    def __init__(self, path: Path) -> None:
        self._file = KeyFile(path, _WHAT, _parse, secret=True)
        self.signing = next(iter(self._file.content.values()))

    @classmethod
    def make(cls, path: Path) -> "KeyRing":
        """Write a file with one fresh key, for its owner alone, and load it; KeyFileError when there is one already."""
        secret = base64.urlsafe_b64encode(secrets.token_bytes(_NEW_SECRET_BYTES)).decode().rstrip("=")
        text = f"# key-id:secret; the first key signs, every key verifies\nk{secrets.token_hex(3)}:{secret}\n"
        make(path, text, _WHAT)
        return cls(path)

    def find(self, key_id: bytes) -> Key | None:
        """The key of that id."""
        return self._file.content.get(key_id)

    def refresh(self) -> None:
        """Read the file again if it changed; an edit that can't be read is logged once, and changes nothing."""
        if self._file.refresh():
            self.signing = next(iter(self._file.content.values()))
            log.info("%d feedback keys are in force; %s signs", len(self._file.content), self.signing.id.decode())


def _parse(lines: Sequence[tuple[int, str]]) -> Mapping[bytes, Key]:
    keys: dict[bytes, Key] = {}
    for number, line in lines:
        match = _LINE.fullmatch(line)  # what a message quotes is never the line: it holds a secret
        if match is None:
            raise ValueError(f"line {number}: expected key-id:secret, the id of letters, digits, _ and -")
        key_id, secret = match[1].encode(), _secret(match[2])
        if secret is None or len(secret) < MIN_SECRET_BYTES:
            raise ValueError(
                f"line {number}: expected a secret of at least {MIN_SECRET_BYTES} bytes in hex or base64url"
            )
        if key_id in keys:
            raise ValueError(f"line {number}: key {match[1]!r} is there twice; every key has an id of its own")
        keys[key_id] = Key(key_id, secret)
    if not keys:
        raise ValueError("expected a line key-id:secret, got no key")
    return keys


def _secret(text: str) -> bytes | None:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    standard = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
