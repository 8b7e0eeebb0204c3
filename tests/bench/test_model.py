import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.error import BenchError
from bench.loop import read_files
from bench.model import make_model
from bench.photo import photographs
from contract import Repository
from contract.image import decode
from contract.schema import ImagePreprocess


def test_photographs_are_different_files_of_one_size() -> None:
    files = photographs(3)
    assert len(set(files)) == 3
    assert photographs(3) == files
    for file in files:
        with Image.open(io.BytesIO(file)) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (640, 480), "RGB")
        assert 20_000 < len(file) < 150_000  # what a camera's picture of that size takes


@pytest.mark.parametrize("name", ["tiny", "photo"])
def test_made_models_are_whole_versions(tmp_path: Path, name: str) -> None:
    model = make_model(name, tmp_path, tmp_path)
    contract = Repository(tmp_path).contract(name, 1, verified=True)
    assert contract == model.contract
    assert model.scores.shape == (1, *contract.outputs[0].shape)
    assert f'name: "{name}"' in (tmp_path / name / "config.pbtxt").read_text()


def test_the_first_photograph_is_the_sample(tmp_path: Path) -> None:
    photo = make_model("photo", tmp_path, tmp_path)
    assert isinstance(photo.contract.preprocess, ImagePreprocess)
    assert np.array_equal(decode(photo.files[0], photo.contract.preprocess).pixels, photo.sample[0])
    assert photo.label == f"label {photo.scores.argmax()}"


def test_without_fashion_mnist_it_says_how_to_have_it(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"publish it with: \.venv/bin/tidegate train fashion-resnet"):
        make_model("fashion-mnist", tmp_path / "here", tmp_path / "there")


def test_files_are_taken_apart_as_they_were_put_together() -> None:
    files = [b"", b"one", b"\0" * 300]
    assert read_files(b"".join(len(file).to_bytes(4, "big") + file for file in files)) == files
