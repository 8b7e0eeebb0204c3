"""KServe's own Python clients, unchanged, against the gateway; they live in an environment of their own."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.golden import Golden

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PYTHON = Path(__file__).resolve().parents[2] / ".venv-kserve" / "bin" / "python"
SCRIPT = Path(__file__).with_name("kserve_client.py")
TIMEOUT_S = 120  # the first import compiles the package


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_version: Any) -> Path:
    """A repository with `tiny` version 1."""
    root = tmp_path_factory.mktemp("kserve") / "model_repository"
    make_version(root)
    return root


@pytest.fixture(scope="module")
def golden(root: Path) -> Golden:
    return Golden.load(root / "tiny" / "1")


@pytest.fixture(scope="module")
def said(root: Path, golden: Golden, stack_over: Any) -> Any:
    """What the clients said of a whole stack."""
    if not PYTHON.exists():
        pytest.fail("expected KServe's client in .venv-kserve and there is none; run ./setup.sh test", pytrace=False)
    tensor = {"name": "image", "datatype": "UINT8", "data": golden.inputs["image"].tolist()}
    with stack_over(root, root.parent / "run") as stack:
        stack.wait_for("tiny")
        done = subprocess.run(
            [PYTHON, SCRIPT, stack.url, f"127.0.0.1:{stack.ports.grpc}", "tiny", json.dumps(tensor)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=os.environ | {"no_proxy": "127.0.0.1"},
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_health(said: Any) -> None:
    for protocol in ("rest", "grpc"):
        assert [said[protocol][what] for what in ("live", "ready", "model_ready")] == [True, True, True]
    assert said["rest"]["unknown_ready"] is False


@pytest.mark.parametrize(
    ("protocol", "encoding"), [("rest", "json"), ("rest", "binary"), ("grpc", "typed"), ("grpc", "raw")]
)
def test_infer(said: Any, golden: Golden, protocol: str, encoding: str) -> None:
    answer = said[protocol][encoding]
    assert (answer["id"], answer["model"]) == ("kserve-1", "tiny")
    np.testing.assert_allclose(answer["logits"], golden.outputs["logits"], rtol=1e-5, atol=1e-5)
