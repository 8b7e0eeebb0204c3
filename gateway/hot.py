"""The two requests that matter for speed, predict and infer, from bytes to bytes, without a framework.

Each is a coroutine from an `Exchange` to a `Reply`. Two fronts call them: the HTTP protocol itself for whole small
requests, and the ASGI middleware `HotPath` for everything else (large, chunked, compressed). The framework only has
them in its documentation.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from contract.schema import ClassificationPostprocess, Contract
from gateway.access import HOLDER
from gateway.body import Body, header_text, read_items
from gateway.call import Ask, Call
from gateway.dataplane import DataPlane
from gateway.encoding import MIN_ENCODE_BYTES, encode
from gateway.error import ClientGone, InvalidRequest
from gateway.form import Forms
from gateway.log import request_id
from gateway.outcome import message_of, outcome_of
from gateway.v2 import read_request, write_response

log = logging.getLogger(__name__)

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics", "parameters", "generate")
JSON = b"application/json"
OCTETS = b"application/octet-stream"

_STATUS_LINE = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_STATUS_LINE[499] = b"HTTP/1.1 499 Client Closed Request\r\n"
_TIMEOUT_HEADER = b"x-request-timeout-ms"
_TIMEOUT_DIGITS = 8
_MAX_LOOP_ENCODE_BYTES = 64 * 1024

_T = TypeVar("_T")


@dataclass(slots=True)
class Reply:
    """One answer, before it is written in some protocol's way. Header names are lower-case."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """All headers, as ASGI wants them."""
        return [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            *self.headers,
        ]

    def encode(self, keep_alive: bool) -> bytes:
        """The answer as HTTP/1.1."""
        lines = b"".join([b"%b: %b\r\n" % header for header in self.headers])
        return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
            _STATUS_LINE[self.status],
            self.content_type,
            len(self.body),
            lines,
            b"" if keep_alive else b"connection: close\r\n",
            self.body,
        )


@dataclass(slots=True)
class Exchange:
    """One request to a hot endpoint. Its body is there, or `read` gives it, bounded in bytes and by a deadline."""

    name: str
    version: str | None
    headers: Mapping[bytes, bytes]
    client: str | None = None
    body: bytes | None = None
    read: Callable[[float], Awaitable[bytes]] | None = None
    request_id: str = ""
    key: str | None = None  # whose API key it came with

    async def whole_body(self, deadline: float) -> bytes:
        """The body, once all of it is there."""
        assert self.read is not None
        return await self.read(deadline)

    def ask(self, protocol: str) -> Ask:
        """What is asked for, for the data plane."""
        self.request_id = request_id(header_text(self.headers, b"x-request-id"))
        return Ask(protocol, self.name, self.version, None, self.request_id, self.client, self.key, self._headers)

    def heed_timeout(self, call: Call) -> None:
        """Give the call no more time than the client does; InvalidRequest when that can't be read."""
        timeout = self.headers.get(_TIMEOUT_HEADER)
        if timeout is not None:
            call.limit(_timeout_s(timeout))

    def _headers(self) -> Mapping[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers.items()}


Endpoint = Callable[[Exchange], Awaitable[Reply]]


async def predict(plane: DataPlane, exchange: Exchange) -> Reply:
    """Answer what a client means: images, texts or rows."""
    with plane.call(exchange.ask("predict")) as call:
        exchange.heed_timeout(call)
        body = exchange.body
        if body is None:
            body = await exchange.whole_body(call.deadline)
        contract = call.served.contract
        if contract is None:
            raise InvalidRequest(f"model {call.served.name!r} takes tensors; send them by the V2 protocol")
        items = await read_items(exchange.headers, body, contract.preprocess, plane.settings.max_items)
        predictions = await plane.predict(call, items)
        document = {"model": call.served.name, "version": call.served.version, "predictions": predictions}
        data = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return await _finish(exchange, call, Reply(data))


async def infer(plane: DataPlane, forms: Forms, exchange: Exchange) -> Reply:
    """Answer tensors with tensors, in the Open Inference Protocol's JSON or binary form."""
    with plane.call(exchange.ask("v2_http")) as call:
        exchange.heed_timeout(call)
        body = exchange.body
        if body is None:
            body = await exchange.whole_body(call.deadline)
        json_length = header_text(exchange.headers, b"inference-header-content-length")
        request = forms.read(body) if json_length is None else read_request(body, json_length)
        outputs = await plane.infer(call, request)
        served = call.served
        data, text_bytes = write_response(
            served.name, served.version, request, outputs, labels=class_labels(served.contract)
        )
    if text_bytes is None:
        return await _finish(exchange, call, Reply(data))
    length = (b"inference-header-content-length", b"%d" % text_bytes)
    return await _finish(exchange, call, Reply(data, content_type=OCTETS, headers=[length]))


def class_labels(contract: Contract | None) -> Mapping[str, tuple[str, ...]]:
    """Labels by output tensor, for the classification extension."""
    if contract is None or not isinstance(contract.postprocess, ClassificationPostprocess):
        return {}
    return {contract.postprocess.tensor: contract.postprocess.labels}


async def answer(endpoint: Endpoint, exchange: Exchange) -> Reply:
    """Call an endpoint; whatever it raises, save being cancelled, becomes an answer."""
    try:
        return await endpoint(exchange)
    except Exception as exc:
        return error_reply(exc, exchange.request_id)


def error_reply(exc: BaseException, request_id: str = "") -> Reply:
    """One sentence, under the status of the error's outcome."""
    outcome = outcome_of(exc)
    if outcome.status == 500:
        log.error("a request failed unexpectedly", exc_info=exc)
    reply = Reply(orjson.dumps({"error": message_of(exc)}), outcome.status)
    if outcome.retry_after_s:
        reply.headers.append((b"retry-after", b"%d" % outcome.retry_after_s))
    if outcome.status == 401:
        reply.headers.append((b"www-authenticate", b"Bearer"))
    if request_id:
        reply.headers.append((b"x-request-id", request_id.encode()))
    return reply


class HotEndpoints:
    """The hot endpoints of a plane, found by path."""

    max_body_bytes = sys.maxsize  # the plane's, where there is one

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane
        self.access = plane.access
        self.max_body_bytes = plane.settings.max_body_bytes
        self._endpoints: dict[tuple[str, str], Endpoint] = {
            ("v1", "predict"): partial(predict, plane),
            ("v2", "infer"): partial(infer, plane, Forms()),
        }

    def find(self, path: str) -> tuple[Endpoint, str, str | None] | None:
        """Endpoint, model name and version (None for the default one) of a path; None when it is no hot one."""
        match path.split("/"):
            case ["", root, "models", name, verb] if name and (root, verb) in self._endpoints:
                return self._endpoints[root, verb], name, None
            case ["", root, "models", name, "versions", version, verb] if (
                name and version and (root, verb) in self._endpoints
            ):
                return self._endpoints[root, verb], name, version
        return None


class HotPath:
    """Answers hot requests before the framework's routing, which costs more than they do."""

    def __init__(self, app: ASGIApp, endpoints: HotEndpoints) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        found = self._endpoints.find(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, name, version = found
        headers = dict(scope["headers"])
        body = Body(receive, headers, self._endpoints.plane.settings.max_body_bytes)
        client = scope.get("client")
        key = scope.get(HOLDER)
        exchange = Exchange(name, version, headers, client[0] if client else None, read=body.read, key=key)
        try:
            reply = await unless_gone(answer(endpoint, exchange), body)
        except ClientGone:
            return
        if not body.complete:  # what is left of it must not be taken for the next request
            reply.headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.raw_headers()})
        await send({"type": "http.response.body", "body": reply.body})


async def unless_gone(work: Coroutine[Any, Any, _T], body: Body) -> _T:
    """The work's result; ClientGone when the client went away before: nobody should work on for it."""
    main, gone = asyncio.create_task(work), asyncio.create_task(body.gone())
    try:
        await asyncio.wait({main, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not main.done():
            raise ClientGone("the client went away")
        return main.result()
    finally:
        gone.cancel()
        main.cancel()
        await asyncio.wait({main, gone})


def _finish(exchange: Exchange, call: Call, reply: Reply) -> Awaitable[Reply]:
    """The answer with the headers that every answer has, and encoded as the client likes it."""
    admit, preprocess, queue, upstream, postprocess = call.stages
    timing = b"admit;dur=%.2f, preprocess;dur=%.2f, queue;dur=%.2f, upstream;dur=%.2f, postprocess;dur=%.2f" % (
        *(admit * 1e3, preprocess * 1e3, queue * 1e3, upstream * 1e3),
        postprocess * 1e3,
    )
    reply.headers += ((b"x-request-id", exchange.request_id.encode()), (b"server-timing", timing))
    return _encoded(reply, exchange.headers.get(b"accept-encoding"))


async def _encoded(reply: Reply, accepted: bytes | None) -> Reply:
    if accepted is None or len(reply.body) <= MIN_ENCODE_BYTES:
        return reply
    if len(reply.body) <= _MAX_LOOP_ENCODE_BYTES:
        reply.body, encoding = encode(reply.body, accepted.decode("latin-1"))
    else:  # it takes milliseconds, in which the loop should answer others
        reply.body, encoding = await asyncio.to_thread(encode, reply.body, accepted.decode("latin-1"))
    if encoding is not None:
        reply.headers += ((b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding"))
    return reply


def _timeout_s(text: bytes) -> float:
    if not text.isdigit() or len(text) > _TIMEOUT_DIGITS or not 0 < int(text) <= 86_400_000:
        raise InvalidRequest(f"expected milliseconds in X-Request-Timeout-Ms, got {text[:20]!r}")
    return int(text) / 1000
