"""What of the things that Tidegate uses is on this machine, and what that means."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing: what was found of it (None when it isn't here), and what follows."""

    name: str
    found: str | None
    meaning: str
    required: bool = False


def examine() -> list[Check]:
    """Look at this machine; nothing is changed or started."""
    return [*_host(), _gpu(), *_engines(), _torch(), _triton(), *_programs()]


def _host() -> Iterator[Check]:
    glibc = platform.libc_ver()[1]
    fits = platform.system() == "Linux" and platform.machine() == "x86_64"
    found = f"{platform.system()} {platform.machine()}, glibc {glibc}, {os.cpu_count()} cores"
    meaning = (
        "Triton's wheel runs here"
        if fits
        else "Triton's wheel needs Linux x86-64: use a Triton elsewhere, `python -m serving --address`"
    )
    yield Check("host", found if fits else None, meaning, required=True)


def _gpu() -> Check:
    from serving.gpu import find_gpu

    gpu = find_gpu()
    if gpu is None:
        return Check("GPU", None, "models are trained and served on the CPU")
    found = f"{gpu.name}, sm_{gpu.compute_capability.replace('.', '')}, driver {gpu.driver_version}"
    return Check("GPU", found, "torch with CUDA trains on it; a `tritonserver` on PATH serves on it: docs/engines.md")


def _engines() -> Iterator[Check]:
    """Both builders; which of them works here, and for what, is for the engine build itself to say."""
    from serving.engine import available

    yield Check("TensorRT", _installed("tensorrt"), "what builds the engines that Triton loads; it needs a GPU")
    yield Check("TensorRT-RTX", _installed("tensorrt-rtx-cu13"), available())


def _torch() -> Check:
    version = _installed("torch")
    return Check("torch", version, "recipes can be trained" if version else "no training; install tidegate[training]")


def _triton() -> Check:
    from serving import ServingError, runtime

    try:
        return Check("Triton", runtime.describe(), "models are served by the real Triton", required=True)
    except ServingError as exc:
        return Check("Triton", None, str(exc), required=True)


def _programs() -> Iterator[Check]:
    prometheus = _version_of("prometheus", "--version")
    yield Check(
        "Prometheus",
        prometheus,
        "metrics are scraped and rules evaluated" if prometheus else "`tidegate up` needs it: run `make setup`",
        required=True,
    )
    grafana = _version_of("grafana-server", "-v") or _version_of("grafana", "-v")
    yield Check(
        "Grafana",
        grafana,
        "`tidegate dashboards push` sends it the boards" if grafana else "the boards are files until one is there",
    )
    kubectl = _version_of("kubectl", "version", "--client")
    yield Check("kubectl", kubectl, "manifests can be applied" if kubectl else "needed only for a cluster")


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version_of(program: str, *arguments: str) -> str | None:
    """First line of what a program says of itself."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        said = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (said.stdout or said.stderr).strip().splitlines()
    return lines[0].partition(" (")[0] if lines else path
