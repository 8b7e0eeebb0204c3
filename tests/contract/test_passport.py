from pathlib import Path
from typing import Any

import pytest

from contract.digest import sha256_of
from contract.error import ContractInvalid, ContractNotFound, DigestMismatch
from contract.passport import InputProfile, Passport
from contract.schema import AxisRange


def passport(folder: Path, **changes: Any) -> Passport:
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(b"engine")
    fields: dict[str, Any] = {
        "engine": "model.plan",
        "engine_sha256": sha256_of(folder / "model.plan"),
        "engine_size_bytes": 6,
        "onnx_sha256": "0" * 64,
        "builder": "tensorrt",
        "builder_version": "10.9.0",
        "compute_capabilities": ("8.6",),
        "profile": (InputProfile(name="x", axes=(AxisRange(min=1, opt=2, max=3),)),),
        "created_at": "2026-01-01T00:00:00+00:00",
        "build_time_s": 0.3,
    }
    return Passport(**(fields | changes))


def test_it_says_in_one_sentence_why_an_engine_does_not_fit(tmp_path: Path) -> None:
    engine = passport(tmp_path / "m" / "1")
    assert engine.misfit("tensorrt", "10.9.5", "8.6") is None
    assert engine.misfit("tensorrt", "11.4.0", "8.9") == (
        "built for sm_86 with tensorrt 10.9.0; this node is sm_89 with tensorrt 11.4.0"
    )
    ahead = passport(tmp_path / "m" / "2", builder="tensorrt-rtx")
    assert not ahead.triton_loadable
    assert ahead.misfit("tensorrt", "10.9.0", "8.6") == "built with tensorrt-rtx; this node runs tensorrt"


def test_an_engine_is_held_against_its_passport_before_it_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "1"
    with pytest.raises(ContractNotFound, match=r"m/1 has no passport\.json"):
        Passport.load(folder)
    saved = passport(folder)
    saved.save(folder)
    assert Passport.load(folder) == saved
    (folder / "model.plan").write_bytes(b"Engine")
    with pytest.raises(DigestMismatch, match="is not the engine its passport was written for"):
        Passport.load(folder)
    (folder / "passport.json").write_text("{}")
    with pytest.raises(ContractInvalid, match="not a valid passport"):
        Passport.load(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "model.plan was never run beside its graph, so nothing says that it answers the same"),
        ({"max_error": 1e-4}, None),
        ({"max_error": 2e-4}, "model.plan strays by 2.0e-04 from its graph; FP32 may by 0.0001"),
        ({"max_error": 2e-4, "precision": "FP16"}, None),
        ({"max_error": 6e-3, "precision": "FP16"}, "model.plan strays by 6.0e-03 from its graph; FP16 may by 0.005"),
        ({"max_error": 0.2, "precision": "INT8", "changed_ratio": 0.01}, None),
        (
            {"max_error": 0.2, "precision": "INT8", "changed_ratio": 0.0625},
            "model.plan changes 6.2% of what its graph answers; INT8 may change 1%",
        ),
        (
            {"max_error": 0.0, "precision": "INT8"},
            "model.plan is INT8, which is judged by what is answered, and its model decides nothing",
        ),
    ],
)
def test_what_was_measured_decides_whether_clients_are_answered_by_it(
    tmp_path: Path, changes: dict[str, Any], sentence: str | None
) -> None:
    assert passport(tmp_path / "m" / "1", **changes).doubt() == sentence


def test_the_bytes_that_are_deserialized_are_the_bytes_that_were_checked(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "1"
    saved = passport(folder)
    assert saved.read_engine(folder) == b"engine"
    (folder / "model.plan").write_bytes(b"fngine")
    with pytest.raises(DigestMismatch, match="is not the engine its passport was written for"):
        saved.read_engine(folder)


def test_a_passport_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "1"
    path = passport(folder, max_error=1e-6).save(folder)
    path.write_text(path.read_text().replace(' "changed_ratio": null,\n', ""))
    assert Passport.load(folder).changed_ratio is None
