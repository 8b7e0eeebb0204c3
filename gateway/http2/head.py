"""What the header block of a request says, read once for all requests that begin with the same bytes.

Source: RFC 9113, section 8; https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import re
from dataclasses import dataclass
from typing import Final

import grpc

from gateway.http2.header import Fields, literal
from gateway.http2.metadata import read_binary, read_timeout, status_fields

MAX_HEADER_BYTES: Final = 8192  # of one list, as RFC 9113 counts them; gRPC's own default
OK_FIELDS: Final = b"\x88" + literal(b"content-type", b"application/grpc")  # \x88 is `:status: 200`

_METHOD_NOT_ALLOWED = literal(b":status", b"405") + literal(b"allow", b"POST")
_UNSUPPORTED_MEDIA_TYPE = literal(b":status", b"415") + literal(b"accept", b"application/grpc")
_MALFORMED = b""
_PSEUDO = {b":method", b":scheme", b":path", b":authority"}
_OF_CONNECTION = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
_OF_PROTOCOL = {b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}
_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_NOT_IN_VALUE = re.compile(rb"[\x00\r\n]|^[ \t]|[ \t]$")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """A request's beginning. `refusal`: the headers to answer at once with; empty ones reset the stream."""

    path: str = ""
    timeout_s: float | None = None
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    refusal: bytes | None = None


def refusal_fields(code: grpc.StatusCode, details: str) -> bytes:
    """The headers of an answer that is nothing but an error."""
    return OK_FIELDS + status_fields(code, details)


def read_request(fields: Fields) -> RequestHead:
    """What a header block says; trailers are read too, and found malformed."""
    known = _known(fields)
    if known is None:
        return RequestHead(refusal=_MALFORMED)
    if known[b":method"] != b"POST":
        return RequestHead(refusal=_METHOD_NOT_ALLOWED)
    content_type = known.get(b"content-type", b"")
    if not re.fullmatch(rb"application/grpc(\+proto)?(;.*)?", content_type):
        return RequestHead(refusal=_UNSUPPORTED_MEDIA_TYPE)
    encoding = known.get(b"grpc-encoding", b"identity")
    if encoding not in (b"identity", b"gzip"):
        details = "expected messages in the encoding identity or gzip"
        accept = literal(b"grpc-accept-encoding", b"identity,gzip")
        return RequestHead(refusal=refusal_fields(grpc.StatusCode.UNIMPLEMENTED, details) + accept)
    try:
        return RequestHead(
            path=known[b":path"].decode("latin-1"),
            timeout_s=read_timeout(known[b"grpc-timeout"]) if b"grpc-timeout" in known else None,
            metadata=tuple(_metadata(name, value) for name, value in fields if _is_metadata(name)),
        )
    except ValueError as exc:
        return RequestHead(refusal=refusal_fields(grpc.StatusCode.INVALID_ARGUMENT, str(exc)))


def refuse_request(_block: bytes) -> RequestHead:
    """What a header block means that is too long."""
    details = f"expected metadata of at most {MAX_HEADER_BYTES} bytes, got more"
    return RequestHead(refusal=refusal_fields(grpc.StatusCode.RESOURCE_EXHAUSTED, details))


def _known(fields: Fields) -> dict[bytes, bytes] | None:
    """The fields by name; None when RFC 9113 calls them malformed."""
    known: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        pseudo = name.startswith(b":")
        if pseudo and (regular or name in known or name not in _PSEUDO):
            return None
        regular = regular or not pseudo
        if not _NAME.fullmatch(name) or _NOT_IN_VALUE.search(value) or name in _OF_CONNECTION:
            return None
        known[name] = value
    if not known.get(b":method") or not known.get(b":path") or b":scheme" not in known:
        return None
    return known if known.get(b"te", b"trailers") == b"trailers" else None


def _is_metadata(name: bytes) -> bool:
    return not name.startswith(b":") and name not in _OF_PROTOCOL


def _metadata(name: bytes, value: bytes) -> tuple[str, str | bytes]:
    return name.decode("latin-1"), read_binary(value) if name.endswith(b"-bin") else value.decode("latin-1")
