"""Content encodings: bodies that come compressed, bounded in what they unfold to, and answers that leave so.

Source: RFC 9110, sections 8.4 and 12.5.3. What HTTP calls deflate is zlib's format; some clients send the bare one.
"""

import re
import zlib

from gateway.error import BodyTooLarge, InvalidRequest, UnsupportedMedia

MIN_ENCODE_BYTES = 1024  # below it, a compressed answer saves nothing worth the time

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's names for the formats: its `wbits`
_FORMATS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_MAX_MEMBERS = 4096  # a gzip file may be a chain of members; empty ones cost us time and the client nothing
_SNIFFED_BYTES = 2  # what tells zlib's format from the bare one
_WINDOW_BYTES = 64 * 1024
_LEVEL = 1
_CHOICE = re.compile(r"\s*([\w*-]+)\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?", re.ASCII)


class Decoder:
    """Decompresses one body as it comes. Neither what comes nor what it unfolds to may be more than the limit."""

    def __init__(self, encoding: str, limit_bytes: int) -> None:
        self._encoding = encoding
        self._limit_bytes = limit_bytes
        self._read_bytes = self._made_bytes = self._num_members = 0
        self._head = b""
        self._stream: zlib._Decompress | None = None

    def feed(self, chunk: bytes) -> bytes:
        """What the next chunk unfolds to; raises BodyTooLarge or InvalidRequest."""
        self._read_bytes += len(chunk)
        self._check(self._read_bytes)
        parts = [
            self._unfold(chunk[start : start + _WINDOW_BYTES])  # zlib copies what follows a member, for each of them
            for start in range(0, len(chunk), _WINDOW_BYTES)
        ]
        return b"".join(parts)

    def finish(self) -> None:
        """Check that the body ended where its data does; InvalidRequest otherwise."""
        if self._head or self._stream is None or not self._stream.eof:
            raise InvalidRequest(f"the body doesn't end where its {self._encoding} data does")

    def _unfold(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        while data:
            if self._stream is None or self._stream.eof:
                data = self._head + data
                if len(data) < _SNIFFED_BYTES:
                    self._head = data
                    break
                self._stream, self._head = self._begin(data), b""
            try:
                part = self._stream.decompress(data, self._limit_bytes - self._made_bytes + 1)
            except zlib.error:
                raise InvalidRequest(f"expected a body of {self._encoding} data, as Content-Encoding says") from None
            self._made_bytes += len(part)
            self._check(self._made_bytes)
            parts.append(part)
            data = self._stream.unused_data
        return b"".join(parts)

    def _begin(self, data: bytes) -> "zlib._Decompress":
        wbits = _FORMATS[self._encoding]
        self._num_members += 1
        if self._num_members > (_MAX_MEMBERS if wbits == _GZIP else 1):
            raise InvalidRequest(f"the body goes on behind its {self._encoding} data")
        has_zlib_header = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
        return zlib.decompressobj(_RAW if wbits == _ZLIB and not has_zlib_header else wbits)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            raise BodyTooLarge(f"expected a body of at most {self._limit_bytes} bytes, got more")


def decoder(content_encoding: str, limit_bytes: int) -> Decoder | None:
    """A decoder for a body with this `Content-Encoding`; None when it comes as it is.

    Raises UnsupportedMedia for an encoding that isn't read, and for more than one.
    """
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in _FORMATS:
        raise UnsupportedMedia(f"expected the content encoding gzip, deflate or identity, got {encoding!r:.40}")
    return Decoder(encoding, limit_bytes)


def encode(body: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """The body in the encoding that `Accept-Encoding` likes best, and its name; None when it stays as it is."""
    if len(body) <= MIN_ENCODE_BYTES or (encoding := _choose(accept_encoding)) is None:
        return body, None
    encoded = zlib.compress(body, _LEVEL, _FORMATS[encoding])
    return (encoded, encoding) if len(encoded) < len(body) else (body, None)


def _choose(accept_encoding: str) -> str | None:
    qualities: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        if choice := _CHOICE.fullmatch(item):
            qualities[choice[1]] = float(choice[2] or 1)
    anything = qualities.get("*", 0.0)
    wanted, encoding = max((qualities.get(name, anything), name) for name in ("deflate", "gzip"))
    return encoding if wanted > 0 and wanted >= qualities.get("identity", 0.0) else None
