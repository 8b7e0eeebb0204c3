"""A small real model for each kind of answer that is read out of more than one number a label."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from contract import Contract
from contract.digest import artifact
from contract.golden import Golden
from contract.observation import build_profile, watched
from contract.schema import (
    AxisRange,
    BoxesPostprocess,
    GenerationPostprocess,
    ImagePreprocess,
    MaskPostprocess,
    Postprocess,
    TensorSpec,
    TextPreprocess,
    TokenLabelsPostprocess,
)

MakeVersion = Callable[..., Contract]

WORDS = ("[PAD]", "[UNK]", "[END]", "Ada", "in", "Rome", "good", "film", "guter", "Film")
TAGS = ("O", "B-PER", "B-LOC")
MAX_LENGTH = 6
SIDE = 8


def write_people(root: Path, make: MakeVersion) -> None:
    """`people`: token labels; Ada is a person, Rome a place."""
    scores = np.full((len(WORDS), len(TAGS)), -4, np.float32)
    scores[:, 0], scores[3, 1], scores[5, 2] = 0, 4, 4
    nodes = [_constant("table", scores), helper.make_node("Gather", ["table", "ids"], ["tags"])]
    post = TokenLabelsPostprocess(tensor="tags", labels=TAGS, outside="O")
    ids = np.random.default_rng(0).integers(0, len(WORDS), (200, MAX_LENGTH))
    output = TensorSpec(name="tags", datatype="FP32", shape=(-1, len(TAGS)))
    _write_text(root, make, "people", post, output, nodes, {"tags": scores[ids]}, ids)


def write_german(root: Path, make: MakeVersion) -> None:
    """`german`: generation; a film is a Film, and nothing comes after an unknown word."""
    words = np.array([0, 2, 2, 3, 4, 5, 8, 9, 8, 9], np.int64)
    nodes = [_constant("table", words), helper.make_node("Gather", ["table", "ids"], ["text"])]
    post = GenerationPostprocess(tensor="text", tokenizer="tokenizer.json", end_id=2, pad_id=0)
    ids = np.random.default_rng(0).integers(0, len(WORDS), (200, MAX_LENGTH))
    output = TensorSpec(name="text", datatype="INT64", shape=(-1,))
    _write_text(root, make, "german", post, output, nodes, {"text": words[ids]}, ids)


def write_spots(root: Path, make: MakeVersion, name: str = "spots", resize: Any = "stretch") -> None:
    """`spots`: boxes; as sure of a sun over all as the picture is bright, and of a cloud in its left half by 0.75."""
    boxes = np.array([[[0, 0, 1, 1], [0, 0.25, 0.5, 0.75], [0.3, 0.3, 0.3, 0.3]]], np.float32)
    sun, rest = np.array([[[1, 0], [0, 0], [0, 0]]]), np.array([[[0, 0.125], [0.5, 0.75], [0.125, 1]]])
    nodes = [
        *_brightness([1, 2, 3]),
        _constant("sun", sun.astype(np.float32)),
        _constant("rest", rest.astype(np.float32)),
        _constant("edges", boxes),
        _constant("zero", np.zeros((1, 1, 1), np.float32)),
        _constant("last", np.array([3], np.int64)),
        helper.make_node("Squeeze", ["mean", "last"], ["level"]),
        helper.make_node("Mul", ["level", "sun"], ["sunny"]),
        helper.make_node("Add", ["sunny", "rest"], ["scores"]),
        helper.make_node("Mul", ["level", "zero"], ["none"]),
        helper.make_node("Add", ["edges", "none"], ["boxes"]),
    ]
    post = BoxesPostprocess(boxes_tensor="boxes", scores_tensor="scores", labels=("sun", "cloud"))
    outputs = (
        TensorSpec(name="boxes", datatype="FP32", shape=(3, 4)),
        TensorSpec(name="scores", datatype="FP32", shape=(3, 2)),
    )
    scores = np.random.default_rng(0).uniform(size=(200, 3, 2)).astype(np.float32)
    _write_image(root, make, name, post, outputs, nodes, {"scores": scores}, resize)


def write_road(root: Path, make: MakeVersion, name: str = "road", side: int = SIDE) -> None:
    """`road`: a mask; what is bright is road, the rest ground."""
    nodes = [
        *_brightness([3]),
        helper.make_node("Transpose", ["mean"], ["bright"], perm=[0, 3, 1, 2]),
        _constant("one", np.ones((1, 1, 1, 1), np.float32)),
        helper.make_node("Sub", ["one", "bright"], ["dark"]),
        helper.make_node("Concat", ["dark", "bright"], ["pair"], axis=1),
        _constant("steep", np.array(20, np.float32)),
        helper.make_node("Mul", ["pair", "steep"], ["masks"]),
    ]
    post = MaskPostprocess(tensor="masks", labels=("ground", "road"))
    outputs = (TensorSpec(name="masks", datatype="FP32", shape=(2, side, side)),)
    masks = np.random.default_rng(0).normal(size=(200, 2, SIDE, SIDE)).astype(np.float32)
    _write_image(root, make, name, post, outputs, nodes, {"masks": masks}, "stretch", side)


def _brightness(axes: Sequence[int]) -> list[Any]:
    """Nodes that make `mean`, from 0 to 1, of `image` over those axes."""
    return [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        _constant("full", np.array(255, np.float32)),
        helper.make_node("Div", ["pixels", "full"], ["scaled"]),
        _constant("axes", np.array(axes, np.int64)),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["mean"]),
    ]


def _constant(name: str, values: Any) -> Any:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(values, name))


def _write_text(
    root: Path,
    make: MakeVersion,
    name: str,
    post: Postprocess,
    output: TensorSpec,
    nodes: Sequence[Any],
    reference: dict[str, Any],
    ids: Any,
) -> None:
    length = AxisRange(min=1, opt=4, max=MAX_LENGTH)
    inputs = (TensorSpec(name="ids", datatype="INT64", shape=(-1,), ranges=(length,)),)
    pre = TextPreprocess(tokenizer="tokenizer.json", ids_tensor="ids", max_length=MAX_LENGTH)
    profile = build_profile(pre, post, {"ids": ids}, {}, watched(post, reference))
    folder = root / name / "1"
    make(root, name, inputs=inputs, outputs=(output,), preprocess=pre, postprocess=post, profile=profile, task="text")
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    Golden({"ids": np.array([[3, 4, 5]], np.int64)}, {}).save(folder)
    _save(folder, inputs, (output,), nodes)


def _write_image(
    root: Path,
    make: MakeVersion,
    name: str,
    post: Postprocess,
    outputs: tuple[TensorSpec, ...],
    nodes: Sequence[Any],
    reference: dict[str, Any],
    resize: Any,
    side: int = SIDE,
) -> None:
    inputs = (TensorSpec(name="image", datatype="UINT8", shape=(side, side, 1)),)
    pre = ImagePreprocess(tensor="image", mode="L", height=side, width=side, resize=resize, resample="nearest")
    images = np.random.default_rng(0).integers(0, 256, (200, SIDE, SIDE, 1), dtype=np.uint8)
    profile = build_profile(pre, post, {"image": images}, {"aspect": np.ones(200)}, watched(post, reference))
    make(root, name, inputs=inputs, outputs=outputs, preprocess=pre, postprocess=post, profile=profile, task="picture")
    folder = root / name / "1"
    Golden({"image": np.full((1, side, side, 1), 200, np.uint8)}, {}).save(folder)
    _save(folder, inputs, outputs, nodes)


def _save(folder: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], nodes: Sequence[Any]) -> None:
    def infos(specs: tuple[TensorSpec, ...]) -> list[Any]:
        kinds = {"UINT8": TensorProto.UINT8, "INT64": TensorProto.INT64, "FP32": TensorProto.FLOAT}
        shapes = {spec.name: ["n", *("length" if axis == -1 else axis for axis in spec.shape)] for spec in specs}
        return [helper.make_tensor_value_info(spec.name, kinds[spec.datatype], shapes[spec.name]) for spec in specs]

    graph = helper.make_graph(list(nodes), "small", infos(inputs), infos(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "model.onnx")
    contract = Contract.load(folder)
    files = {"model.onnx": "model", "golden.npz": "golden", "tokenizer.json": "tokenizer"}
    artifacts = tuple(artifact(folder, name, role) for name, role in files.items() if (folder / name).exists())
    contract.model_copy(update={"artifacts": artifacts}).save(folder)
