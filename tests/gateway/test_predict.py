import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract import Repository
from contract.schema import Slo
from gateway.error import UpstreamFailed

PREDICT = "/v1/models/tiny/predict"

Serve = Callable[..., Any]


def png(level: int, size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, level).save(file, "PNG")
    return file.getvalue()


async def test_the_three_forms_of_an_image_give_the_same_answer(serve: Serve) -> None:
    async with serve() as gateway:
        as_file = await gateway.client.post(PREDICT, files={"image": ("a.png", png(250), "image/png")})
        as_bytes = await gateway.client.post(PREDICT, content=png(250), headers={"content-type": "image/png"})
        as_json = await gateway.client.post(PREDICT, json={"image": base64.b64encode(png(250)).decode()})
        assert as_file.status_code == 200, as_file.text
        assert as_file.json() == as_bytes.json() == as_json.json()
        answer = as_file.json()
        assert (answer["model"], answer["version"]) == ("tiny", "1")
        (prediction,) = answer["predictions"]
        assert prediction["label"] == "bright"
        assert [entry["label"] for entry in prediction["top"]] == ["bright", "even"]
        await gateway.settle()
        assert gateway.metric("gateway_requests_total", model="tiny", protocol="predict", code="200") == 3
        assert gateway.metric("inference_prediction_total", model="tiny", label="bright") == 3
        assert gateway.metric("gateway_route_total", route="tiny", target="tiny/1", kind="latest") == 3


async def test_several_images_are_answered_in_order(serve: Serve) -> None:
    async with serve() as gateway:
        files = [("image", (f"{level}.png", png(level), "image/png")) for level in (0, 250, 0)]
        answer = (await gateway.client.post(PREDICT, files=files)).json()
        assert [p["label"] for p in answer["predictions"]] == ["dark", "bright", "dark"]
        assert gateway.upstream.batches == [3]


async def test_a_version_can_be_named(serve: Serve) -> None:
    async with serve() as gateway:
        answer = await gateway.client.post(
            "/v1/models/tiny/versions/1/predict", content=png(0), headers={"content-type": "image/png"}
        )
        assert answer.status_code == 200
        assert gateway.metric("gateway_route_total", kind="pinned") == 1


async def test_features_are_counted_and_their_reference_is_exported(serve: Serve) -> None:
    async with serve() as gateway:
        await gateway.client.post(PREDICT, content=png(0, (16, 8)), headers={"content-type": "image/png"})
        await gateway.settle()
        feature = {"model": "tiny", "version": "1", "feature": "brightness"}
        assert gateway.metric("inference_feature_bin_total", **feature, bin="00", tail="1") == 1
        assert gateway.metric("inference_feature_bin_total", **feature) == 1
        assert gateway.metric("inference_feature_reference_ratio", **feature) == pytest.approx(1)
        assert gateway.metric("inference_feature_reference_samples", **feature) == 1000
        aspect = {"model": "tiny", "version": "1", "feature": "aspect"}
        assert gateway.metric("inference_feature_bin_total", **aspect, bin="19", tail="1") == 1
        assert gateway.metric("inference_feature_reference_ratio", feature="prediction") == pytest.approx(1)


async def test_the_stages_add_up_to_the_request(serve: Serve) -> None:
    async with serve() as gateway:
        await gateway.client.post(PREDICT, content=png(0), headers={"content-type": "image/png"})
        stages = gateway.metric("gateway_stage_duration_seconds_sum", model="tiny")
        total = gateway.metric("gateway_request_duration_seconds_sum", model="tiny", protocol="predict")
        assert stages == pytest.approx(total, rel=0.05)
        for stage in ("admit", "preprocess", "queue", "upstream", "postprocess"):
            assert gateway.metric("gateway_stage_duration_seconds_count", stage=stage) == 1


def sent_as(media: str, body: bytes, **headers: str) -> dict[str, Any]:
    return {"content": body, "headers": {"content-type": media, **headers}}


BAD: dict[str, tuple[int, str, dict[str, Any]]] = {
    "no image": (400, "expected an image", sent_as("image/png", b"hello")),
    "empty": (400, "expected an image", sent_as("image/png", b"")),
    "truncated": (400, "damaged or truncated", {"files": {"image": png(9, (99, 99))[:60]}}),
    "wrong field": (400, "got the fields ['photo']", {"files": {"photo": png(1)}}),
    "text field": (400, "got text", {"data": {"image": "x"}, "files": {"image": png(1)}}),
    "no boundary": (400, "multipart body", sent_as("multipart/form-data", b"x")),
    "wrong type": (415, "expected multipart", sent_as("text/plain", b"x")),
    "no type": (415, "expected multipart", {"content": b"x"}),
    "compressed in a way we don't read": (
        415,
        "content encoding",
        sent_as("image/png", b"x", **{"content-encoding": "br"}),
    ),
    "not compressed as said": (400, "gzip", sent_as("image/png", b"x", **{"content-encoding": "gzip"})),
    "no json": (400, "not JSON", sent_as("application/json", b"{")),
    "json list": (400, "expected a JSON object", {"json": [1]}),
    "json field": (400, "expected the field 'image' or 'images'", {"json": {"text": "a"}}),
    "a url": (400, "not base64", {"json": {"image": "http://host/a.png"}}),
    "json number": (400, "in base64, got int", {"json": {"image": 1}}),
    "no items": (400, "expected 1 to 8 items", {"json": {"images": []}}),
    "many items": (400, "expected 1 to 8 items", {"json": {"images": ["aGk="] * 9}}),
    "second item": (400, "item 1: expected an image", {"files": [("image", png(1)), ("image", b"x")]}),
    "too long": (413, "at most 20000 bytes", sent_as("image/png", b"x" * 20_001)),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_gets_one_clear_sentence_and_is_counted(serve: Serve, case: str) -> None:
    status, said, sent = BAD[case]
    async with serve(max_body_bytes=20_000) as gateway:
        answer = await gateway.client.post(PREDICT, **sent)
        assert answer.status_code == status, answer.text
        assert list(answer.json()) == ["error"]
        assert said in answer.json()["error"]
        assert gateway.metric("gateway_requests_total", model="tiny", code=str(status)) == 1
        good = await gateway.client.post(PREDICT, files={"image": png(250)})
        assert good.status_code == 200
        assert gateway.metric("gateway_inflight_requests") == 0


async def test_an_unknown_version_is_named(serve: Serve) -> None:
    async with serve() as gateway:
        answer = await gateway.client.post("/v1/models/tiny/versions/7/predict", content=b"")
        assert (answer.status_code, answer.json()) == (
            404,
            {"error": "model 'tiny' has no version '7'; versions are ['1']"},
        )
        assert gateway.metric("gateway_requests_total", model="tiny", version="other", code="404") == 1


async def test_an_undeclared_body_is_cut_off_at_the_limit(serve: Serve) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 1000

    async with serve(max_body_bytes=20_000) as gateway:
        answer = await gateway.client.post(PREDICT, content=endless(), headers={"content-type": "image/png"})
        assert answer.status_code == 413


async def test_what_clients_choose_never_becomes_a_series(serve: Serve) -> None:
    async with serve() as gateway:
        before = gateway.num_series()
        rng = np.random.default_rng(0)
        for i in range(200):
            name = "".join(map(chr, rng.integers(97, 123, 12)))
            path = [
                f"/v1/models/{name}/predict",
                f"/v2/models/{name}/infer",
                f"/{name}",
                f"/v1/models/tiny/versions/{i + 2}/predict",
            ][i % 4]
            assert (await gateway.client.post(path, content=b"{}")).status_code == 404
            await gateway.client.request(name.upper()[:6], path)
        assert gateway.num_series() == before
        assert gateway.metric("gateway_requests_total", model="other", code="404") == 100


@pytest.mark.parametrize("name", ["..", "%2e%2e%2f", "a%00b", "x" * 300, "tiny%0aevil"])
async def test_odd_names_reach_nothing(serve: Serve, name: str) -> None:
    async with serve() as gateway:
        answer = await gateway.client.post(f"/v1/models/{name}/predict", content=b"")
        assert answer.status_code in (404, 405)
        assert gateway.upstream.batches == []
        assert len(answer.text) < 400


async def test_a_dead_triton_is_503_and_not_ready_and_comes_back(serve: Serve) -> None:
    async with serve() as gateway:
        gateway.upstream.down = True
        during = await gateway.client.post(PREDICT, files={"image": png(1)})
        assert during.status_code == 503
        assert during.headers["retry-after"] == "1"
        await gateway.plane.catalog.refresh()
        assert (await gateway.client.get("/health/ready")).status_code == 503
        assert (await gateway.client.get("/health/live")).status_code == 200
        assert gateway.metric("gateway_upstream_up") == 0
        known = await gateway.client.post(PREDICT, files={"image": png(1)})
        unknown = await gateway.client.post("/v1/models/nothing/predict", files={"image": png(1)})
        assert (known.status_code, unknown.status_code) == (503, 404)
        gateway.upstream.down = False
        await gateway.plane.catalog.refresh()
        assert (await gateway.client.get("/health/ready")).status_code == 200
        assert (await gateway.client.post(PREDICT, files={"image": png(1)})).status_code == 200
        assert gateway.metric("gateway_requests_total", model="tiny", code="503") == 2


async def test_a_model_that_fails_is_502_without_its_details_lost(serve: Serve) -> None:
    async with serve() as gateway:
        gateway.upstream.error = UpstreamFailed("the model failed: division by zero")
        answer = await gateway.client.post(PREDICT, files={"image": png(1)})
        assert (answer.status_code, answer.json()) == (502, {"error": "the model failed: division by zero"})


async def test_an_unexpected_error_shows_nothing_of_itself(serve: Serve) -> None:
    async with serve() as gateway:
        gateway.upstream.error = RuntimeError("/secret/path")
        answer = await gateway.client.post(PREDICT, files={"image": png(1)})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert gateway.metric("gateway_requests_total", model="tiny", code="500") == 1


async def test_models_describe_themselves(serve: Serve) -> None:
    async with serve() as gateway:
        (model,) = (await gateway.client.get("/v1/models")).json()["models"]
        assert model == (await gateway.client.get("/v1/models/tiny")).json()
        assert model["labels"] == ["dark", "even", "bright"]
        assert model["predict"] == PREDICT
        assert json.loads((await gateway.client.get("/openapi.json")).text)["paths"][PREDICT.replace("tiny", "{name}")]
        missing = await gateway.client.get("/v1/models/nothing")
        assert missing.status_code == 404
        assert (await gateway.client.get("/nowhere")).json()["error"].startswith("no such path")


async def test_every_hot_endpoint_is_in_the_documentation(serve: Serve) -> None:
    async with serve() as gateway:
        paths = (await gateway.client.get("/openapi.json")).json()["paths"]
        documented = {
            path for path, methods in paths.items() if "post" in methods and path.endswith(("predict", "infer"))
        }
        models = "/{root}/models/{name}"
        hot = {
            f"{models.format(root=root, name='{name}')}{version}/{verb}"
            for root, verb in (("v1", "predict"), ("v2", "infer"))
            for version in ("", "/versions/{version}")
        }
        assert documented == hot | {PREDICT, "/v2/models/tiny/infer"}


async def test_an_empty_version_is_no_path(serve: Serve) -> None:
    async with serve() as gateway:
        assert (await gateway.client.post("/v2/models/tiny/versions//infer", content=b"{}")).status_code == 404


async def test_a_small_file_of_many_pixels_is_kept_off_the_event_loop(serve: Serve) -> None:
    """A compressed bomb of 2 KB: 49 million pixels within the limit. The loop goes on meanwhile."""
    file = io.BytesIO()
    Image.new("L", (7000, 7000), 250).convert("RGB").save(file, "WEBP", lossless=True)
    assert len(file.getvalue()) < 4096
    async with serve(decode_bytes=1024 * 1024 * 1024) as gateway:
        ask = asyncio.ensure_future(gateway.client.post(PREDICT, **sent_as("image/webp", file.getvalue())))
        turns = 0
        while not ask.done():
            await asyncio.sleep(0.005)
            turns += 1
        assert turns > 5  # one turn, had it been decoded on the loop
        assert ask.result().json()["predictions"][0]["label"] == "bright"
        twice = await gateway.client.post(PREDICT, files=[("image", file.getvalue())] * 2)
        assert (twice.status_code, "item 1: expected an image of at most 1000000 pixels" in twice.text) == (400, True)


async def test_no_image_is_begun_after_the_deadline(serve: Serve) -> None:
    async with serve(request_timeout_s=0.05) as gateway:
        wide = png(1, (3000, 3000))
        answer = await gateway.client.post(PREDICT, files=[("image", wide)] * 5)
        assert (answer.status_code, "time was up" in answer.text) == (504, True)


async def test_an_outage_counts_for_the_version_it_hit_and_refusals_have_no_latency(serve: Serve) -> None:
    async with serve(max_inflight=1) as gateway:
        gateway.upstream.down = True
        await gateway.plane.catalog.refresh()
        await gateway.client.post(PREDICT, files={"image": png(1)})
        assert gateway.metric("gateway_requests_total", model="tiny", version="1", code="503") == 1
        assert gateway.metric("gateway_request_duration_seconds_count", model="tiny", version="1") == 1
        gateway.upstream.down = False
        await gateway.plane.catalog.refresh()
        gateway.upstream.gate.clear()
        first = asyncio.ensure_future(gateway.client.post(PREDICT, files={"image": png(1)}))
        while not gateway.upstream.batches:
            await asyncio.sleep(0)
        refused = await gateway.client.post(PREDICT, files={"image": png(1)})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert gateway.metric("gateway_shed_total", model="tiny", reason="capacity") == 1
        assert gateway.metric("gateway_request_duration_seconds_count", model="tiny", version="1") == 1
        gateway.upstream.gate.set()
        assert (await first).status_code == 200


async def test_the_answer_says_what_it_is_and_where_the_time_went(serve: Serve) -> None:
    async with serve() as gateway:
        headers = {"content-type": "image/png", "x-request-id": "order-7"}
        answer = await gateway.client.post(PREDICT, content=png(0), headers=headers)
        assert answer.headers["x-request-id"] == "order-7"
        names = [entry.split(";")[0].strip() for entry in answer.headers["server-timing"].split(",")]
        assert names == ["admit", "preprocess", "queue", "upstream", "postprocess"]
        refused = await gateway.client.post(PREDICT, content=b"no image", headers=headers)
        assert (refused.status_code, refused.headers["x-request-id"]) == (400, "order-7")
        made = await gateway.client.post(PREDICT, content=png(0), headers={"content-type": "image/png"})
        assert made.headers["x-request-id"]


async def test_a_clients_deadline_in_a_header_is_kept(serve: Serve) -> None:
    async with serve() as gateway:
        gateway.upstream.gate.clear()
        headers = {"content-type": "image/png", "x-request-timeout-ms": "50"}
        late = await gateway.client.post(PREDICT, content=png(0), headers=headers)
        assert late.status_code == 504
        gateway.upstream.gate.set()
        wrong = await gateway.client.post(PREDICT, content=png(0), headers=headers | {"x-request-timeout-ms": "soon"})
        assert wrong.status_code == 400
        assert "X-Request-Timeout-Ms" in wrong.json()["error"]
        assert gateway.metric("gateway_requests_total", code="400") == 1


async def test_the_facts_of_a_version_are_there_for_as_long_as_it_is_served(
    serve: Serve, tiny_repository: Repository, make_version: Any
) -> None:
    async with serve() as gateway:
        slo = Slo(latency_threshold_ms=3_700, latency_objective=0.9, availability_objective=0.99)
        make_version(tiny_repository.root, "tiny", 2, slo=slo)
        await gateway.plane.catalog.refresh()
        version = {"model": "tiny", "version": "2"}
        assert gateway.metric("model_slo_latency_threshold_seconds", **version) == 3.7
        assert gateway.metric("model_created_timestamp_seconds", **version) == 1767225600
        assert gateway.metric("model_evaluation_accuracy_ratio", **version) == 1
        await gateway.client.post(PREDICT, files={"image": png(1)})
        assert gateway.metric("gateway_request_duration_seconds_bucket", le="3.7", protocol="predict", **version) == 1
        tiny_repository.version_dir("tiny", 2).rename(tiny_repository.root / "gone")
        await gateway.plane.catalog.refresh()
        assert gateway.metric("model_info", **version) == 0
        assert gateway.metric("model_created_timestamp_seconds", **version) == 0
        assert gateway.metric("gateway_requests_total", protocol="predict", code="200", **version) == 1
