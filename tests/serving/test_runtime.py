import os
from pathlib import Path

import pytest

from serving.error import RuntimeNotFound
from serving.runtime import BINARY_NAME, describe, find, locate

HERE = Path(__file__).resolve().parents[2]
needs_wheel = pytest.mark.skipif(
    not (HERE / ".venv-triton" / "pyvenv.cfg").is_file(), reason="there is no .venv-triton with the Triton wheel"
)


def make_venv(
    root: Path, python: str = "3.11", numpy: str | None = "1.26.4", onnxruntime: str | None = "1.22.0"
) -> Path:
    """The skeleton of an environment with the wheel in it."""
    site_packages = root / "lib" / f"python{python}" / "site-packages"
    server = site_packages / "pytriton" / "tritonserver"
    for file in (server / "bin" / BINARY_NAME, server / "python_backend_stubs" / "3.11" / "triton_python_backend_stub"):
        file.parent.mkdir(parents=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    for name, version in (("numpy", numpy), ("onnxruntime", onnxruntime), ("nvidia_pytriton", "0.7.0")):
        if version:
            (site_packages / f"{name}-{version}.dist-info").mkdir()
    (root / "pyvenv.cfg").write_text("home = /nowhere/bin\n")
    return root


def test_a_given_binary_wins(tmp_path: Path) -> None:
    binary = tmp_path / "triton"
    binary.touch(mode=0o755)
    assert locate(binary=binary) == binary
    assert str(binary) in describe(binary=binary)
    runtime = find(tmp_path / "state", binary=binary)
    assert runtime.binary == binary
    assert runtime.arguments == ()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("mode", [None, 0o644])
def test_a_given_binary_that_is_none_is_named(tmp_path: Path, mode: int | None) -> None:
    binary = tmp_path / "triton"
    if mode is not None:
        binary.touch(mode=mode)
    with pytest.raises(RuntimeNotFound, match=f"expected Triton's binary at {binary}"):
        locate(binary=binary)


def test_path_comes_before_the_default_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / BINARY_NAME
    binary.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert locate() == binary


def test_nothing_found_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeNotFound, match=r"no Triton found.*make setup"):
        locate()


def test_the_default_environment_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    make_venv(tmp_path / ".venv-triton")
    assert describe() == (
        f"Triton from nvidia-pytriton 0.7.0 in {tmp_path / '.venv-triton'} (Python 3.11, onnxruntime 1.22.0, CPU)"
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"numpy": "2.1.0"}, "needs numpy<2 .* found 2.1.0"),
        ({"numpy": None}, "needs numpy<2 .* found None"),
        ({"onnxruntime": None}, "needs onnxruntime"),
        ({"python": "3.14"}, "no stub for Python 3.14"),
    ],
)
def test_an_incomplete_environment_is_named(tmp_path: Path, fault: dict[str, str | None], message: str) -> None:
    venv = make_venv(tmp_path / "venv", **fault)  # type: ignore[arg-type]
    with pytest.raises(RuntimeNotFound, match=message):
        locate(venv=venv)


@needs_wheel
def test_the_wheel_is_made_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    runtime = find(tmp_path, venv=HERE / ".venv-triton")
    backends = tmp_path / "backends"
    assert f"--backend-directory={backends}" in runtime.arguments
    assert os.access(backends / "python" / "triton_python_backend_stub", os.X_OK)
    assert (backends / "python" / "libtriton_python.so").is_file()
    ours = (backends / "onnxruntime" / "model.py").read_text()
    assert ours == (HERE / "serving/backends/onnxruntime/model.py").read_text()
    assert runtime.environment["PATH"].startswith(f"{HERE / '.venv-triton' / 'bin'}{os.pathsep}")
    assert "nvidia_pytriton.libs" in runtime.environment["LD_LIBRARY_PATH"]
    assert "PYTHONPATH" not in runtime.environment
    assert find(tmp_path, venv=HERE / ".venv-triton") == runtime


@needs_wheel
def test_a_missing_library_is_named(tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "venv")
    binary = next(venv.glob(f"lib/*/site-packages/pytriton/tritonserver/bin/{BINARY_NAME}"))
    real = next((HERE / ".venv-triton").glob(f"lib/*/site-packages/pytriton/tritonserver/bin/{BINARY_NAME}"))
    binary.write_bytes(real.read_bytes())  # without the libraries beside it
    with pytest.raises(RuntimeNotFound, match=r"tritonserver can't run here: .*libtritonserver.* not found"):
        find(tmp_path / "state", venv=venv)
