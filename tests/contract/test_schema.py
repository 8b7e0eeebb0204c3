import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contract import Contract, ContractInvalid, ContractNotFound, DigestMismatch, Repository, json_schema
from contract.digest import verify
from contract.repository import CONFIG_FILE, withdrawn_line
from contract.schema import Artifact, AxisRange, ClassificationPostprocess, Column, TensorSpec


def test_a_saved_contract_loads_to_the_same_contract(tiny_repository: Repository) -> None:
    contract = tiny_repository.contract("tiny", 1, verified=True)
    assert contract == Contract.load(tiny_repository.version_dir("tiny", 1))
    assert contract == Contract.model_validate_json(contract.model_dump_json())
    assert tiny_repository.latest("tiny") == contract
    assert tiny_repository.models() == ["tiny"]
    assert tiny_repository.versions("tiny") == [1]


def test_a_missing_contract_is_named(tiny_repository: Repository) -> None:
    with pytest.raises(ContractNotFound, match=r"tiny/7/contract\.json doesn't exist"):
        tiny_repository.contract("tiny", 7)
    with pytest.raises(ContractNotFound, match="'nothing' has no published version"):
        tiny_repository.latest("nothing")


def test_the_newest_version_is_one_that_has_a_contract_and_is_not_withdrawn(
    tiny_repository: Repository, make_version: Any
) -> None:
    for version in (2, 3):
        make_version(tiny_repository.root, version=version)
    tiny_repository.version_dir("tiny", 4).mkdir()  # holds nothing yet
    config = tiny_repository.root / "tiny" / CONFIG_FILE
    config.write_text(withdrawn_line({1, 3}) + config.read_text())
    assert tiny_repository.versions("tiny") == [1, 2, 3, 4]
    assert tiny_repository.servable("tiny") == [2]
    assert tiny_repository.latest("tiny").version == 2
    assert tiny_repository.servable("nothing") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"surprise": 1}, "surprise"),
        ({"name": "../etc"}, "name"),
        ({"version": 0}, "version"),
        ({"batch": {"min": 4, "opt": 2, "max": 8}}, "min <= opt <= max"),
        ({"outputs": [{"name": "logits", "datatype": "FP32", "shape": [4]}]}, "3 labels"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [9, 8, 1]}]}, "image preprocessing makes UINT8"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 1]}]}, "every dynamic axis needs a range"),
        ({"schema_version": 2}, "schema_version"),
        ({"batched": False}, "takes one sample a request"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(
    tiny_repository: Repository, change: dict[str, Any], said: str
) -> None:
    folder = tiny_repository.version_dir("tiny", 1)
    document = json.loads((folder / "contract.json").read_text()) | change
    (folder / "contract.json").write_text(json.dumps(document))
    with pytest.raises(ContractInvalid, match=said):
        Contract.load(folder)


def test_a_contract_of_another_version_is_refused(tiny_repository: Repository) -> None:
    folder = tiny_repository.version_dir("tiny", 1)
    folder.rename(folder.with_name("2"))
    with pytest.raises(ContractInvalid, match="is the contract of tiny version 1"):
        tiny_repository.contract("tiny", 2)


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove", "link"])
def test_every_damaged_file_is_named(tiny_repository: Repository, damage: str, tmp_path: Path) -> None:
    contract = tiny_repository.contract("tiny", 1)
    folder = tiny_repository.version_dir("tiny", 1)
    model = folder / "model.onnx"
    data = model.read_bytes()
    model.unlink()
    if damage == "flip":
        model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "shorten":
        model.write_bytes(data[:-1])
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        model.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DigestMismatch, match=r"tiny/1/model\.onnx"):
        verify(contract, folder)


@pytest.mark.parametrize("path", ["../model.onnx", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_an_artifact_stays_in_its_folder(path: str) -> None:
    with pytest.raises(ValidationError):
        Artifact(path=path, role="model", sha256="0" * 64, size_bytes=1)


def test_bounds_fill_in_the_fixed_axes() -> None:
    spec = TensorSpec(name="ids", datatype="INT64", shape=(-1, 4), ranges=(AxisRange(min=1, opt=16, max=128),))
    assert spec.bounds() == (AxisRange(min=1, opt=16, max=128), AxisRange(min=4, opt=4, max=4))


def test_the_published_schema_is_the_codes() -> None:
    published = Path(__file__).parents[2] / "docs" / "contract.schema.json"
    assert json.loads(published.read_text()) == json_schema(), "run: make docs"


def test_labels_that_the_profile_keeps_for_itself_are_refused() -> None:
    for label in ("other", "missing", "", "x" * 300):
        with pytest.raises(ValidationError):
            ClassificationPostprocess(tensor="logits", labels=("a", label))
        with pytest.raises(ValidationError):
            Column(name="c", kind="category", categories=("a", label))
