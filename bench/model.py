"""The models that are asked: a tiny one, where only the servers cost; Fashion-MNIST; and one for photographs."""

import datetime
import io
import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from bench.error import BenchError
from bench.photo import photographs
from contract import Contract, ContractError, Repository
from contract.digest import artifact
from contract.golden import Golden
from contract.image import decode
from contract.observation import build_profile
from contract.postprocess import interpret
from contract.schema import (
    AxisRange,
    ClassificationPostprocess,
    Datatype,
    Evaluation,
    ImagePreprocess,
    Metric,
    Preprocess,
    Provenance,
    Slo,
    TensorPreprocess,
    TensorSpec,
)
from contract.triton import model_config

MAX_BATCH_SIZE = 64
TINY, FASHION, PHOTO = "tiny", "fashion-mnist", "photo"
FASHION_RECIPE = "fashion-resnet"

_PHOTO_SIZE = 64
_NUM_PHOTOS = 8
_SEED = 0

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A published version, with what it is asked and what it must answer.

    `sample` is one input `[1, ...]` and `scores` its output `[1, labels]`. `files` are images to be asked by predict,
    the first of which has the label `label`.
    """

    folder: Path
    contract: Contract
    sample: Array
    scores: Array
    files: tuple[bytes, ...] = ()
    media_type: str = ""
    label: str = ""

    @property
    def name(self) -> str:
        """What it is called in the repository."""
        return self.contract.name

    @property
    def onnx(self) -> Path:
        """The file that every server loads."""
        return self.folder / "model.onnx"


def make_model(name: str, root: Path, published: Path) -> Model:
    """Put a model into the repository `root`; raises BenchError.

    Fashion-MNIST is copied from the repository `published`, the others are made.
    """
    match name:
        case "tiny":
            return _tiny(root)
        case "photo":
            return _photo(root)
        case _:
            return _fashion(root, published)


def _tiny(root: Path) -> Model:
    rng = np.random.default_rng(_SEED)
    weights = rng.normal(size=(16, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        TINY,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    # Values of four digits, as people send them: the length of the JSON is part of what is measured.
    samples = rng.normal(size=(1000, 16)).round(4).astype(np.float32)
    folder, contract = _publish(root, TINY, graph, samples, TensorPreprocess(), {}, num_parameters=weights.size)
    return _asked(folder, contract, samples[:1])


def _photo(root: Path) -> Model:
    rng = np.random.default_rng(_SEED)
    initializers = [numpy_helper.from_array(np.array(255, np.float32), "scale")]

    def weight(name: str, *shape: int) -> str:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        initializers.append(numpy_helper.from_array(rng.normal(0, scale, shape).astype(np.float32), name))
        return name

    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    channels = (3, 16, 32, 64)
    for i, (inner, outer) in enumerate(itertools.pairwise(channels)):
        kernel = weight(f"kernel{i}", outer, inner, 3, 3)
        nodes += [
            helper.make_node("Conv", [f"x{i}", kernel], [f"c{i}"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
            helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]),
        ]
    nodes += [
        helper.make_node("GlobalAveragePool", [f"x{len(channels) - 1}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", weight("head", 10, channels[-1])], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        PHOTO,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", _PHOTO_SIZE, _PHOTO_SIZE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        initializers,
    )
    preprocess = ImagePreprocess(tensor="image", mode="RGB", height=_PHOTO_SIZE, width=_PHOTO_SIZE)
    files = photographs(_NUM_PHOTOS)
    decoded = [decode(file, preprocess) for file in files]
    samples, aspects = np.stack([d.pixels for d in decoded]), np.array([d.aspect for d in decoded])
    size = sum(int(np.prod(initializer.dims)) for initializer in initializers)
    folder, contract = _publish(root, PHOTO, graph, samples, preprocess, {"aspect": aspects}, num_parameters=size)
    return _asked(folder, contract, samples[:1], files=tuple(files), media_type="image/jpeg")


def _fashion(root: Path, published: Path) -> Model:
    try:
        contract = Repository(published).latest(FASHION)
    except ContractError as exc:
        raise BenchError(f"{exc}; publish it with: .venv/bin/tidegate train {FASHION_RECIPE}") from exc
    shutil.copytree(published / FASHION, root / FASHION)
    folder = Repository(root).version_dir(FASHION, contract.version)
    sample = Golden.load(folder).inputs[contract.inputs[0].name][:1]
    file = io.BytesIO()
    Image.fromarray(sample[0, :, :, 0]).save(file, "PNG")
    return _asked(folder, contract, sample, files=(file.getvalue(),), media_type="image/png")


def _asked(folder: Path, contract: Contract, sample: Array, **fields: Any) -> Model:
    scores = _run(folder / "model.onnx", sample)
    assert isinstance(contract.postprocess, ClassificationPostprocess)
    label = contract.postprocess.labels[int(scores.argmax())]
    return Model(folder=folder, contract=contract, sample=sample, scores=scores, label=label, **fields)


def _run(file: Path, samples: Array) -> Array:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: samples})[0])


def _publish(
    root: Path,
    name: str,
    graph: onnx.GraphProto,
    samples: Array,
    preprocess: Preprocess,
    observed: dict[str, Array],
    num_parameters: int,
) -> tuple[Path, Contract]:
    """Write version 1 of a classifier with one input and the output `scores`, and its config.pbtxt."""
    folder = root / name / "1"
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    tensors, outputs = {graph.input[0].name: samples}, {"scores": _run(folder / "model.onnx", samples)}
    Golden({k: v[:4] for k, v in tensors.items()}, {k: v[:4] for k, v in outputs.items()}).save(folder)
    labels = tuple(f"label {i}" for i in range(outputs["scores"].shape[1]))
    postprocess = ClassificationPostprocess(tensor="scores", labels=labels)
    datatype: Datatype = "UINT8" if samples.dtype == np.uint8 else "FP32"
    contract = Contract(
        name=name,
        version=1,
        task="classification",
        inputs=(TensorSpec(name=graph.input[0].name, datatype=datatype, shape=samples.shape[1:]),),
        outputs=(TensorSpec(name="scores", datatype="FP32", shape=outputs["scores"].shape[1:]),),
        batch=AxisRange(min=1, opt=16, max=MAX_BATCH_SIZE),
        preprocess=preprocess,
        postprocess=postprocess,
        slo=Slo(latency_threshold_ms=50, latency_objective=0.99, availability_objective=0.999),
        profile=build_profile(preprocess, postprocess, tensors, observed, interpret(postprocess, outputs)),
        evaluation=Evaluation(dataset="none", split="none", metrics=(_unmeasured(),)),
        provenance=_provenance(num_parameters),
        artifacts=(artifact(folder, "model.onnx", "model"), artifact(folder, "golden.npz", "golden")),
    )
    contract.save(folder)
    (root / name / "config.pbtxt").write_text(model_config(contract, "onnxruntime", [1]))
    return folder, contract


def _unmeasured() -> Metric:
    return Metric(name="accuracy", value=0, low=0, high=1, num_samples=1)


def _provenance(num_parameters: int) -> Provenance:
    return Provenance(
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        git_revision="unknown",
        libraries={"onnx": onnx.__version__},
        seed=_SEED,
        data_sha256="0" * 64,
        config={},
        num_parameters=num_parameters,
        flops_per_sample=0,
        training_time_s=0,
    )
