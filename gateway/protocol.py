"""Bounds on one HTTP connection that the server itself doesn't set: requests waiting on it, and time to send a header.

uvicorn reads on while pipelined requests wait, so one client that never reads answers could fill the memory; and it
waits for ever for the rest of a header.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_PIPELINED = 16
HEADER_TIMEOUT_S = 10.0


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection that pipelines too much, or takes too long over a request's header."""

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first header."""
        super().connection_made(transport)
        self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless too many requests wait for their turn already."""
        super().data_received(data)
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of the header."""
        self._expect_header()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop waiting: from here on the request's own deadline holds."""
        self._stop_timer()
        super().on_headers_complete()

    def _expect_header(self) -> None:
        self._stop_timer()
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._give_up)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _give_up(self, *_: Any) -> None:
        if not self.transport.is_closing():
            self.transport.close()
