"""The door of the HTTP side: whoever has no good key gets no further; health is for everybody."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.access import Access
from gateway.body import header_text
from gateway.hot import error_reply

OPEN_PATHS = frozenset(("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"))


def admitted(access: Access, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request with these headers may go on."""
    return access.admits(header_text(headers, b"authorization"), header_text(headers, b"x-api-key"))


class Guard:
    """Around everything else: a request that isn't admitted is answered before its body is read."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or admitted(self._access, dict(scope["headers"])):
            await self._app(scope, receive, send)
            return
        reply = error_reply(self._access.refuse("http"))
        reply.headers.append((b"connection", b"close"))  # what comes of its body isn't to be taken for a request
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.raw_headers()})
        await send({"type": "http.response.body", "body": reply.body})
