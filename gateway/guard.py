"""The door of the HTTP side: whoever has no good key gets no further; health is for everybody."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.access import HEADERS, HOLDER, Access
from gateway.body import header_text
from gateway.error import Unauthenticated
from gateway.hot import error_reply

OPEN_PATHS = frozenset(("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"))


def keys_of(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Those headers that a key may be in."""
    sent = {name: header_text(headers, name.encode()) for name in HEADERS}
    return {name: value for name, value in sent.items() if value is not None}


class Guard:
    """Around everything else: a request that isn't admitted is answered before its body is read."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and self._access.ring is not None:
            try:
                scope[HOLDER] = self._access.admit("http", keys_of(dict(scope["headers"])))
            except Unauthenticated as exc:
                reply = error_reply(exc)
                reply.headers.append((b"connection", b"close"))  # its body isn't to be taken for a request
                await send({"type": "http.response.start", "status": reply.status, "headers": reply.raw_headers()})
                await send({"type": "http.response.body", "body": reply.body})
                return
        await self._app(scope, receive, send)
