"""Every recipe down the whole line in its smallest form: a few steps of training, published, compiled, answering."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tritonclient.grpc import InferInput

from contract import Contract, Passport, Repository
from contract.golden import Golden
from contract.profile import PREDICTION
from serving.error import EngineUnavailable
from serving.gpu import find_gpu
from tests.sample import few_samples
from tidegate.compiling import Compiler
from training import recipe as catalogue
from training.data import Dataset
from training.pipeline import run
from training.recipe import Recipe


def smallest(recipe: Recipe) -> Recipe:
    """Two steps from the real data, few samples to judge by, no gates: what is tried is the line, not the model."""

    def load(data_dir: Path | None) -> Dataset:
        return few_samples(recipe)

    config = replace(recipe.quick_config, epochs=1, batch_size=16, accumulation=1, patience=None, num_train=32)
    after = None if recipe.after is None else smallest(recipe.after)
    return replace(recipe, load=load, config=config, gates=(), after=after)


@pytest.fixture(scope="module", params=catalogue.names())
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, Contract]:
    folder = tmp_path_factory.mktemp(request.param)
    repository = Repository(folder / "model_repository")
    recipe = smallest(catalogue.find(request.param))
    contract = run(
        recipe,
        repository=repository,
        runs_dir=folder / "runs",
        compile=compiler(),
        console=Console(quiet=True),
    )
    return repository, contract


def compiler() -> Any:
    """The engine build of this machine, or None where there is none."""
    try:
        return Compiler(Console(quiet=True), None if find_gpu() else ["8.9"])  # one of the targets, to be quick
    except EngineUnavailable:
        return None


async def test_it_answers_over_http_and_grpc_what_the_network_answered(
    published: tuple[Repository, Contract], serve: Any, grpc_client: Any, record_property: Callable[[str, object], None]
) -> None:
    repository, contract = published
    if contract.artifact("passport"):
        passport = Passport.load(repository.version_dir(contract.name, contract.version))
        record_property("engine", f"{passport.builder} {passport.builder_version} for {passport.targets}")
    golden = Golden.load(repository.version_dir(contract.name, contract.version))
    sent = {name: array[:2] for name, array in golden.inputs.items()}
    document = {
        "inputs": [
            {"name": spec.name, "datatype": spec.datatype, "shape": list(sent[spec.name].shape),
             "data": sent[spec.name].ravel().tolist()}
            for spec in contract.inputs
        ]
    }  # fmt: skip
    inputs = []
    for spec in contract.inputs:
        tensor = InferInput(spec.name, list(sent[spec.name].shape), spec.datatype)
        tensor.set_data_from_numpy(np.ascontiguousarray(sent[spec.name]))
        inputs.append(tensor)

    async with serve(repository, max_body_bytes=2**28) as gateway:
        answer = (await gateway.client.post(f"/v2/models/{contract.name}/infer", json=document)).raise_for_status()
        async with grpc_client(gateway) as client:
            result = await client.infer(contract.name, inputs)
        await gateway.settle()
        counted = {
            name: gateway.metric("inference_prediction_total")
            if name == PREDICTION
            else gateway.metric("inference_feature_bin_total", feature=name)
            for name in (feature.name for feature in contract.profile.features)
        }

    for output in answer.json()["outputs"]:
        expected = golden.outputs[output["name"]][:2]
        shown = np.array(output["data"], expected.dtype).reshape(output["shape"])
        np.testing.assert_allclose(shown, expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(result.as_numpy(output["name"]), expected, rtol=1e-3, atol=1e-3)
    counted.pop("aspect", None)  # of a picture that was never seen as a file
    assert set(counted.values()) == {4}, counted


async def test_the_example_on_its_page_works(published: tuple[Repository, Contract], serve: Any) -> None:
    repository, contract = published
    takes_tensors = contract.preprocess.kind == "tensor"
    path = f"/v2/models/{contract.name}/infer" if takes_tensors else f"/v1/models/{contract.name}/predict"

    async with serve(repository) as gateway:
        page = (await gateway.client.get("/openapi.json")).json()["paths"][path]["post"]
        content = page["requestBody"]["content"]["application/json"]
        if takes_tensors and not {"example", "examples"} & content.keys():
            return  # too many numbers to be read
        example = content["example"] if "example" in content else next(iter(content["examples"].values()))["value"]
        answer = await gateway.client.post(path, json=example)

    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs" if takes_tensors else "predictions"]
