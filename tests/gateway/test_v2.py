import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.routing import Match, Route

from contract import Repository
from gateway.rest import control_routes, generate_routes, health_routes, predict_routes, v2_routes
from tests.gateway.listening import listening

INFER = "/v2/models/tiny/infer"
Serve = Callable[..., Any]


def request(level: int = 250, num: int = 1, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": [num, 8, 8, 1], "datatype": "UINT8", "data": [level] * (64 * num)}
    return {"inputs": [tensor | changes]}


async def test_infer_answers_with_the_models_tensors(serve: Serve) -> None:
    async with serve() as gateway:
        answer = await gateway.client.post(INFER, json={"id": "a7", **request(250, 2)})
        assert answer.status_code == 200, answer.text
        document = answer.json()
        assert (document["id"], document["model_name"], document["model_version"]) == ("a7", "tiny", "1")
        (logits,) = document["outputs"]
        assert (logits["name"], logits["datatype"], logits["shape"]) == ("logits", "FP32", [2, 3])
        level = 250 / 255 * 4
        np.testing.assert_allclose(logits["data"], [2 - level, 1, level - 2] * 2, rtol=1e-5)
        assert gateway.metric("gateway_requests_total", protocol="v2_http", code="200") == 1
        await gateway.settle()
        assert gateway.metric("inference_prediction_total", label="bright") == 2
        assert gateway.metric("inference_feature_bin_total", feature="brightness") == 2
        assert gateway.metric("inference_feature_bin_total", feature="aspect") == 0


async def test_nested_data_and_named_outputs(serve: Serve) -> None:
    async with serve() as gateway:
        nested = np.full((1, 8, 8, 1), 3).tolist()
        answer = await gateway.client.post(INFER, json={**request(data=nested), "outputs": [{"name": "logits"}]})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (request(shape=[1, 8, 8]), "expected 64 bytes|expected shape"),
        (request(shape=[1, 9, 8, 1], data=[0] * 72), "expected shape"),
        (request(num=9), "expected shape [1..8, 8, 8, 1], got [9, 8, 8, 1]"),
        (request(shape=[-1, 8, 8, 1]), "non-negative integer"),
        (request(shape=[1.0, 8, 8, 1]), "non-negative integer"),
        (request(shape=["1", 8, 8, 1]), "non-negative integer"),
        (request(shape=[2**33, 2**33, 2**33]), "up to 2147483647"),
        (request(shape=[1] * 100, data=[1]), "at most 32 axes"),
        (request(datatype="FP32"), "expected datatype UINT8, got FP32"),
        (request(datatype="FLOAT"), "unknown datatype 'FLOAT'"),
        (request(datatype=7), "unknown datatype '7'"),
        (request(data=[0] * 63), "expected 64 values"),
        (request(data=[300] * 64), "outside the range of UINT8"),
        (request(data=[1.5] * 64), "1.5 is no UINT8"),
        (request(data="x"), "name, shape, datatype and data"),
        (request(name="picture"), "expected the inputs ['image'], got ['picture']"),
        (request(extra=1), "unknown fields"),
        ({"inputs": []}, "expected a list of tensors"),
        ({"inputs": [1]}, "expected an object"),
        ({"inputs": request()["inputs"] * 2}, "given twice"),
        ({**request(), "outputs": [{"name": "other"}]}, "unknown outputs ['other']"),
        ({**request(), "outputs": [{"name": "logits"}] * 2}, "requested twice"),
        ({**request(), "outputs": "logits"}, "list of objects"),
        ({**request(), "id": 3}, "expected a string in 'id'"),
    ],
)
async def test_bad_tensors_get_one_clear_sentence(serve: Serve, document: dict[str, Any], said: str) -> None:
    async with serve() as gateway:
        answer = await gateway.client.post(INFER, json=document)
        assert answer.status_code == 400
        assert any(part in answer.json()["error"] for part in said.split("|"))
        assert gateway.metric("gateway_requests_total", protocol="v2_http", code="400") == 1
        assert (await gateway.client.post(INFER, json=request())).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": [NaN]}]}',
        b"[" * 250_000,
        b'{"inputs": [{"name": "image", "shape": [1], "datatype": "UINT8", "data": '
        + b"[" * 90
        + b"1"
        + b"]" * 90
        + b"}]}",
        b'{"inputs": [{"name": "image", "shape": [1], "datatype": "UINT8", "data": [' + b"[]," * 9000 + b"[]]}]}",
        b'{"inputs": [{"name": "' + b"x" * 100_000 + b'", "shape": [1], "datatype": "UINT8", "data": [1]}]}',
        b'{"inputs": [{"name": "image", "shape": [1], "datatype": "INT64", "data": [' + b"9" * 5000 + b"]}]}",
        b'{"inputs": "\xff\xfe"}',
        b"",
    ],
)
async def test_hostile_json_is_refused(serve: Serve, body: bytes) -> None:
    async with serve() as gateway:
        answer = await gateway.client.post(INFER, content=body)
        assert answer.status_code == 400, answer.text
        assert len(answer.text) < 600


async def test_metadata_and_health(serve: Serve) -> None:
    async with serve() as gateway:
        get = gateway.client.get
        assert (await get("/v2")).json()["name"] == "tidegate"
        assert (await get("/v2/health/live")).status_code == 200
        assert (await get("/v2/health/ready")).status_code == 200
        assert (await get("/v2/models/tiny/ready")).status_code == 200
        assert (await get("/v2/models/tiny/versions/9/ready")).status_code == 404
        metadata = (await get("/v2/models/tiny/versions/1")).json()
        assert metadata["versions"] == ["1"]
        assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}]


async def test_statistics_of_one_model_and_of_all(serve: Serve, tiny_repository: Repository, make_version: Any) -> None:
    triton = pytest.importorskip("tritonclient.http.aio", exc_type=ImportError)
    make_version(tiny_repository.root, version=2)
    make_version(tiny_repository.root, "stats")
    async with (
        serve() as gateway,
        listening(gateway) as port,
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):

        async def named(*asked: str) -> list[tuple[str, str]]:
            said = await client.get_inference_statistics(*asked)
            return [(one["name"], one["version"]) for one in said["model_stats"]]

        assert await named() == [("stats", "1"), ("tiny", "1"), ("tiny", "2")]
        assert await named("tiny") == [("tiny", "1"), ("tiny", "2")]
        assert await named("tiny", "2") == [("tiny", "2")]
        assert await named("stats") == [("stats", "1")]
        assert (await client.get_model_metadata("stats", "1"))["name"] == "stats"


async def test_no_path_is_taken_by_one_before_it(serve: Serve) -> None:
    async with serve() as gateway:
        routers = (health_routes, predict_routes, v2_routes, generate_routes, control_routes)
        routes = [route for router in routers for route in router(gateway.plane).routes]
        for route in routes:
            assert isinstance(route, Route)
            for method in route.methods or ():
                scope = {"type": "http", "method": method, "path": re.sub("{.*?}", "x", route.path), "headers": []}
                first = next(one for one in routes if one.matches(scope)[0] is Match.FULL)
                assert first is route, route.path


@pytest.mark.parametrize(
    "path",
    ["/v2/repository/index", "/v2/repository/models/tiny/unload", "/v2/logging", "/v2/systemsharedmemory/status"],
)
async def test_nothing_else_of_tritons_is_reachable(serve: Serve, path: str) -> None:
    async with serve() as gateway:
        assert (await gateway.client.post(path)).status_code == 404
        assert (await gateway.client.get(path)).status_code == 404


async def test_new_versions_are_picked_up_and_old_ones_let_go(
    serve: Serve, tiny_repository: Repository, make_version: Any
) -> None:
    async with serve() as gateway:
        make_version(tiny_repository.root, version=2)
        await gateway.plane.catalog.refresh()
        assert (await gateway.client.post(INFER, json=request())).json()["model_version"] == "2"
        assert (await gateway.client.post("/v2/models/tiny/versions/1/infer", json=request())).status_code == 200
        assert gateway.metric("model_info", model="tiny", version="2") == 1
        for file in tiny_repository.version_dir("tiny", 1).iterdir():
            file.unlink()
        tiny_repository.version_dir("tiny", 1).rmdir()
        await gateway.plane.catalog.refresh()
        assert (await gateway.client.post("/v2/models/tiny/versions/1/infer", json=request())).status_code == 404
        assert gateway.metric("model_info", model="tiny", version="1") == 0
        assert gateway.metric("gateway_requests_total", version="1", code="200") == 1


async def test_a_served_version_outlives_its_files(serve: Serve, tiny_repository: Repository) -> None:
    """Triton has it in memory: files that go bad, or a repository that can't be listed, stop nothing."""
    async with serve() as gateway:
        (tiny_repository.version_dir("tiny", 1) / "contract.json").write_text("{")
        await gateway.plane.catalog.refresh()
        assert (await gateway.client.post(INFER, json=request())).status_code == 200
        (tiny_repository.version_dir("tiny", 1) / "contract.json").unlink()
        gateway.upstream.unlisted = True
        await gateway.plane.catalog.refresh()
        assert (await gateway.client.post(INFER, json=request(num=9))).status_code == 400
        assert (await gateway.client.post(INFER, json=request())).status_code == 200


async def test_a_refused_version_is_served_once_its_contract_is_mended(
    serve: Serve, tiny_repository: Repository, make_version: Any
) -> None:
    async with serve() as gateway:
        make_version(tiny_repository.root, version=2)
        path = tiny_repository.version_dir("tiny", 2) / "contract.json"
        text = path.read_text()
        path.write_text("{}")
        await gateway.plane.catalog.refresh()
        path.write_text(text)
        await gateway.plane.catalog.refresh()
        assert gateway.plane.catalog.refused == {}
        assert (await gateway.client.post(INFER, json=request())).json()["model_version"] == "2"


async def test_a_version_whose_contract_is_broken_is_named_and_not_served(
    serve: Serve, tiny_repository: Repository, make_version: Any
) -> None:
    async with serve() as gateway:
        make_version(tiny_repository.root, version=2)
        (tiny_repository.version_dir("tiny", 2) / "contract.json").write_text("{}")
        await gateway.plane.catalog.refresh()
        await gateway.plane.catalog.refresh()
        assert "tiny/2/contract.json is not a valid contract" in gateway.plane.catalog.refused["tiny", "2"]
        assert gateway.metric("gateway_contract_errors") == 1
        assert (await gateway.client.post(INFER, json=request())).json()["model_version"] == "1"


async def test_the_models_name_in_the_body_is_taken_and_the_path_decides(serve: Serve) -> None:
    """KServe's client repeats it there."""
    async with serve() as gateway:
        tensor = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [0] * 64}
        document = {"model_name": "another", "inputs": [tensor]}
        answer = await gateway.client.post("/v2/models/tiny/infer", json=document)
        assert (answer.status_code, answer.json()["model_name"]) == (200, "tiny")
