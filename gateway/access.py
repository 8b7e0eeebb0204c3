"""Who may ask: whoever has one of the keys in a file; everybody where there is no file.

A line is `name:sha256`, or `name:sha256 until 2027-01-31` for a key that is good up to the end of that day (UTC). Only
hashes of keys are kept, so the file can't be used to ask. Keys are 256 random bits and are looked up by their hash: how
long that takes says nothing of any key, and a slow hash, as passwords need one, would add nothing.

A client sends its key as `Authorization: Bearer KEY`, or as `X-API-Key: KEY`; over gRPC the same as metadata.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from math import inf
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from gateway.error import Unauthenticated
from gateway.key_file import KeyFile
from gateway.timing import Counters

log = logging.getLogger(__name__)

PROTOCOLS = ("http", "grpc")

_PREFIX = "tg_"
_KEY_BYTES = 32
_LINE = re.compile(r"([A-Za-z0-9._-]{1,64})\s*:\s*([0-9a-fA-F]{64})(?:\s+until\s+(\d{4}-\d{2}-\d{2}))?")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key: who has it, its hash, and until when it is good, in seconds since 1970."""

    name: str
    digest: bytes
    until_unix_s: float = inf

    def line(self) -> str:
        """Its line in the file."""
        if self.until_unix_s == inf:
            return f"{self.name}:{self.digest.hex()}"
        last = datetime.fromtimestamp(self.until_unix_s, UTC).date() - timedelta(days=1)
        return f"{self.name}:{self.digest.hex()} until {last}"


class Access:
    """Admits requests. `ring` is another object whenever the keys that are good have changed."""

    def __init__(
        self, path: Path | None, registry: CollectorRegistry, *, clock: Callable[[], float] = time.time
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

    def admits(self, authorization: str | None, api_key: str | None) -> bool:
        """Whether whoever sends these headers may ask."""
        return self.ring is None or self.holder(authorization, api_key) is not None

    def holder(self, authorization: str | None, api_key: str | None) -> str | None:
        """Whose key it is; None for one that is not good, and where there are no keys."""
        if self.ring is None:
            return None
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            key = api_key or ""
        return self.ring.get(sha256(key.strip().encode("utf-8", "replace")).digest())

    def refuse(self, protocol: str) -> Unauthenticated:
        """Count a request that is not admitted; what to tell it."""
        self._refused[protocol].inc()
        return Unauthenticated("expected a good API key in 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")

    async def watch(self, interval_s: float) -> None:
        """Keep the keys those of their file that are good, for ever."""
        while True:
            await asyncio.sleep(interval_s)
            if self._file is not None and (await asyncio.to_thread(self._file.refresh) or self._ended()):
                self._take_over()

    def _ended(self) -> bool:
        return self._clock() >= self._next_end

    def _take_over(self) -> None:
        if self._file is None:
            return
        now = self._clock()
        good = [key for key in self._file.content if key.until_unix_s > now]
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
    key = ApiKey(name, sha256(text.encode()).digest(), inf if last_day is None else _end_of(last_day))
    if _LINE.fullmatch(key.line()) is None:
        raise ValueError(f"expected a name of at most 64 letters, digits, '.', '_' and '-', got {name!r:.80}")
    return text, key


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
        if digest in keys:
            raise ValueError(f"line {number}: the key of {keys[digest].name!r} is there twice")
        try:
            until = inf if match[3] is None else _end_of(date.fromisoformat(match[3]))
        except ValueError as exc:
            raise ValueError(f"line {number}: {exc}") from exc
        keys[digest] = ApiKey(match[1], digest, until)
    return tuple(keys.values())


def _end_of(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + 86_400
