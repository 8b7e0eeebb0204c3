"""Features are the same whatever protocol a request came by, few in number, and exemplified only when switched on."""

import io
from typing import Any

import numpy as np
from PIL import Image

from contract import Repository

MAX_SERIES = 25


def pixels(num: int) -> Any:
    return np.random.default_rng(5).integers(0, 256, size=(num, 8, 8, 1), dtype=np.uint8)


def png(image: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(file, "PNG")
    return file.getvalue()


def bins(gateway: Any) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.get(name, "") for name in ("feature", "bin", "tail", "label")): sample.value
        for family in gateway.plane.metrics.registry.collect()
        for sample in family.samples
        if sample.name in ("inference_feature_bin_total", "inference_prediction_total")
    }


async def ask_v2(gateway: Any, images: Any) -> None:
    for image in images:
        tensor = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": image.ravel().tolist()}
        answer = await gateway.client.post("/v2/models/tiny/infer", json={"inputs": [tensor]})
        assert answer.status_code == 200, answer.text


async def test_predict_and_tensors_have_the_same_features(serve: Any) -> None:
    images = pixels(20)
    async with serve() as by_predict, serve() as by_tensors:
        for image in images:
            answer = await by_predict.client.post(
                "/v1/models/tiny/predict", content=png(image), headers={"content-type": "image/png"}
            )
            assert answer.status_code == 200, answer.text
        await ask_v2(by_tensors, images)
        await by_predict.settle()
        await by_tensors.settle()
        predicted, inferred = bins(by_predict), bins(by_tensors)

    # What only the original shows is counted where there is an original.
    only_image = {key for key in predicted if key[0] == "aspect"}
    assert sum(predicted[key] for key in only_image) == len(images)
    assert sum(inferred[key] for key in only_image) == 0
    rest = predicted.keys() - only_image
    assert {key: predicted[key] for key in rest} == {key: inferred[key] for key in rest}
    assert sum(predicted[key] for key in rest) > 3 * len(images)


async def test_a_feature_has_few_series(serve: Any, tiny_repository: Repository) -> None:
    async with serve() as gateway:
        features = [key[0] for key in bins(gateway)]

    assert {name: features.count(name) for name in features if features.count(name) > MAX_SERIES} == {}


async def test_examples_are_refused_unless_they_are_kept(serve: Any) -> None:
    async with serve() as gateway:
        await ask_v2(gateway, np.full((40, 8, 8, 1), 255, np.uint8))
        answer = await gateway.client.get("/v1/examples/tiny?feature=brightness")

    assert answer.status_code == 400
    assert "TIDEGATE_EXAMPLES" in answer.json()["error"]


async def test_examples_show_the_requests_behind_a_drift(serve: Any) -> None:
    async with serve(examples="ids") as gateway:
        for number in range(40):
            tensor = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [255] * 64}
            headers = {"x-request-id": f"white-{number}"}
            await gateway.client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}, headers=headers)
        answer = await gateway.client.get("/v1/examples/tiny/versions/1?feature=brightness")
        unknown = await gateway.client.get("/v1/examples/tiny?feature=colour")

    examples = answer.json()["examples"]
    assert answer.status_code == 200
    assert 0 < len(examples) <= 4
    assert {example["bin"] for example in examples} == {"19"}
    assert all(example["request_id"].startswith("white-") and example["inputs"] == {} for example in examples)
    assert unknown.status_code == 400
    assert "expected one of the features" in unknown.json()["error"]


async def test_of_a_busy_version_a_sample_is_counted_and_the_rest_said(serve: Any) -> None:
    images = pixels(40)
    async with serve(observed_per_s=1) as gateway:
        await ask_v2(gateway, images)
        await gateway.settle()
        counted = sum(value for key, value in bins(gateway).items() if key[0] == "brightness")
        left_out = gateway.metric("gateway_unobserved_samples_total", model="tiny")
        answered = gateway.metric("gateway_requests_total", model="tiny", code="200")

    assert answered == len(images) == counted + left_out
    assert 1 <= counted < len(images)
