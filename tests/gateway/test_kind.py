"""Token labels, boxes, masks and generated texts, as a client gets them."""

import base64
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from PIL import Image

from contract import Repository
from gateway.error import UpstreamFailed
from tests.gateway import kind
from tests.gateway.listening import until

Serve = Callable[..., Any]
KINDS = ("people", "german", "spots", "road")


@pytest.fixture
def repository(tmp_path: Path, make_version: Any) -> Repository:
    root = tmp_path / "kinds"
    root.mkdir()
    for write in (kind.write_people, kind.write_german, kind.write_spots, kind.write_road):
        write(root, make_version)
    return Repository(root)


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8)).save(file, "PNG")
    return file.getvalue()


async def ask(gateway: Any, model: str, *items: Any, status: int = 200) -> Any:
    """The answers to texts, or to pictures in bytes."""
    sent: dict[str, Any]
    if items and isinstance(items[0], bytes):
        sent = {"files": [("image", (f"{i}.png", item, "image/png")) for i, item in enumerate(items)]}
    else:
        sent = {"json": {"texts": items}}
    answer = await gateway.client.post(f"/v1/models/{model}/predict", **sent)
    assert answer.status_code == status, answer.text
    return answer.json()["predictions"] if status == 200 else answer.json()["error"]


async def test_token_labels_are_spans_of_the_text_that_was_sent(serve: Serve, repository: Repository) -> None:
    async with serve(repository) as gateway:
        first, empty, long = await ask(gateway, "people", "🚀 Ada in  Rome", "", "in in in in Ada Rome Ada Ada")
        assert [(s["label"], s["text"], s["start"], s["end"]) for s in first["spans"]] == [
            ("PER", "Ada", 2, 5),
            ("LOC", "Rome", 10, 14),
        ]
        assert first["spans"][0]["confidence"] == pytest.approx(1, abs=0.02)
        assert empty == {"spans": []}
        assert [s["text"] for s in long["spans"]] == ["Ada", "Rome"]  # the model reads six words
        await gateway.settle()
        assert gateway.metric("inference_feature_bin_total", model="people", feature="spans") == 3
        assert gateway.metric("inference_prediction_total", model="people") == 0


async def test_a_generated_text_is_read_back(serve: Serve, repository: Repository) -> None:
    async with serve(repository) as gateway:
        assert await ask(gateway, "german", "good film", "good nonsense film", "nonsense") == [
            {"text": "guter Film"},
            {"text": "guter"},
            {"text": ""},
        ]
        await gateway.settle()
        assert gateway.metric("inference_feature_bin_total", model="german", feature="generated_length") == 3


async def test_boxes_are_in_pixels_of_the_picture_that_was_sent(serve: Serve, repository: Repository) -> None:
    async with serve(repository) as gateway:
        bright, dark = await ask(gateway, "spots", png(np.full((100, 40), 255)), png(np.zeros((8, 8))))
        assert bright == {
            "boxes": [
                {"label": "sun", "confidence": 1.0, "box": [0, 0, 40, 100]},
                {"label": "cloud", "confidence": 0.75, "box": [0, 25, 20, 75]},
            ]
        }
        assert dark == {"boxes": [{"label": "cloud", "confidence": 0.75, "box": [0, 2, 4, 6]}]}
        await gateway.settle()
        assert gateway.metric("inference_feature_bin_total", model="spots", feature="boxes") == 2


def pixels_of(prediction: Any) -> Any:
    with Image.open(io.BytesIO(base64.b64decode(prediction["mask"]))) as image:
        assert list(image.size) == prediction["size"]
        return np.asarray(image)


async def test_a_mask_covers_the_picture_that_was_sent(serve: Serve, repository: Repository) -> None:
    half = np.zeros((32, 16))
    half[:, 8:] = 255
    async with serve(repository) as gateway:
        one, pixel = await ask(gateway, "road", png(half), png([[255]]))
        np.testing.assert_array_equal(pixels_of(one), half / 255)
        assert one["labels"] == [{"label": "ground", "ratio": 0.5}, {"label": "road", "ratio": 0.5}]
        assert one["confidence"] == pytest.approx(1)
        assert (pixel["size"], pixel["labels"], pixels_of(pixel)) == ([1, 1], [{"label": "road", "ratio": 1}], [[1]])
        await gateway.settle()
        assert gateway.metric("inference_feature_bin_total", model="road", feature="foreground") == 2


async def test_a_large_mask_is_made_off_the_loop_and_in_time(
    serve: Serve, repository: Repository, make_version: Any
) -> None:
    kind.write_road(repository.root, make_version, "large", side=256)
    async with serve(repository, request_timeout_s=0.5, preprocess_threads=1) as gateway:
        (large,) = await ask(gateway, "large", png(np.full((600, 800), 255)))
        assert (large["size"], large["labels"]) == ([800, 600], [{"label": "road", "ratio": 1}])
        free = threading.Event()
        gateway.plane._threads.submit(free.wait)  # none is left to make the mask
        try:
            assert "time was up while its answer was made" in await ask(gateway, "large", png([[0]]), status=504)
        finally:
            free.set()


async def test_a_fallback_answers_of_its_own_input_and_a_shadow_touches_nothing(
    serve: Serve, repository: Repository, make_version: Any, tmp_path: Path
) -> None:
    kind.write_spots(repository.root, make_version, "padded", resize="pad")
    (tmp_path / "routes.yaml").write_text(
        "routes: [{name: seen, targets: [{model: spots}], fallback: {targets: [{model: padded}]}, "
        "shadow: {model: padded, fraction: 1}}]"
    )
    picture = png(np.zeros((100, 200)))
    async with serve(repository, routes=tmp_path / "routes.yaml") as gateway:
        (primary,) = await ask(gateway, "seen", picture)
        assert primary["boxes"][0]["box"] == [0, 25, 100, 75]
        await until(lambda: gateway.metric("gateway_shadow_requests_total", route="seen", result="agreed") == 1)
        gateway.upstream.error, gateway.upstream.failing = UpstreamFailed("it broke"), {("spots", "1")}
        (fallen,) = await ask(gateway, "seen", picture)
        assert fallen["boxes"][0]["box"] == [0, 0, 100, 100]


async def test_every_kind_is_documented_as_it_is_answered(serve: Serve, repository: Repository) -> None:
    async with serve(repository) as gateway:
        document = (await gateway.client.get("/openapi.json")).json()
        OpenAPIV31SpecValidator(document).validate()
        for model in KINDS:
            path = f"/v1/models/{model}/predict"
            operation = document["paths"][path]["post"]
            example = operation["requestBody"]["content"]["application/json"]["examples"]["many"]["value"]
            answer = await gateway.client.post(path, json=example)
            assert answer.status_code == 200, answer.text
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            OAS31Validator({**schema, "components": document["components"]}).validate(answer.json())
        labels = {model: document["components"]["schemas"].get(f"{model}.Label", {}).get("enum") for model in KINDS}
        assert labels == {
            "people": ["PER", "LOC"],
            "german": None,
            "spots": ["sun", "cloud"],
            "road": ["ground", "road"],
        }
        described = (await gateway.client.get("/v1/models")).json()
        assert {one["name"] for one in described["models"]} == set(KINDS)


async def test_a_version_without_its_tokenizer_is_not_served(serve: Serve, repository: Repository) -> None:
    (repository.version_dir("german", "1") / "tokenizer.json").unlink()
    async with serve(repository) as gateway:
        assert "tokenizer" in gateway.plane.catalog.refused["german", "1"]
        assert (await ask(gateway, "people", "Ada"))[0]["spans"]
