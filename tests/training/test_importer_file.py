"""Files from somebody else: nothing outside the model's folder is opened, and nothing that holds code is read."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.importer import ImportRefused, read

WEIGHT = np.arange(6, dtype=np.float32)


def with_external_data(folder: Path, location: str, *, offset: int = 0, length: int | None = None) -> Path:
    """A model whose one weight lies in a file."""
    folder.mkdir(parents=True, exist_ok=True)
    weight = numpy_helper.from_array(WEIGHT, "w")
    data = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": len(data) if length is None else length}
    for key, value in entries.items():
        weight.external_data.add(key=key, value=str(value))
    spec = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", spec[:1], spec[1:], [weight])
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    return path


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_data_beside_the_model_or_below_is_read(tmp_path: Path) -> None:
    for location in ("weights.bin", "parts/weights.bin"):
        put(tmp_path / location, b"head" + WEIGHT.tobytes())
        model = read(with_external_data(tmp_path, location, offset=4))
        np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHT)
        assert not model.graph.initializer[0].external_data


@pytest.mark.parametrize(
    "location", ["../secret.bin", "{outside}/secret.bin", "parts/../../secret.bin", "a\\b", "", "c:x"]
)
def test_data_elsewhere_is_not_opened(tmp_path: Path, location: str) -> None:
    put(tmp_path / "secret.bin", WEIGHT.tobytes())
    path = with_external_data(tmp_path / "model", location.format(outside=tmp_path))
    with pytest.raises(ImportRefused, match="expected a file in the model's own folder"):
        read(path)


@pytest.mark.parametrize("linked", ["weights.bin", "parts"])
def test_links_are_not_followed(tmp_path: Path, linked: str) -> None:
    put(tmp_path / "elsewhere" / "weights.bin", WEIGHT.tobytes())
    (tmp_path / "model").mkdir()
    if linked == "parts":
        (tmp_path / "model" / "parts").symlink_to(tmp_path / "elsewhere")
        location = "parts/weights.bin"
    else:
        (tmp_path / "model" / "weights.bin").symlink_to(tmp_path / "elsewhere" / "weights.bin")
        location = "weights.bin"
    with pytest.raises(ImportRefused, match="is a link"):
        read(with_external_data(tmp_path / "model", location))


@pytest.mark.parametrize(
    ("offset", "length"), [(1, None), (-1, None), (0, 20), (0, 10**12), (10**12, None)], ids=lambda v: str(v)
)
def test_data_that_is_not_all_there_is_refused(tmp_path: Path, offset: int, length: int | None) -> None:
    put(tmp_path / "weights.bin", WEIGHT.tobytes())
    with pytest.raises(ImportRefused, match="doesn't hold them where the model says"):
        read(with_external_data(tmp_path, "weights.bin", offset=offset, length=length))


def test_data_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"'weights\.bin', the model's data, isn't beside it"):
        read(with_external_data(tmp_path, "weights.bin"))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02.")


def damaged(path: Path) -> None:
    good = helper.make_model(helper.make_graph([], "g", [], []))
    path.write_bytes(good.SerializeToString()[:-3] + b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(pickle.dumps({"w": [1.0]})), "is a pickle.*safetensors.*ONNX"),
        (zipped, "is a zip archive, as torch.save.*safetensors.*ONNX"),
        (lambda path: path.write_text("hello"), "is no ONNX model"),
        (lambda path: path.write_bytes(b""), "is no ONNX model"),
        (damaged, "is no ONNX model"),
        (lambda path: None, "is no file"),
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "model.pt"
    make(path)
    with pytest.raises(ImportRefused, match=said):
        read(path)


def test_flipped_bits_are_refused_or_still_a_model(tmp_path: Path) -> None:
    """Whatever a damaged file holds, reading it is a sentence or a model, never another error."""
    put(tmp_path / "weights.bin", WEIGHT.tobytes())
    path = with_external_data(tmp_path, "weights.bin")
    whole = bytearray(path.read_bytes())
    refused = 0
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 0x55
        path.write_bytes(flipped)
        try:
            assert isinstance(read(path), onnx.ModelProto)
        except ImportRefused:
            refused += 1
    assert refused > len(whole) / 3
