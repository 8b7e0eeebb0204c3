"""Who may ask: whoever has one of the keys in a file; everybody where there is no file.

A line is `name:sha256`, or `name:sha256 until 2027-01-31` for a key that is good up to the end of that day (UTC). Only
hashes of keys are kept, so the file can't be used to ask. Keys are 256 random bits and are looked up by their hash: how
long that takes says nothing of any key, and a slow hash, as passwords need one, would add nothing.

A client sends its key as `Authorization: Bearer KEY`, or as `X-API-Key: KEY`; over gRPC the same as metadata. One good
key is enough: what else stands there may be for a proxy.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from hashlib import sha256
from math import inf
from pathlib import Path
from time import time as now_unix_s

from prometheus_client import CollectorRegistry, Gauge

from gateway.error import Unauthenticated
from gateway.key_file import KeyFile
from gateway.timing import Counters

log = logging.getLogger(__name__)

PROTOCOLS = ("http", "grpc")
HEADERS = ("authorization", "x-api-key")  # that a key may be in
HOLDER = "tidegate.holder"  # whose it was, in the scope of an HTTP request

_PREFIX = "tg_"
_KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINE = re.compile(rf"({_NAME.pattern})\s*:\s*([0-9a-fA-F]{{64}})(?:\s+until\s+(\d{{4}}-\d{{2}}-\d{{2}}))?")
_NO_KEY = sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key: who has it, its hash, and the last day on which it is good (UTC)."""

    name: str
    digest: bytes
    last_day: date | None = None

    @property
    def until_unix_s(self) -> float:
        """Up to when it is good, in seconds since 1970."""
        return inf if self.last_day is None else datetime.combine(self.last_day, time.max, UTC).timestamp()

    def line(self) -> str:
        """Its line in the file."""
        until = "" if self.last_day is None else f" until {self.last_day}"
        return f"{self.name}:{self.digest.hex()}{until}"


class Access:
    """Admits requests. `ring` is another object whenever the keys that are good have changed."""

    def __init__(
        self, path: Path | None, registry: CollectorRegistry, *, clock: Callable[[], float] = now_unix_s
    ) -> None:
        self._file = None if path is None else _file(path)
        self._clock = clock
        self.ring: Mapping[bytes, str] | None = None  # names by digest; None: everybody may ask
        self._next_end = inf
        self._take_over()
        refused = Counters("gateway_unauthenticated_total", "Requests without a good API key.", ("protocol",))
        self._refused = {protocol: refused.child(protocol) for protocol in PROTOCOLS}
        registry.register(refused)
        in_force = Gauge(
            "gateway_api_keys_in_force",
            "1 while the API keys are those of their file; 0 while it can't be read, and they stay as they were.",
            registry=registry,
        )
        in_force.set_function(lambda: self._file is None or not self._file.stale)

    def admit(self, protocol: str, headers: Mapping[str, str]) -> str | None:
        """Whose key a request came with; None where everybody may ask. Names of `headers` are in lower case.

        Raises Unauthenticated, and counts it, when it is no good one.
        """
        if self.ring is None:
            return None
        holder = self.holder(headers)
        if holder is None:
            self._refused[protocol].inc()
            raise Unauthenticated("expected a good API key in 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        return holder

    def holder(self, headers: Mapping[str, str]) -> str | None:
        """Whose key it is that these headers hold, if there is a good one."""
        scheme, _, token = headers.get(HEADERS[0], "").partition(" ")
        for key in (token if scheme.lower() == "bearer" else "", headers.get(HEADERS[1], "")):
            if key and self.ring and (name := self.ring.get(_digest(key.strip()))) is not None:
                return name
        return None

    async def watch(self, interval_s: float) -> None:
        """Keep the keys those of their file that are good, for ever."""
        while True:
            await asyncio.sleep(interval_s)
            if self._file is not None and (await asyncio.to_thread(self._file.refresh) or self._ended()):
                self._take_over()

    def _ended(self) -> bool:
        return self._clock() > self._next_end

    def _take_over(self) -> None:
        if self._file is None:
            return
        now = self._clock()
        good = [key for key in self._file.content if key.until_unix_s >= now]
        self.ring = {key.digest: key.name for key in good}
        self._next_end = min([key.until_unix_s for key in good], default=inf)
        log.info(
            "%d API keys are good: %s", len(good), ", ".join(sorted({key.name for key in good})) or "nobody may ask"
        )


def new_key(name: str, last_day: date | None = None) -> tuple[str, ApiKey]:
    """A fresh key, good up to the end of `last_day` (UTC): what its holder is given, and what the file keeps.

    Raises ValueError for a name that the file can't hold.
    """
    text = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"expected a name of at most 64 letters, digits, '.', '_' and '-', got {name!r:.80}")
    return text, ApiKey(name, _digest(text), last_day)


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """All keys in a file, good or not; raises KeyFileError."""
    return _file(path).content


def _file(path: Path) -> KeyFile[tuple[ApiKey, ...]]:
    return KeyFile(path, "API keys", _parse, secret=False)


def _parse(lines: Sequence[tuple[int, str]]) -> tuple[ApiKey, ...]:
    """Read lines by their numbers. No line at all is a file in which nobody has a key."""
    keys: dict[bytes, ApiKey] = {}
    for number, line in lines:
        match = _LINE.fullmatch(line)  # not quoted in messages: somebody may have written the key itself
        if match is None:
            raise ValueError(f"line {number}: expected name:sha256, and perhaps 'until YYYY-MM-DD'")
        digest = bytes.fromhex(match[2])
        if digest == _NO_KEY:
            raise ValueError(f"line {number}: this is the hash of no key at all, which would let everybody in")
        if digest in keys:
            raise ValueError(f"line {number}: the key of {keys[digest].name!r} is there twice")
        try:
            last_day = None if match[3] is None else date.fromisoformat(match[3])
        except ValueError as exc:
            raise ValueError(f"line {number}: {exc}") from exc
        keys[digest] = ApiKey(match[1], digest, last_day)
    return tuple(keys.values())


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "replace")).digest()
