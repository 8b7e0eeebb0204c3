"""The binary tensor extension: raw tensors that follow the JSON document in the same body.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from gateway.error import InvalidRequest

_MAX_DIGITS = 18


class Tail:
    """What follows the document: the raw tensors, in the order of the inputs that announce them."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._offset = 0

    def take(self, what: str, size_bytes: object) -> memoryview:
        """The next bytes, for `what`; InvalidRequest when the size is no size, or more than is left."""
        if type(size_bytes) is not int or size_bytes < 0:
            raise InvalidRequest(f"{what}: expected a size in binary_data_size, got {size_bytes!r:.40}")
        start, end = self._offset, self._offset + size_bytes
        if end > len(self._data):
            raise InvalidRequest(
                f"{what}: expected {size_bytes} bytes behind the JSON, got {len(self._data) - start}; "
                "is Inference-Header-Content-Length the length of the JSON?"
            )
        self._offset = end
        return self._data[start:end]

    def finish(self) -> None:
        """Check that all of it was taken; InvalidRequest otherwise."""
        if left := len(self._data) - self._offset:
            raise InvalidRequest(f"{left} bytes are left behind the last binary input; do the binary_data_size add up?")


def split(body: bytes | memoryview, header_length: str | bytes | None) -> tuple[bytes, Tail]:
    """The document of a body and what follows it; without `Inference-Header-Content-Length` all is document."""
    if header_length is None:
        return bytes(body), Tail(memoryview(b""))
    length = _length(header_length)
    if length > len(body):
        raise InvalidRequest(f"Inference-Header-Content-Length is {length}, but the body has {len(body)} bytes")
    return bytes(body[:length]), Tail(memoryview(body)[length:])


def _length(text: str | bytes) -> int:
    digits = text.decode("latin-1") if isinstance(text, bytes) else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
        raise InvalidRequest(f"expected a number of bytes in Inference-Header-Content-Length, got {digits!r:.40}")
    return int(digits)
