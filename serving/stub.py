"""Notices when the process of a Python-backend model died while Triton lives.

Triton goes on calling such a model ready and answers "Stub process is not healthy" to every request, for good. Only
loading it anew helps. Triton's dead children stay zombies until then, which is how they are found, through /proc.
"""

from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_STUB = "triton_python_backend_stub"


class StubWatch:
    """Remembers which child of Triton runs which model, because a zombie has no command line any more."""

    def __init__(self) -> None:
        self._models: dict[int, str] = {}
        self._suspects: set[int] = set()
        self._told: set[int] = set()

    def dead_models(self, triton_pid: int, served: Iterable[str]) -> set[str]:
        """Which of the served models have a process that was dead both now and the time before; each is told once.

        One that is being unloaded is dead only briefly. A process that was never seen alive belonged to a model that
        has none alive now.
        """
        children = _children(triton_pid)
        zombies = {pid for pid in children if _is_zombie(pid)}
        for pid in children - zombies - self._models.keys():
            if model := _model_of(pid):
                self._models[pid] = model
        self._models = {pid: model for pid, model in self._models.items() if pid in children}
        confirmed = (zombies & self._suspects) - self._told
        self._suspects, self._told = zombies, (self._told | confirmed) & zombies
        if confirmed <= self._models.keys():
            return {self._models[pid] for pid in confirmed} & set(served)
        alive = {model for pid, model in self._models.items() if pid not in zombies}
        return set(served) - alive


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for file in _PROC.glob(f"{pid}/task/*/children"):
        found.update(map(int, _read(file).split()))
    return found


def _is_zombie(pid: int) -> bool:
    return _read(_PROC / str(pid) / "stat").rpartition(")")[2].split()[:1] == ["Z"]


def _model_of(pid: int) -> str | None:
    """The stub's first argument is `<repository>/<model>/<version>/<file>`."""
    program, *arguments = _read(_PROC / str(pid) / "cmdline").split("\0")
    parts = Path(arguments[0]).parts if arguments else ()
    return parts[-3] if Path(program).name == _STUB and len(parts) > 3 else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it ended meanwhile
        return ""
