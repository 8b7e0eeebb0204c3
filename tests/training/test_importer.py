"""Importing small graphs of every shape of interface: what is found out, and what is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract import Contract, Repository
from contract.embedding import fit_embedding
from contract.golden import Golden
from contract.observation import embedding_features
from contract.schema import AxisRange, ClassificationPostprocess, EmbeddingPostprocess
from contract.tensor import as_samples, check_inputs
from training.importer import Derived, ImportRefused, Pixels, Wish, derive, origin_of, publish, read
from training.importer.file import write
from training.importer.graph import Port, labels_in, state_pairs

FLOAT, BF16, INT64, STRING = TensorProto.FLOAT, TensorProto.BFLOAT16, TensorProto.INT64, TensorProto.STRING
Spec = tuple[int, Sequence[Any] | None]


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Spec],
    outputs: Mapping[str, Spec],
    *,
    opset: int = 18,
    notes: Mapping[str, str] | None = None,
    **constants: NDArray[Any],
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10)
    helper.set_model_props(model, dict(notes or {}))
    return model


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def bring(folder: Path, model: onnx.ModelProto, *samples: Mapping[str, Any], **wish: Any) -> Derived:
    """Derive with the samples, each a file of its own."""
    files = []
    for index, arrays in enumerate(samples):
        files.append(folder / f"{index}.npz")
        np.savez(files[-1], allow_pickle=False, **arrays)
    return derive(model, Wish(name="small", samples=tuple(files), **wish), folder / "work")


def published(folder: Path, derived: Derived) -> Contract:
    path = folder / "mine.onnx"
    path.write_bytes(b"what it came from")
    repository = Repository(folder / "models")
    publish(derived, origin_of(path, derived), repository)
    return repository.contract("small", 1, verified=True)


def scores(*first: Any, notes: Mapping[str, str] | None = None, softmax: bool = False) -> onnx.ModelProto:
    """`x` FP32 `[*first, 4]` to `y` `[*first, 3]`."""
    last = node("Softmax", "z", "y", axis=-1) if softmax else node("Identity", "z", "y")
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    spec: dict[str, Spec] = {"x": (FLOAT, [*first, 4])}
    return graph([node("MatMul", "x w", "z"), last], spec, {"y": (FLOAT, [*first, 3])}, notes=notes, w=weight)


ROWS = np.random.default_rng(1).standard_normal((100, 4)).astype(np.float32)


def test_a_batch_axis_is_found_by_running(tmp_path: Path) -> None:
    derived = bring(tmp_path, scores("n"), {"x": ROWS})
    assert derived.opened.batched
    contract = published(tmp_path, derived)
    assert (contract.batched, contract.batch) == (True, AxisRange(min=1, opt=8, max=32))
    assert [spec.shape for spec in (*contract.inputs, *contract.outputs)] == [(4,), (3,)]
    assert contract.provenance.num_parameters == 12
    assert contract.provenance.config["imported_from"] == "mine.onnx"
    assert {f.name: f.num_samples for f in contract.profile.features} == {"x.mean": 100, "x.std": 100}
    assert not contract.evaluation.measured


def test_a_first_axis_that_mixes_rows_is_no_batch_axis(tmp_path: Path) -> None:
    mixing = graph([node("Softmax", "x", "y", axis=0)], {"x": (FLOAT, ["time", 4])}, {"y": (FLOAT, ["time", 4])})
    derived = bring(tmp_path, mixing, {"x": ROWS[:7]}, {"x": ROWS[:9]})
    assert not derived.opened.batched
    assert derived.inputs[0].ranges == (AxisRange(min=7, opt=9, max=9),)
    assert "otherwise when another one is beside it" in derived.remarks[0]
    contract = published(tmp_path, derived)
    assert (contract.batched, contract.batch.max) == (False, 1)
    folder = Repository(tmp_path / "models").version_dir("small", 1)
    assert "max_batch_size: 0" in (folder.parent / "config.pbtxt").read_text()
    golden = Golden.load(folder)
    assert golden.inputs["x"].shape == (1, 7, 4)
    assert check_inputs(contract.inputs, contract.batch_axis, {"x": golden.inputs["x"][0]}) == 1


def test_a_one_in_front_is_freed_where_the_graph_takes_more(tmp_path: Path) -> None:
    derived = bring(tmp_path, scores(1), {"x": ROWS})
    assert derived.opened.batched
    assert "freed" in derived.remarks[0]
    session = ort.InferenceSession(derived.opened.files[0])
    assert session.run(None, {"x": ROWS})[0].shape == (100, 3)


def test_a_one_in_front_stays_where_the_graph_insists(tmp_path: Path) -> None:
    nodes = [node("Reshape", "x shape", "y")]
    fixed = graph(nodes, {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 2, 2])}, shape=np.array([1, 2, 2]))
    derived = bring(tmp_path, fixed)
    assert not derived.opened.batched
    assert (derived.inputs[0].shape, derived.outputs[0].shape) == ((1, 4), (1, 2, 2))


def test_lengths_are_given_seen_or_tried(tmp_path: Path) -> None:
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    ids: dict[str, Spec] = {"ids": (INT64, ["n", "length"])}
    tokens = graph([node("Gather", "table ids", "y")], ids, {"y": (FLOAT, ["n", "length", 2])}, table=table)
    (tmp_path / "tried").mkdir()
    tried = bring(tmp_path / "tried", tokens)
    assert tried.inputs[0].ranges == (AxisRange(min=1, opt=64, max=512),)
    samples = [{"ids": np.ones((2, length), np.int64)} for length in (3, 5, 9)]
    seen = bring(tmp_path, tokens, *samples)
    assert (seen.inputs[0].ranges, seen.outputs[0].shape) == ((AxisRange(min=3, opt=5, max=9),), (-1, 2))
    (tmp_path / "given").mkdir()
    given = bring(tmp_path / "given", tokens, *samples, axes={"length": AxisRange(min=1, opt=16, max=64)})
    assert given.inputs[0].ranges[0].max == 64
    (tmp_path / "unknown").mkdir()
    with pytest.raises(ImportRefused, match=r"ranges for the axes \['length'\], got one for 'width'"):
        bring(tmp_path / "unknown", tokens, axes={"width": AxisRange(min=1, opt=1, max=1)})


def test_a_length_that_the_graph_refuses_is_named(tmp_path: Path) -> None:
    places = np.zeros((1, 32, 4), np.float32)  # at most 32 positions
    nodes = [node("Shape", "x", "s"), node("Gather", "s one", "t"), node("Slice", "places zero t one", "p"),
             node("Add", "x p", "y")]  # fmt: skip
    spec: dict[str, Spec] = {"x": (FLOAT, ["n", "length", 4])}
    outputs: dict[str, Spec] = {"y": (FLOAT, ["n", "length", 4])}
    limited = graph(nodes, spec, outputs, places=places, zero=np.array([0]), one=np.array([1]))
    derived = bring(tmp_path, limited)
    assert derived.inputs[0].ranges == (AxisRange(min=1, opt=16, max=32),)
    (tmp_path / "given").mkdir()
    with pytest.raises(ImportRefused, match="doesn't take length 64 of axis 'length'"):
        bring(tmp_path / "given", limited, axes={"length": AxisRange(min=1, opt=16, max=64)})


def test_a_state_is_told_and_a_scalar_becomes_an_element(tmp_path: Path) -> None:
    nodes = [node("Mul", "x rate", "z"), node("Add", "z h", "hn"), node("ReduceSum", "hn", "total", keepdims=0)]
    inputs: dict[str, Spec] = {"x": (FLOAT, [1, 4]), "h": (FLOAT, [1, 4]), "rate": (FLOAT, [])}
    model = graph(nodes, inputs, {"total": (FLOAT, []), "hn": (FLOAT, [1, 4])})
    stack = {"x": ROWS[:, np.newaxis], "h": ROWS[:, np.newaxis] * 0, "rate": np.linspace(0, 1, 100, dtype=np.float32)}
    derived = bring(tmp_path, model, stack)
    assert (derived.state, derived.opened.batched) == ({"hn": "h"}, False)
    contract = published(tmp_path, derived)
    assert [spec.shape for spec in contract.inputs] == [(1, 4), (1, 4), (1,)]
    assert contract.output("total").shape == (1,)
    golden = Golden.load(Repository(tmp_path / "models").version_dir("small", 1))
    np.testing.assert_allclose(
        golden.outputs["total"][:, 0], (golden.inputs["x"].sum(axis=(1, 2)) * golden.inputs["rate"][:, 0]), rtol=1e-4
    )
    assert contract.profile.features[0].num_samples == 100


@pytest.mark.parametrize(
    ("inputs", "outputs", "pairs"),
    [
        ("x state", "y stateN", {"stateN": "state"}),
        ("x h c", "y hn cn", {"hn": "h", "cn": "c"}),
        ("ids past_key_values.0.key", "logits present.0.key", {"present.0.key": "past_key_values.0.key"}),
        ("ids past_0", "logits present_0", {"present_0": "past_0"}),
        ("x hidden", "y hidden_out", {"hidden_out": "hidden"}),
        ("x state_in", "y state_out", {"state_out": "state_in"}),
        ("image mask", "image_out mask_out", {}),
        ("input", "output", {}),
    ],
)
def test_outputs_that_feed_inputs_are_told_by_name(inputs: str, outputs: str, pairs: dict[str, str]) -> None:
    def ports(names: str) -> list[Port]:
        return [Port(name=name, datatype="FP32", axes=("batch", 4)) for name in names.split()]

    assert state_pairs(ports(inputs), ports(outputs)) == pairs


@pytest.mark.parametrize(
    "text",
    [
        '["a", "b", "c"]',
        '{"0": "a", "1": "b", "2": "c"}',
        "{0: 'a', 1: 'b', 2: 'c'}",
        '{"a": 0, "b": 1, "c": 2}',
        "a\nb\nc\n",
    ],
)
def test_labels_are_read_from_the_models_notes(text: str, tmp_path: Path) -> None:
    assert labels_in({"names": text}) == ("a", "b", "c")
    derived = bring(tmp_path, scores("n", notes={"names": text}, softmax=True), {"x": ROWS})
    assert derived.postprocess == ClassificationPostprocess(tensor="y", labels=("a", "b", "c"), activation="identity")


def test_targets_are_measured_against(tmp_path: Path) -> None:
    model = scores("n")
    truth = ort.InferenceSession(model.SerializeToString()).run(None, {"x": ROWS})[0].argmax(axis=1)
    truth[:5] = (truth[:5] + 1) % 3
    derived = bring(tmp_path, model, {"x": ROWS, "target": truth}, task="classification")
    assert isinstance(derived.postprocess, ClassificationPostprocess)
    assert (derived.postprocess.labels, derived.postprocess.activation) == (("0", "1", "2"), "softmax")
    contract = published(tmp_path, derived)
    assert contract.evaluation.metric("accuracy").value == 0.95
    assert {"prediction", "confidence", "entropy"} <= {feature.name for feature in contract.profile.features}


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("first", ["n", 1, "fixed"])
@pytest.mark.parametrize("channels_first", [True, False])
def test_pixels_become_what_the_graph_took(tmp_path: Path, channels_first: bool, first: Any, bgr: bool) -> None:
    axes = [1 if first == "fixed" else first, *([3, 5, 6] if channels_first else [5, 6, 3])]
    nodes = [node("Reshape", "image shape", "y")] if first == "fixed" else [node("Identity", "image", "y")]
    model = graph(nodes, {"image": (FLOAT, axes)}, {"y": (FLOAT, axes)}, shape=np.array([1, *axes[1:]]))
    pixels = Pixels(size=(5, 6), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), bgr=bgr)
    derived = bring(tmp_path, model, pixels=pixels)
    assert derived.opened.batched == (first != "fixed")
    assert derived.inputs[0].shape == (5, 6, 3)
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    sent = image[np.newaxis] if derived.opened.batched else image
    (answer,) = ort.InferenceSession(derived.opened.files[0]).run(None, {derived.inputs[0].name: sent})
    expected = ((image[..., ::-1] if bgr else image) / 255 - pixels.mean) / pixels.std
    np.testing.assert_allclose(answer[0], expected.transpose(2, 0, 1) if channels_first else expected, atol=1e-5)
    assert published(tmp_path, derived).preprocess.kind == "image"


def test_without_samples_nothing_is_made_up(tmp_path: Path) -> None:
    contract = published(tmp_path, bring(tmp_path, scores("n")))
    assert (contract.profile.features, contract.evaluation.measured) == ((), False)
    assert contract.artifact("golden") is None


@pytest.mark.parametrize("num_samples", [100, 20])
def test_an_answer_that_is_an_embedding_is_watched_as_one(tmp_path: Path, num_samples: int) -> None:
    derived = bring(tmp_path, scores("n"), {"x": ROWS[:num_samples]}, task="text-embedding")
    assert isinstance(derived.postprocess, EmbeddingPostprocess)
    profile = published(tmp_path, derived).profile
    features = {feature.name: feature for feature in profile.features}
    if num_samples < 64:
        assert profile.embedding is None
        assert {"norm"} == {name for name in features if not name.startswith("x.")}
        return
    assert profile.embedding is not None
    assert features["embedding.component1"].num_samples == num_samples // 2
    # The bins are filled by other samples than those that the components were found on.
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    refilled = embedding_features(fit_embedding("y", (ROWS @ weight)[::2]), (ROWS @ weight)[1::2])
    np.testing.assert_allclose(
        features["embedding.norm"].edges, {one.name: one for one in refilled}["embedding.norm"].edges, rtol=1e-5
    )


def test_texts_are_served(tmp_path: Path) -> None:
    model = graph([node("Identity", "x", "y")], {"x": (STRING, ["n", 2])}, {"y": (STRING, ["n", 2])})
    derived = bring(tmp_path, model, {"x": np.array([["a", "bc"], ["Größe", ""]])})
    contract = published(tmp_path, derived)
    assert (contract.inputs[0].datatype, contract.batched) == ("BYTES", True)
    golden = Golden.load(Repository(tmp_path / "models").version_dir("small", 1))
    assert golden.outputs["y"].tolist() == [["a", "bc"], ["Größe", ""]]
    check_inputs(contract.inputs, contract.batch, golden.inputs)


def test_zeros_that_make_it_fail_are_no_warm_up(tmp_path: Path) -> None:
    nodes = [node("Slice", "x zero x", "y")]
    model = graph(nodes, {"x": (INT64, [1])}, {"y": (INT64, ["k"])}, zero=np.array([0]))
    assert bring(tmp_path, model).takes_zeros
    (tmp_path / "failing").mkdir()
    rows = graph([node("Expand", "one x", "z"), node("Gather", "z zero", "y")], {"x": (INT64, [1])},
                 {"y": (FLOAT, [1])}, one=np.ones(1, np.float32), zero=np.array([0]))  # fmt: skip
    derived = bring(tmp_path / "failing", rows, {"x": np.array([3])})
    assert not derived.takes_zeros
    published(tmp_path / "failing", derived)
    assert "warmup" not in (tmp_path / "failing/models/small/config.pbtxt").read_text()


def sequence_output() -> onnx.ModelProto:
    model = graph([node("SequenceConstruct", "x", "y")], {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, None)})
    item = helper.make_tensor_type_proto(FLOAT, None)
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(item))
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (sequence_output(), "output 'y' is a sequence, and only tensors can be served"),
        (graph([node("Identity", "x", "y")], {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])}, opset=999), "opset 999"),
        (
            graph([node("Magic", "x", "y", domain="com.example")], {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])}),
            "operators that ONNX Runtime lacks: com.example::Magic",
        ),
        (
            graph([node("Identity", "x", "y")], {"x": (BF16, ["n"])}, {"y": (BF16, ["n"])}),
            "input 'x' is BFLOAT16",
        ),
        (graph([node("Identity", "x", "y")], {"x": (FLOAT, None)}, {"y": (FLOAT, None)}), "how many axes"),
        (graph([node("Nonsense", "x", "y")], {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])}), "can't load the model"),
        (graph([node("Log", "x", "y")], {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, ["n", 4])}), "NaN or infinity"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_in_one_sentence(tmp_path: Path, model: onnx.ModelProto, said: str) -> None:
    samples = [{"x": -abs(ROWS)}] if "NaN" in said else []
    with pytest.raises(ImportRefused, match=said) as caught:
        bring(tmp_path, model, *samples)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"labels": ("a", "b")}, "2 scores a sample"),
        ({"labels": ("a", "b", "other")}, "the labels can't be used"),
        ({"task": "regression"}, "one number a sample"),
        ({"task": "classification", "output": "z"}, "--output"),
        ({"pixels": Pixels()}, "one input of four axes"),
    ],
)
def test_wishes_that_the_graph_cannot_fulfil_are_refused(tmp_path: Path, wish: dict[str, Any], said: str) -> None:
    with pytest.raises(ImportRefused, match=said):
        bring(tmp_path, scores("n"), **wish)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"z": ROWS}, r"expected the arrays \['x'\], got \['z'\]"),
        ({"x": ROWS.astype(np.float64)}, "expected 'x' as FP32, got FP64"),
        ({"x": ROWS[0]}, "or stacks of such"),
        ({"x": ROWS[:, :3]}, "doesn't take the first sample"),
        ({"x": ROWS, "target": np.full(100, 3)}, "a target from 0 to 2"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(ImportRefused, match=said):
        published(tmp_path, bring(tmp_path, scores("n"), arrays, task="classification"))
    assert Repository(tmp_path / "models").models() == []


@pytest.mark.parametrize("name", ["../x", "", "Model", "a" * 64])
def test_a_name_is_checked_before_it_names_a_folder(name: str) -> None:
    with pytest.raises(ImportRefused, match="expected a name of lower-case letters"):
        Wish(name=name)


def test_one_sample_of_no_batch_axis_is_as_samples_sees_it() -> None:
    assert as_samples(None, {"x": ROWS})["x"].shape == (1, 100, 4)


def test_a_model_too_large_for_one_file_has_its_data_beside_it(tmp_path: Path) -> None:
    model = scores("n")
    assert write(model, tmp_path, "model.onnx", inline_bytes=10) == ["model.onnx", "model.onnx.data"]
    again = read(tmp_path / "model.onnx")
    np.testing.assert_array_equal(
        numpy_helper.to_array(again.graph.initializer[0]), numpy_helper.to_array(model.graph.initializer[0])
    )
