"""Hostile requests and faults through a whole gateway: each is refused in one sentence, and nothing else suffers.

What isn't here is shown elsewhere: lies about datatypes, shapes, lengths and JSON, case by case, in test_codec*.py and
test_v2.py; the framing of HTTP in test_protocol.py; encodings, case by case, in test_encoding.py; Triton's control
calls in test_v2.py and test_rpc.py; gRPC messages over the limit in test_rpc.py; decoding of every kind of image in
tests/contract/test_image.py; the deadline in a batch's queue in test_coalesce.py; all Tritons down, and back up, in
test_predict.py; every kind of edit of the routes file in test_route_file.py.
"""

import asyncio
import base64
import json
import random
import string
from typing import Any

import grpc
import grpc.aio
import numpy as np
import onnx
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2 as pb

from contract import Repository
from tests.gateway.attack import (
    BRIGHT,
    INFER,
    PNG_TYPE,
    PREDICT,
    Serve,
    ask_raw,
    check_refused,
    document,
    file_of,
    head,
    message,
    tensor,
    unharmed,
)
from tests.gateway.listening import calling, listening

MANY = [{"name": "logits"}] * 10_000
BAD_TENSORS: dict[str, tuple[bytes, str]] = {
    "a product beyond 2^64": (document(shape=[2**31 - 1] * 3, data=[1]), "expected"),
    "bytes beyond 2^64": (document(datatype="INT64", shape=[2**31 - 1, 2**31 - 1, 3], data=[1]), "expected"),
    "no samples": (document(shape=[0, 8, 8, 1], data=[]), "expected shape [1..8, 8, 8, 1], got [0, 8, 8, 1]"),
    "half precision": (document(datatype="FP16", data=[1.0] * 64), "FP16"),
    "brain floats": (document(datatype="BF16", data=[1.0] * 64), "BF16"),
    "infinity": (document(datatype="FP32").replace(b"250", b"Infinity", 1), "not JSON"),
    "101 deep": (document(data=json.loads("[" * 101 + "1" + "]" * 101)), "nested more than 32 deep"),
    "a key twice": (b'{"id": "a", "id": "b", ' + document()[1:], "the same key twice"),
    "10,000 inputs": (json.dumps({"inputs": [tensor(data=[])] * 10_000}).encode(), "at most 256"),
    "10,000 outputs": (json.dumps({"inputs": [tensor()], "outputs": MANY}).encode(), "at most 256"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
async def test_bad_tensors(serve: Serve, case: str) -> None:
    body, said = BAD_TENSORS[case]
    async with unharmed(serve) as gateway:
        check_refused(await gateway.client.post(INFER, content=body), 400, said)
        assert gateway.upstream.calls == []


@pytest.mark.parametrize("length", ["-1", "10", "99999", "9" * 18, "9" * 5000, "x", "", "1e3", "0x10", "1,2"])
async def test_lying_header_lengths(serve: Serve, length: str) -> None:
    async with unharmed(serve) as gateway:
        headers = {"inference-header-content-length": length}
        check_refused(await gateway.client.post(INFER, content=document(), headers=headers), 400)
        assert gateway.upstream.calls == []


@pytest.mark.parametrize(
    "request_",
    [
        message(raw=bytes(63)),
        message(raw=bytes(10_000)),
        message(shape=(2**62, 2**62)),
        message(shape=(-1, 8, 8, 1)),
        message(shape=(0, 8, 8, 1), raw=b""),
        message(datatype="BYTES", shape=(1,), raw=b"\xff\xff\xff\xff0"),
        message(datatype="FLOAT"),
    ],
)
async def test_bad_messages(serve: Serve, request_: Any) -> None:
    async with unharmed(serve) as gateway, calling(gateway) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.ModelInfer(request_)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(error.value.details() or "") < 1000
        assert gateway.upstream.calls == []


async def test_a_model_that_answers_nan(serve: Serve, tiny_repository: Repository) -> None:
    async with serve() as gateway:
        path = tiny_repository.version_dir("tiny", 1) / "model.onnx"
        model = onnx.load(path)
        bias = next(value for value in model.graph.initializer if value.name == "bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), "bias"))
        onnx.save(model, path)
        predicted = await gateway.client.post(PREDICT, content=BRIGHT, headers=PNG_TYPE)
        inferred = await gateway.client.post(INFER, content=document())
        assert predicted.status_code == 200, predicted.text
        assert predicted.json()["predictions"] == [{"label": None, "confidence": None, "top": []}]
        assert inferred.json()["outputs"][0]["data"] == [None] * 3
        await gateway.settle()
        labels = [gateway.metric("inference_prediction_total", label=label) for label in ("dark", "even", "bright")]
        assert labels == [0, 0, 0]
        assert gateway.metric("inference_prediction_total", model="tiny") == 2
        assert (await gateway.client.get("/health/live")).status_code == 200


ODD_NAMES = ["..", "%2e%2e%2f", "%2e%2e", "tiny%00", "x" * 300, "%ff", "\xff", "tiny%0d%0aX: y", "%1b[31m"]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names_reach_nothing(serve: Serve, name: str) -> None:
    async with unharmed(serve) as gateway, listening(gateway) as port:
        for path in (f"/v1/models/{name}/predict", f"/v2/models/tiny/versions/{name}/infer", f"/{name}"):
            answer = await ask_raw(port, head("Content-Length: 0", "Connection: close", path=path))
            assert answer.split(b" ", 2)[1] in (b"404", b"400", b"405"), answer[:200]
            assert b'{"error":' in answer
            assert len(answer) < 1000
        assert gateway.upstream.calls == []


@pytest.mark.parametrize("name", ["..", "tiny\0", "x" * 300, "../tiny", ""])
async def test_odd_names_over_grpc_reach_nothing(serve: Serve, name: str) -> None:
    async with unharmed(serve) as gateway, calling(gateway) as stub:
        for request in (message(name), pb.ModelInferRequest(model_name="tiny", model_version=name or "..")):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.ModelInfer(request)
            assert error.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
        assert gateway.upstream.calls == []


@pytest.mark.parametrize("host", ["[", "a b", "x:y:z", "\xff", "[::1"])
async def test_a_malformed_host_changes_nothing(serve: Serve, host: str) -> None:
    async with unharmed(serve) as gateway, listening(gateway) as port:
        answer = await ask_raw(port, f"GET /nowhere HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:200]


@pytest.mark.parametrize("given", ["0", "-5", "1e3", "9" * 30, "0000000001" + "9" * 400, "0000000001" + "9" * 5000])
async def test_an_odd_deadline_is_refused(serve: Serve, given: str) -> None:
    async with unharmed(serve) as gateway:
        headers = PNG_TYPE | {"x-request-timeout-ms": given}
        check_refused(await gateway.client.post(PREDICT, content=BRIGHT, headers=headers), 400, "expected milliseconds")


def exif_rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(Image.new("RGB", (16, 8), (250,) * 3), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.new("L", (8, 8), level) for level in (250, 0, 0)]
    return file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])


IMAGES: dict[str, tuple[bytes, str | None]] = {  # and the label; None where it is refused
    "fits": (b"SIMPLE  =                    T".ljust(2880), None),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", None),
    "pdf": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", None),
    "pdf with an image behind": (b"%PDF-1.7\n" + BRIGHT, None),
    "script in a gif's clothes": (b"GIF89a/*" + b"\0" * 20 + b"*/=1;alert(1)", None),
    "image with an archive behind": (BRIGHT + b"PK\x03\x04" + bytes(100), "bright"),
    "thin": (file_of(Image.new("L", (65535, 1), 250)), "bright"),
    "16 bits": (file_of(Image.fromarray(np.full((8, 8), 64_000, np.uint16))), "bright"),
    "cmyk": (file_of(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), "bright"),
    "palette with alpha": (file_of(Image.new("P", (8, 8), 0), transparency=0), None),
    "exif": (exif_rotated(), "bright"),
    "animated": (animated(), "bright"),
    "truncated": (file_of(Image.effect_noise((64, 64), 99))[:2000], None),
}


@pytest.mark.parametrize("case", IMAGES)
async def test_odd_images(serve: Serve, case: str) -> None:
    file, label = IMAGES[case]
    async with unharmed(serve) as gateway:
        answer = await gateway.client.post(PREDICT, content=file, headers=PNG_TYPE)
        if case == "palette with alpha":  # it shows the contract's background: any label, but an answer
            assert answer.status_code == 200
        elif label is None:
            check_refused(answer, 400)
        else:
            assert answer.json()["predictions"][0]["label"] == label


async def test_a_url_is_never_fetched(serve: Serve) -> None:
    num_fetched = 0

    def fetched(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_fetched
        num_fetched += 1
        writer.close()

    server = await asyncio.start_server(fetched, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"
    async with server, unharmed(serve) as gateway:
        post = gateway.client.post
        encoded = base64.b64encode(url.encode()).decode()
        for sent in ({"json": {"image": url}}, {"json": {"image": encoded}}, {"json": {"images": [{"url": url}]}}):
            check_refused(await post(PREDICT, **sent), 400, "expected an image")
        check_refused(await post(PREDICT, content=url, headers=PNG_TYPE), 400, "expected an image")
        check_refused(await post(PREDICT, files={"image": url.encode()}), 400, "expected an image")
        check_refused(await post(PREDICT, data={"image": url}), 415)
        check_refused(await post(INFER, content=document(datatype="BYTES", shape=[1], data=[url])), 400)
        await asyncio.sleep(0)
    assert num_fetched == 0


async def test_control_characters_stay_in_one_log_record(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    evil = 'a\r\n{"level":"INFO"}\x1b[31m\u202e\u2028'
    async with unharmed(serve) as gateway:
        quoted = "".join(f"%{byte:02x}" for byte in evil.encode())
        await gateway.client.post(f"/v1/models/{quoted}/predict", content=b"", headers={"x-request-id": "b\x1b[2Jc"})
        await gateway.client.post(INFER, content=document(name=evil))
        async with calling(gateway) as stub:
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ModelInfer(pb.ModelInferRequest(model_name=evil, id=evil))
    lines = capsys.readouterr().out.splitlines()
    records = [json.loads(line) for line in lines]
    assert sum(record["status"] >= 400 for record in records) == 3  # one in a hundred of the rest is logged too
    assert all(text.isprintable() for record in records for text in record.values() if isinstance(text, str))


async def test_random_requests_make_no_series(serve: Serve) -> None:
    rng = random.Random(0)

    def word() -> str:
        return "".join(rng.choices(string.ascii_letters + string.digits + "-_.%~", k=rng.randrange(1, 20)))

    async with unharmed(serve) as gateway:
        for _ in range(1500):
            name = word()
            path = rng.choice([f"/{name}", f"/v1/models/{name}/predict", f"/v2/models/tiny/versions/{name}/infer"])
            method = rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", word().upper()[:6]])
            answer = await gateway.client.request(method, path)
            assert 400 <= answer.status_code < 500, (method, path)
        assert gateway.upstream.calls == []
