"""What the figures were taken on: without it they say nothing."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from bench.error import ServerError
from contract.document import Document

DISTRIBUTIONS = ("tidegate", "fastapi", "uvicorn", "grpcio", "orjson", "numpy", "pillow", "onnxruntime")


class Machine(Document):
    """One machine at one time."""

    date: str
    processor: str
    num_cores: int
    memory_gib: int
    system: str
    versions: dict[str, str]


def this_machine() -> Machine:
    """The one we run on, today."""
    return Machine(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        processor=_field(Path("/proc/cpuinfo"), "model name"),
        num_cores=len(os.sched_getaffinity(0)),
        memory_gib=round(int(_field(Path("/proc/meminfo"), "MemTotal").split()[0]) / 2**20),
        system=f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}",
        versions={
            "Python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in DISTRIBUTIONS},
            "wrk": _first_line("wrk", "--version").split()[1],
            "h2load": _first_line("h2load", "--version").partition("/")[2],
        },
    )


def resident_mib(pid: int) -> list[float]:
    """Resident memory of a process, then of each of its descendants; raises ServerError when it has ended."""
    try:
        own = int(_field(Path(f"/proc/{pid}/status"), "VmRSS").split()[0]) / 1024
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ValueError):  # gone, or a zombie, which has no memory
        raise ServerError(f"process {pid}, which was to be measured, has ended") from None
    return [own, *(mib for child in children for mib in resident_mib(int(child)))]


def _field(file: Path, name: str) -> str:
    """The value behind `name:` in a file of /proc; `unknown` where there is none."""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _first_line(*command: str) -> str:
    # wrk prints its version and exits with 1.
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout or done.stderr).partition("\n")[0]
