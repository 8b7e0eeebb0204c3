"""What tests of several files need of this machine: namespaces for containers, and an S3 to copy models to."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s.s3 import BUCKET, PYTHON, S3, s3_server


@pytest.fixture(scope="session")
def allowed() -> None:
    """Namespaces and mounts, which root may make."""
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip("namespaces can't be made here (root may): the containers' commands were not run")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server on loopback, whoever asks it."""
    if not PYTHON.exists():
        pytest.skip("there is no .venv-s3, which ./setup.sh test makes: copies to S3 were not tried")
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as server:
        yield server


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An address in the server's bucket that no other test uses, and the environment in which it is reached."""
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_CONDITIONAL_PUT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"
