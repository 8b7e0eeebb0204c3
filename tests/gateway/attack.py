"""What hostile clients send, and what a gateway must be after it."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from PIL import Image
from prometheus_client import generate_latest
from tritonclient.grpc import service_pb2 as pb

Serve = Callable[..., Any]

PREDICT, INFER = "/v1/models/tiny/predict", "/v2/models/tiny/infer"
LIMIT = 20_000
PNG_TYPE = {"content-type": "image/png"}


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


BRIGHT = file_of(Image.new("L", (8, 8), 250))


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [250] * 64} | changes


def document(**changes: Any) -> bytes:
    return json.dumps({"inputs": [tensor(**changes)]}).encode()


@asynccontextmanager
async def unharmed(serve: Serve, *args: Any, **settings: Any) -> AsyncIterator[Any]:
    """A gateway that, after whatever the test did, is alive, idle, scraped, right, and has no new series."""
    async with serve(*args, **settings) as gateway:
        before = gateway.num_series()
        yield gateway
        async with asyncio.timeout(10):
            while gateway.plane.inflight:
                await asyncio.sleep(0.001)
        assert (await gateway.client.get("/health/live")).status_code == 200
        good = await gateway.client.post(PREDICT, content=BRIGHT, headers=PNG_TYPE)
        assert (good.status_code, good.json()["predictions"][0]["label"]) == (200, "bright")
        assert b"gateway_requests_total" in generate_latest(gateway.plane.metrics.registry)
        assert gateway.num_series() == before


def check_refused(answer: httpx.Response, status: int, said: str = "") -> None:
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text[:300]
    assert said in answer.json()["error"]
    assert len(answer.content) < 1000


def message(model: str = "tiny", raw: bytes = bytes(64), **fields: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[raw])
    request.inputs.add(**({"name": "image", "datatype": "UINT8", "shape": (1, 8, 8, 1)} | fields))
    return request


def head(*headers: str, path: str = PREDICT) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", "Content-Type: image/png", *headers, "", ""]).encode()


async def ask_raw(port: int, *parts: bytes) -> bytes:
    """What comes back, until the gateway closes, on a connection that sends this and nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(20):
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
        except ConnectionError:  # it is refused already
            pass
        try:
            return await reader.read(-1)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()
