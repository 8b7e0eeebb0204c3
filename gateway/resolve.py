"""Where the inference servers are: names are looked up again and again, because the servers behind them come and go.

Nobody waits for a name server but the very first call. A look-up that fails or finds nothing changes nothing: that
the name server is away says nothing about the inference servers. At most one look-up of a name is under way: a hung one
holds a thread until the system's resolver gives up, and must not gather company.
"""

import asyncio
import ipaddress
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger(__name__)

MAX_ENDPOINTS = 64

Resolve = Callable[[str], Awaitable[Sequence[str]]]


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[ipv6]:port`; ValueError when it isn't that."""
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or not port.isdecimal() or not 0 < int(port) < 65536 or (":" in host and bare == host):
        raise ValueError(f"expected an inference server's address as host:port or [ipv6]:port, got {address!r}")
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """`host:port`, or `[host]:port` for IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Whether `ip:port` is on this host."""
    host = split_address(address)[0]
    return _is_literal(host) and ipaddress.ip_address(host).is_loopback


async def resolve_address(address: str) -> Sequence[str]:
    """Every `ip:port` behind `host:port`; OSError when the name can't be resolved."""
    host, port = split_address(address)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [join_address(str(place[0]), port) for *_, place in found]


class Resolver:
    """Keeps track of every `ip:port` behind some addresses. Calls `on_change` with all of them when they change."""

    def __init__(
        self,
        addresses: Sequence[str],
        resolve: Resolve,
        *,
        clock: Callable[[], float],
        on_change: Callable[[Sequence[str]], None],
    ) -> None:
        if not addresses:
            raise ValueError("expected the address of at least one inference server, got none")
        hosts = {address: split_address(address)[0] for address in addresses}
        self._names = tuple(address for address, host in hosts.items() if not _is_literal(host))
        self._found: dict[str, Sequence[str]] = {a: () if a in self._names else (a,) for a in hosts}
        self._resolve = resolve
        self._clock = clock
        self._on_change = on_change
        self._current: tuple[str, ...] = ()
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._looked_at = -math.inf
        self._complaints: dict[str, str] = {}

    def refresh(self, older_than_s: float) -> None:
        """Start to look everything up again, if the last time is that long ago."""
        now = self._clock()
        if now - self._looked_at < older_than_s:
            return
        self._looked_at = now
        for name in self._names:
            if name not in self._lookups:
                self._lookups[name] = asyncio.get_running_loop().create_task(self._look_up(name))
        self._publish()

    async def wait(self, timeout_s: float) -> None:
        """Wait for the look-ups under way."""
        if self._lookups:
            await asyncio.wait(self._lookups.values(), timeout=timeout_s)

    async def close(self) -> None:
        """Give up the look-ups under way."""
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    async def _look_up(self, address: str) -> None:
        try:
            found = await self._resolve(address)
        except (OSError, UnicodeError) as exc:
            self._complain(address, str(exc))
            return
        finally:
            del self._lookups[address]
        if not found:
            self._complain(address, "it has no address")
            return
        self._complaints.pop(address, None)
        self._found[address] = found
        self._publish()

    def _publish(self) -> None:
        """Tell what changed. Name servers shuffle: those in use stay in use, also where there are too many."""
        found = dict.fromkeys(place for places in self._found.values() for place in places)
        kept = [place for place in self._current if place in found]
        current = tuple(dict.fromkeys((*kept, *found)))[:MAX_ENDPOINTS]
        if current == self._current:
            return
        if len(found) > MAX_ENDPOINTS:
            log.warning("%d inference servers found; %d of them are used", len(found), MAX_ENDPOINTS)
        self._current = current
        self._on_change(current)

    def _complain(self, address: str, reason: str) -> None:
        if self._complaints.get(address) != reason:
            log.warning("can't resolve %s: %s; what was known of it is kept", address, reason)
        self._complaints[address] = reason


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
