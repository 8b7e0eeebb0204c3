"""Which Triton runs on this machine, and what it needs to run.

Production gives NVIDIA's binary, by argument or on PATH. A laptop has the wheel `nvidia-pytriton` in a virtual
environment of its own. The wheel's Triton needs three things: its libraries on LD_LIBRARY_PATH, a backend folder whose
`python/` holds the stub of the environment's Python, and that environment first on PATH, so that the stub finds it.
Our `onnxruntime` backend goes into the same folder, in the place of the C++ backend that NVIDIA's container has.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from serving.error import RuntimeNotFound

DEFAULT_VENV = Path(".venv-triton")
BINARY_NAME = "tritonserver"

_LDD_TIMEOUT_S = 20.0
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A Triton ready to be started: its binary, and the arguments and environment that belong to it."""

    binary: Path
    description: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    uses_stubs: bool = False


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """The parts of `nvidia-pytriton` in a virtual environment."""

    venv: Path
    python: str
    site_packages: Path

    @property
    def server(self) -> Path:
        """Folder of binary, backends and stubs."""
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def binary(self) -> Path:
        """Triton itself."""
        return self.server / "bin" / BINARY_NAME

    @property
    def stub(self) -> Path:
        """The process in which a model of the Python backend runs, for this environment's Python."""
        return self.server / "python_backend_stubs" / self.python / _STUB

    def version(self, package: str) -> str | None:
        """Installed version of a package, by its metadata folder's name."""
        for info in self.site_packages.glob(f"{package}-*.dist-info"):
            return info.name.removesuffix(".dist-info").partition("-")[2]
        return None


def find(state_dir: Path, *, binary: Path | None = None, venv: Path | None = None) -> Runtime:
    """The Triton of this machine: the given binary, the given environment, PATH, `./.venv-triton`, in this order.

    For the wheel, `state_dir/backends` is made anew. Raises RuntimeNotFound with what to do.
    """
    located = locate(binary=binary, venv=venv)
    if isinstance(located, Path):
        return Runtime(binary=located, description=f"Triton's binary {located}")
    return _prepare(located, state_dir / "backends")


def describe(*, binary: Path | None = None, venv: Path | None = None) -> str:
    """One sentence on what `find` would use; nothing is written. Raises RuntimeNotFound."""
    located = locate(binary=binary, venv=venv)
    return f"Triton's binary {located}" if isinstance(located, Path) else _describe(located)


def locate(*, binary: Path | None = None, venv: Path | None = None) -> Path | Wheel:
    """A binary, or the wheel's parts, checked to be complete; raises RuntimeNotFound."""
    if binary is not None:
        if not (binary.is_file() and os.access(binary, os.X_OK)):
            raise RuntimeNotFound(f"expected Triton's binary at {binary}, there is no executable file")
        return binary.absolute()
    if venv is None and (on_path := shutil.which(BINARY_NAME)):
        return Path(on_path)
    return _wheel(venv or DEFAULT_VENV)


def _wheel(venv: Path) -> Wheel:
    found = sorted(venv.absolute().glob(f"lib/python3.*/site-packages/pytriton/tritonserver/bin/{BINARY_NAME}"))
    if not found:
        raise RuntimeNotFound(
            f"no Triton found: no binary given, none on PATH, no wheel in {venv}; `make setup` makes one"
        )
    site_packages = found[0].parents[3]
    wheel = Wheel(
        venv=venv.absolute(), python=site_packages.parent.name.removeprefix("python"), site_packages=site_packages
    )
    if not wheel.stub.is_file():
        raise RuntimeNotFound(f"the Triton wheel in {venv} has no stub for Python {wheel.python}, which {venv} uses")
    numpy = wheel.version("numpy")
    if numpy is None or not numpy.startswith("1."):
        raise RuntimeNotFound(f"Triton's Python stub needs numpy<2 in {venv}, found {numpy}; install 'numpy<2' there")
    if wheel.version("onnxruntime") is None:
        raise RuntimeNotFound(f"the onnxruntime backend needs onnxruntime in {venv}; install it there")
    return wheel


def _describe(wheel: Wheel) -> str:
    return (
        f"Triton from nvidia-pytriton {wheel.version('nvidia_pytriton')} in {wheel.venv} "
        f"(Python {wheel.python}, onnxruntime {wheel.version('onnxruntime')}, CPU)"
    )


def _prepare(wheel: Wheel, backends: Path) -> Runtime:
    environment = _environment(wheel)
    for program in (wheel.binary, wheel.stub):
        _check_libraries(program, environment)
    shutil.rmtree(backends, ignore_errors=True)
    python = backends / "python"
    shutil.copytree(wheel.server / "backends" / "python", python, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(wheel.stub, python / _STUB)
    ours = backends / "onnxruntime"
    ours.mkdir()
    source = resources.files("serving") / "backends" / "onnxruntime" / "model.py"
    (ours / "model.py").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return Runtime(
        binary=wheel.binary,
        description=_describe(wheel),
        arguments=(f"--backend-directory={backends.absolute()}", "--allow-gpu-metrics=false"),
        environment=environment,
        uses_stubs=True,
    )


def _environment(wheel: Wheel) -> dict[str, str]:
    """Our own environment, turned to the wheel's virtual environment."""
    libraries = [str(wheel.site_packages / "nvidia_pytriton.libs")]
    if shared := _python_library_dir(wheel):
        libraries.insert(0, str(shared))
    if inherited := os.environ.get("LD_LIBRARY_PATH"):
        libraries.append(inherited)
    dropped = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
    return {key: value for key, value in os.environ.items() if key not in dropped} | {
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": os.pathsep.join([str(wheel.venv / "bin"), os.environ.get("PATH", os.defpath)]),
        "VIRTUAL_ENV": str(wheel.venv),
        # numpy in a stub only moves tensors: its own thread pools would only cost memory and start time.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _python_library_dir(wheel: Wheel) -> Path | None:
    """Where the environment's base Python keeps its shared library; a system's one may be another patch release."""
    for line in (wheel.venv / "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home":
            folder = Path(value.strip()).parent / "lib"
            return folder if (folder / f"libpython{wheel.python}.so.1.0").is_file() else None
    return None


def _check_libraries(program: Path, environment: Mapping[str, str]) -> None:
    """Name what the dynamic linker would miss: better here than as an exit code of Triton."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return
    shown = subprocess.run(
        [ldd, str(program)], env=environment, capture_output=True, text=True, timeout=_LDD_TIMEOUT_S, check=False
    )
    missing = [line.strip() for line in (shown.stdout + shown.stderr).splitlines() if "not found" in line]
    if missing:
        raise RuntimeNotFound(
            f"{program.name} can't run here: {'; '.join(missing)} (it needs Linux x86-64, glibc 2.35 or newer, and the "
            "shared library of Python)"
        )
