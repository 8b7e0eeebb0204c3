import os
from collections.abc import Callable
from pathlib import Path

import pytest

from contract import Contract, Repository
from contract.digest import sha256_of
from contract.passport import InputProfile, Passport
from contract.schema import AxisRange
from serving.published import Published, examine, look

MakeVersion = Callable[..., Contract]


def look_at(repository: Repository, name: str = "tiny", before: Published | None = None) -> Published:
    published = look(repository, name, before)
    assert published is not None
    return published


def write_policy(repository: Repository, policy: str) -> None:
    (repository.root / "tiny" / "config.pbtxt").write_text(f'name: "tiny" max_batch_size: 8 {policy}')


def test_a_version_whose_files_are_right_is_accepted(tiny_repository: Repository) -> None:
    examined = examine(tiny_repository, look_at(tiny_repository))
    contract = tiny_repository.version_dir("tiny", 1) / "contract.json"
    assert examined.accepted == {1: sha256_of(contract)}
    assert examined.refused == {}


def test_a_changed_file_is_refused_and_named_and_others_are_accepted(
    tiny_repository: Repository, make_version: MakeVersion
) -> None:
    make_version(tiny_repository.root, version=2)
    model = tiny_repository.version_dir("tiny", 2) / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    examined = examine(tiny_repository, look_at(tiny_repository))
    assert list(examined.accepted) == [1]
    assert examined.refused[2].startswith("tiny/2/model.onnx: expected sha256 ")


def test_a_contract_that_is_none_is_refused(tiny_repository: Repository) -> None:
    (tiny_repository.version_dir("tiny", 1) / "contract.json").write_text("{}")
    refused = examine(tiny_repository, look_at(tiny_repository)).refused
    assert refused[1].startswith("tiny/1/contract.json is not a valid contract")


def test_a_version_without_contract_is_known_by_its_files(tiny_repository: Repository) -> None:
    folder = tiny_repository.version_dir("tiny", 1)
    (folder / "contract.json").unlink()
    before = examine(tiny_repository, look_at(tiny_repository)).accepted
    (folder / "model.onnx").write_bytes(b"another")
    after = examine(tiny_repository, look_at(tiny_repository)).accepted
    assert before.keys() == after.keys() == {1}
    assert before != after


def test_a_named_version_without_folder_is_refused(tiny_repository: Repository) -> None:
    write_policy(tiny_repository, "version_policy { specific { versions: [1, 9] } }")
    examined = examine(tiny_repository, look_at(tiny_repository))
    assert list(examined.accepted) == [1]
    assert examined.refused == {9: "config.pbtxt names it, and there is no such folder"}


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", (3,)),
        ("version_policy { latest { num_versions: 2 } }", (2, 3)),
        ("version_policy { all { } }", (1, 2, 3)),
        ("version_policy { specific { versions: [3, 1] } }", (1, 3)),
    ],
)
def test_the_policy_names_versions(
    tiny_repository: Repository, make_version: MakeVersion, policy: str, versions: tuple[int, ...]
) -> None:
    for version in (2, 3):
        make_version(tiny_repository.root, version=version)
    write_policy(tiny_repository, policy)
    assert look_at(tiny_repository).named_versions == versions


def test_looking_again_parses_nothing_and_sees_no_change(tiny_repository: Repository) -> None:
    first = look_at(tiny_repository)
    again = look_at(tiny_repository, before=first)
    assert again == first
    assert again.config is first.config


def test_looking_again_sees_a_changed_file_and_a_new_version(
    tiny_repository: Repository, make_version: MakeVersion
) -> None:
    first = look_at(tiny_repository)
    os.utime(tiny_repository.version_dir("tiny", 1) / "model.onnx", ns=(1, 1))
    touched = look_at(tiny_repository, before=first)
    assert touched.stamp != first.stamp
    make_version(tiny_repository.root, version=2)
    assert look_at(tiny_repository, before=touched).named_versions == (1, 2)


def test_a_model_that_is_gone_is_none(tiny_repository: Repository) -> None:
    assert look(tiny_repository, "other") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [("max_batch_size: {", "config.pbtxt can't be read: "), ('name: "other"', "config.pbtxt is the config of 'other'")],
)
def test_a_config_that_is_none_is_a_problem(tiny_repository: Repository, text: str, problem: str) -> None:
    (tiny_repository.root / "tiny" / "config.pbtxt").write_text(text)
    published = look_at(tiny_repository)
    assert published.config is None
    assert (published.problem or "").startswith(problem)


def make_engine(folder: Path, builder: str, max_error: float | None) -> None:
    (folder / "model.plan").write_bytes(b"engine")
    Passport.model_validate(
        {
            "engine": "model.plan",
            "engine_sha256": sha256_of(folder / "model.plan"),
            "engine_size_bytes": 6,
            "onnx_sha256": sha256_of(folder / "model.onnx"),
            "builder": builder,
            "builder_version": "10.9.0",
            "compute_capabilities": ("8.6",),
            "profile": (InputProfile(name="image", axes=(AxisRange(min=1, opt=4, max=8),)),),
            "max_error": max_error,
            "created_at": "2026-01-01T00:00:00+00:00",
            "build_time_s": 1,
        }
    ).save(folder)


@pytest.mark.parametrize(
    ("builder", "max_error", "node", "reason"),
    [
        ("tensorrt", 1e-6, None, None),
        ("tensorrt", 1e-6, ("tensorrt", "10.9.1", "8.6"), None),
        ("tensorrt", 1e-6, ("tensorrt", "11.4", "8.9"), "built for sm_86 with tensorrt 10.9.0; this node is sm_89"),
        ("tensorrt", None, None, "model.plan was never run beside its graph"),
        ("tensorrt", 1e-3, None, "model.plan strays by 1.0e-03 from its graph; FP32 may by 0.0001"),
        ("tensorrt-rtx", None, None, "its engine was built with tensorrt-rtx; Triton loads engines of tensorrt only"),
    ],
)
def test_an_engine_is_loaded_by_its_passport(
    tiny_repository: Repository,
    builder: str,
    max_error: float | None,
    node: tuple[str, str, str] | None,
    reason: str | None,
) -> None:
    write_policy(tiny_repository, 'platform: "tensorrt_plan"')
    make_engine(tiny_repository.version_dir("tiny", 1), builder, max_error)
    examined = examine(tiny_repository, look_at(tiny_repository), node)
    if reason is None:
        assert list(examined.accepted) == [1]
    else:
        assert examined.refused[1].startswith(reason)


def test_an_engine_without_passport_is_refused(tiny_repository: Repository) -> None:
    write_policy(tiny_repository, 'platform: "tensorrt_plan"')
    assert examine(tiny_repository, look_at(tiny_repository)).refused == {1: "tiny/1 has no passport.json"}
