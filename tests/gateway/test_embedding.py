"""An embedding that a model offers beside its answer, or that is its answer, is counted whatever the protocol."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from PIL import Image
from tritonclient.grpc import model_config_pb2

from contract import Contract, Repository
from contract.embedding import PREFIX, Projection, fit_embedding
from contract.observation import embedding_features
from contract.schema import EmbeddingPostprocess, TensorSpec
from contract.triton import model_config

NUM_ASKED = 12
FLAT = TensorSpec(name="flat", datatype="FP32", shape=(64,))


def pictures(num: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, size=(num, 8, 8, 1), dtype=np.uint8)


def flat(images: Any) -> Any:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def write(root: Path, make_version: Any, **changes: Any) -> Contract:
    """`tiny`, which tells its pixels as `flat` too; they are watched."""
    tiny = make_version(root, "tiny").model_dump()
    embedding = fit_embedding("flat", flat(pictures(400, 1)))
    features = embedding_features(embedding, flat(pictures(400, 2)))
    profile = tiny["profile"] | {"embedding": embedding.model_dump()}
    profile["features"] = (*profile["features"], *(feature.model_dump() for feature in features))
    outputs = (*tiny["outputs"], FLAT.model_dump())
    contract = Contract.model_validate(tiny | {"profile": profile, "outputs": outputs} | changes)
    contract.save(root / "tiny" / "1")
    path = root / "tiny" / "1" / "model.onnx"
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", 64]))
    onnx.save(model, path)
    return contract


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "models").mkdir()
    return Repository(tmp_path / "models")


def counted(gateway: Any) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels[name] for name in ("feature", "bin", "tail")): sample.value
        for family in gateway.plane.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "inference_feature_bin_total" and sample.labels["feature"].startswith(PREFIX)
    }


def expected(contract: Contract, images: Any) -> dict[tuple[str, ...], float]:
    embedding = contract.profile.embedding
    assert embedding is not None
    values = Projection(embedding).values(flat(images))
    counts: dict[tuple[str, ...], float] = {}
    for feature in contract.profile.features:
        if feature.name in values:
            numbers = np.bincount(feature.assign(values[feature.name]), minlength=len(feature.bins))
            for cell, number in zip(feature.bins, numbers.tolist(), strict=True):
                counts[feature.name, cell.id, "1" if cell.tail else ""] = number
    return counts


def infer(images: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": list(images.shape), "datatype": "UINT8", "data": images.ravel().tolist()}
    return {"inputs": [tensor]}


async def test_by_predict_and_by_tensors_alike(repository: Repository, make_version: Any, serve: Any) -> None:
    contract = write(repository.root, make_version)
    images = pictures(NUM_ASKED, 3)
    async with serve(repository) as by_predict, serve(repository) as by_tensors:
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image[:, :, 0]).save(file, "PNG")
            item = base64.b64encode(file.getvalue()).decode()
            answer = await by_predict.client.post("/v1/models/tiny/predict", json={"image": item})
            assert answer.status_code == 200, answer.text
            assert set(answer.json()["predictions"][0]) == {"label", "confidence", "top"}
        answer = await by_tensors.client.post("/v2/models/tiny/infer", json=infer(images[:8]))
        assert [output["name"] for output in answer.json()["outputs"]] == ["logits", "flat"]
        only = infer(images[8:]) | {"outputs": [{"name": "logits"}]}
        answer = await by_tensors.client.post("/v2/models/tiny/infer", json=only)
        assert [output["name"] for output in answer.json()["outputs"]] == ["logits"]
        await by_predict.settle()
        await by_tensors.settle()
        assert counted(by_predict) == counted(by_tensors) == expected(contract, images)


async def test_an_embedding_that_is_the_answer(repository: Repository, make_version: Any, serve: Any) -> None:
    postprocess = EmbeddingPostprocess(tensor="flat")
    contract = write(repository.root, make_version, postprocess=postprocess.model_dump(), outputs=[FLAT.model_dump()])
    images = pictures(8, 4)
    async with serve(repository) as gateway:
        answer = await gateway.client.post("/v2/models/tiny/infer", json=infer(images))
        assert answer.status_code == 200, answer.text
        await gateway.settle()
        assert counted(gateway) == expected(contract, images)


def test_what_is_derived_follows(repository: Repository, make_version: Any) -> None:
    contract = write(repository.root, make_version)
    config = model_config_pb2.ModelConfig()
    text_format.Parse(model_config(contract, "onnxruntime", [1]), config)
    assert [(output.name, list(output.dims)) for output in config.output] == [("logits", [3]), ("flat", [64])]
    assert repository.contract("tiny", 1) == contract
