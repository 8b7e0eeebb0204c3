"""Reading what a client sends: bounded in bytes and in time, whatever it declares."""

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from contract.schema import ImagePreprocess, Preprocess, TablePreprocess, TextPreprocess
from gateway.encoding import decoder as decoder_of
from gateway.error import BodyTooLarge, ClientGone, DeadlineExceeded, InvalidRequest, UnsupportedMedia

IMAGE_FIELD, IMAGES_FIELD = "image", "images"


class Body:
    """The body of one ASGI request."""

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes], limit_bytes: int) -> None:
        self._receive = receive
        self._headers = headers
        self._limit_bytes = limit_bytes
        self._end = asyncio.Event()
        self.complete = False

    async def read(self, deadline: float) -> bytes:
        """The whole body, decompressed; reading stops at the limit, and at the deadline (monotonic seconds).

        Raises BodyTooLarge, DeadlineExceeded, ClientGone, UnsupportedMedia or InvalidRequest.
        """
        decoder = decoder_of(header_text(self._headers, b"content-encoding") or "identity", self._limit_bytes)
        declared = header_text(self._headers, b"content-length") or "0"
        if declared.isdecimal() and int(declared[:20]) > self._limit_bytes:
            raise BodyTooLarge(f"expected a body of at most {self._limit_bytes} bytes, got {declared:.20}")
        parts: list[bytes] = []
        size_bytes = 0
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                while not self.complete:
                    part = await self._next()
                    part = part if decoder is None else decoder.feed(part)
                    size_bytes += len(part)
                    if size_bytes > self._limit_bytes:
                        raise BodyTooLarge(f"expected a body of at most {self._limit_bytes} bytes, got more")
                    if part:
                        parts.append(part)
        except TimeoutError:
            raise DeadlineExceeded(f"the body did not arrive in time; {size_bytes} bytes came") from None
        if decoder is not None:
            decoder.finish()
        self._end.set()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def gone(self) -> None:
        """Return when the client goes away after its body was read."""
        await self._end.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client went away")
        self.complete = not message.get("more_body", False)
        return bytes(message.get("body", b""))


def header_text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    """A header's value as text; None when it wasn't sent."""
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def read_json(body: bytes) -> dict[str, Any]:
    """The body's JSON object; InvalidRequest when it is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the body is not JSON: {exc!s:.120}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"expected a JSON object, got {type(document).__name__}")
    return document


async def read_items(headers: Mapping[bytes, bytes], body: bytes, spec: Preprocess, max_items: int) -> list[Any]:
    """The items of a predict request, in whichever form the content type names."""
    content_type = header_text(headers, b"content-type") or ""
    media = content_type.partition(";")[0].strip().lower()
    if media == "application/json":
        return _from_json(read_json(body), spec)
    if isinstance(spec, ImagePreprocess):
        if media == "multipart/form-data":
            return await _from_multipart(content_type, body, max_items)
        if media.startswith("image/") or media == "application/octet-stream":
            return [body]
        raise UnsupportedMedia(
            f"expected multipart/form-data, image/*, application/octet-stream or application/json, got {media!r:.60}"
        )
    raise UnsupportedMedia(f"expected application/json, got {media!r:.60}")


def field_names(spec: Preprocess) -> tuple[str, str]:
    """Names of the JSON fields that hold one item, and a list of items."""
    match spec:
        case ImagePreprocess():
            return IMAGE_FIELD, IMAGES_FIELD
        case TextPreprocess():
            return "text", "texts"
        case TablePreprocess():
            return "row", "rows"
        case _:
            return "tensor", "tensors"


def _from_json(document: dict[str, Any], spec: Preprocess) -> list[Any]:
    one, many = field_names(spec)
    if set(document) not in ({one}, {many}):
        raise InvalidRequest(f"expected the field {one!r} or {many!r} alone, got {sorted(document)!r:.120}")
    items = [document[one]] if one in document else document[many]
    if not isinstance(items, list):
        raise InvalidRequest(f"expected a list in {many!r}, got {type(items).__name__}")
    return [_from_base64(item) for item in items] if isinstance(spec, ImagePreprocess) else items


def _from_base64(item: Any) -> bytes:
    if not isinstance(item, str):
        raise InvalidRequest(f"expected an image file in base64, got {type(item).__name__}")
    try:
        return base64.b64decode(item, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("expected an image file in base64, got text that is not base64") from None


async def _from_multipart(content_type: str, body: bytes, max_items: int) -> list[bytes]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    headers = Headers({"content-type": content_type})
    parser = MultiPartParser(headers, stream(), max_files=max_items, max_fields=1, max_part_size=len(body))
    parser.spool_max_size = len(body) + 1  # the body is in memory already: nothing goes to disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as exc:
        raise InvalidRequest(f"the multipart body can't be read: {exc!s:.120}") from None
    try:
        wrong = sorted({name for name, _ in form.multi_items()} - {IMAGE_FIELD})
        if wrong:
            raise InvalidRequest(f"expected files in the field {IMAGE_FIELD!r}, got the fields {wrong!r:.120}")
        files = form.getlist(IMAGE_FIELD)
        if any(not isinstance(file, UploadFile) for file in files):
            raise InvalidRequest(f"expected a file in the field {IMAGE_FIELD!r}, got text")
        return [await file.read() for file in files if isinstance(file, UploadFile)]
    finally:
        await form.close()
