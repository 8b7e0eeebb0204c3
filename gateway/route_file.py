"""The routes file: read when the gateway starts, and looked at again and again while it runs.

A gateway doesn't start with routes that can't be read: it would send requests where nobody wanted them. Once it runs,
an edit that can't be read changes nothing; it is logged, counted, and told by `GET /v1/routes`.

Each look reads and digests the whole file. It is small, and so every way to change it is seen: an edit in place, a
rename, the swapped symlinks of a Kubernetes ConfigMap. A change is believed when two looks in a row find the same: many
tools empty a file before they write it, and an empty file is a valid one, without routes.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from gateway.route import RouteTable
from gateway.route_text import MAX_BYTES, RouteError
from gateway.shadow import Shadow
from gateway.timing import Counters

log = logging.getLogger(__name__)

OnChange = Callable[[RouteTable], None]


class RouteFile:
    """The routes in force: those of a file, or none where there is no file.

    `revision` is the digest of what is in force, `error` says why that isn't what the file holds now.
    """

    def __init__(
        self,
        path: Path | None,
        table: RouteTable,
        revision: str | None,
        registry: CollectorRegistry,
        on_change: OnChange,
    ) -> None:
        self.table = table
        self.revision = revision
        self.loaded_at = datetime.now(UTC)
        self.error: str | None = None
        self._path = path
        self._on_change = on_change
        self._seen = self._judged = revision
        reloads = Counters(
            "gateway_route_reloads_total", "Edits of the routes file, by what came of them.", ("result",)
        )
        registry.register(reloads)
        self._reloads = {result: reloads.child(result) for result in ("applied", "refused")}
        in_force = Gauge(
            "gateway_route_config_in_force", "0 while the routes in force aren't those in the file.", registry=registry
        )
        in_force.set_function(lambda: self.error is None)
        on_change(table)

    @classmethod
    def load(
        cls, path: Path | None, registry: CollectorRegistry, *, on_change: OnChange = lambda _: None
    ) -> "RouteFile":
        """Read the file; raises RouteError.

        `on_change` is called with every table, this first one too, just before it comes into force.
        """
        if path is None:
            return cls(None, RouteTable(), None, registry, on_change)
        content = _read(path)
        return cls(path, _first(path, content), _revision(content), registry, on_change)

    async def watch(self, interval_s: float) -> None:
        """Refresh for ever."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.refresh()
            except Exception:  # the outermost edge: whatever goes wrong once, the next look may go right
                log.exception("the routes can't be refreshed")

    async def refresh(self) -> None:
        """Look at the file once, and take over what it holds if the look before found the same."""
        if self._path is None:
            return
        content = await asyncio.to_thread(_read, self._path)
        before, self._seen = self._seen, _revision(content)
        if self._seen != before or self._seen == self._judged:
            return
        if self._seen == self.revision:
            self.error = None
            log.info("the routes file holds again what is in force, revision %s", self.revision)
        else:
            await self._change(content)
        self._judged = self._seen

    async def _change(self, content: bytes | RouteError) -> None:
        try:
            table = await asyncio.to_thread(_parse, content)
        except RouteError as exc:
            self.error = str(exc)
            self._reloads["refused"].inc()
            log.error("the routes stay as they were: %s: %s", self._path, exc)
            return
        self._on_change(table)
        self.table, self.revision, self.error = table, self._seen, None
        self.loaded_at = datetime.now(UTC)
        self._reloads["applied"].inc()
        log.info("%d routes are in force, revision %s", len(table.document.routes), self.revision)


def check(path: Path) -> RouteTable:
    """The table that a file holds; raises RouteError, which names the file."""
    return _first(path, _read(path))


def describe(file: RouteFile, shadow: Shadow) -> dict[str, Any]:
    """What is in force, ready for JSON: the document with its defaults filled in, and each shadow's counts."""
    document = file.table.document
    routes = []
    for route in document.routes:
        shown = {"name": route.name} | route.model_dump(mode="json", exclude_none=True)
        if route.shadow is not None:
            shown["shadow"]["counts"] = shadow.counts(route.name)
        routes.append(shown)
    return {
        "revision": file.revision,
        "loaded_at": file.loaded_at.isoformat(timespec="seconds"),
        "error": file.error,
        "tenant_header": document.tenant_header,
        "routes": routes,
    }


def _read(path: Path) -> bytes | RouteError:
    """What the file holds, or why that can't be known, which is something to compare looks by as well."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as exc:
        return RouteError(f"the routes file can't be read: {exc.strerror}")
    if len(content) > MAX_BYTES:
        return RouteError(f"expected a routes file of at most {MAX_BYTES} bytes, got more")
    return content


def _parse(content: bytes | RouteError) -> RouteTable:
    if isinstance(content, RouteError):
        raise content
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise RouteError(f"line {line}: expected UTF-8, got the byte 0x{content[exc.start]:02x}") from exc
    return RouteTable.parse(text)


def _first(path: Path, content: bytes | RouteError) -> RouteTable:
    try:
        return _parse(content)
    except RouteError as exc:  # it goes to an operator, who has to know the file; clients never see this one
        raise RouteError(f"{path}: {exc}") from exc


def _revision(content: bytes | RouteError) -> str:
    return blake2b(str(content).encode() if isinstance(content, RouteError) else content, digest_size=8).hexdigest()
