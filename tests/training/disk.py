"""A script that publishes and goes back where the disk is full, or until it is killed.

    python disk.py full FOLDER       FOLDER is a small file system of its own: publish with little room left on it
    python disk.py limited FOLDER    publish where no file may be larger than a few bytes
    python disk.py rollback FOLDER   killed at every step of going back, each in its own repository

Each line it writes is: name, `intact` or `changed`, and what became of it.
"""

import os
import resource
import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from contract import Repository
from training import publication
from training.error import PublishFailed

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny.py"))))
ROLLBACK_STEPS = ("replace config", "done")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def attempt(name: object, root: Path) -> None:
    before = files(root)
    try:
        TINY.publish_in(root, None)
        became = "published"
    except PublishFailed as exc:
        became = str(exc)
    leftover = list(Repository(root).staging.glob("draft-*"))
    state = "intact" if files(root) == before and not leftover else "changed"
    sys.stdout.write(f"{name} {state} {became}\n")
    sys.stdout.flush()


def full(folder: Path) -> None:
    root, filler = folder / "models", folder / "filler"
    TINY.publish_in(root, None)
    page = os.statvfs(folder).f_frsize
    for pages in range(8):
        room = os.statvfs(folder).f_bavail - pages
        filler.write_bytes(bytes(room * page))
        attempt(pages, root)
        filler.unlink()
    attempt("end", root)


def limited(folder: Path) -> None:
    root = folder / "models"
    TINY.publish_in(root, None)
    for size_bytes in (5, 60, 500, 1_000):
        TINY.forked(partial(publish_limited, size_bytes, root))
    attempt("end", root)


def publish_limited(size_bytes: int, root: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
    attempt(size_bytes, root)


def rollback(folder: Path) -> None:
    for step in ROLLBACK_STEPS:
        root = folder / step.replace(" ", "-") / "models"
        for _ in range(2):
            TINY.publish_in(root, None)
        became = TINY.forked(partial(publication.rollback, Repository(root), "bands", step=partial(kill, step)))
        sys.stdout.write(f"{root.parent.name} {became}\n")
        sys.stdout.flush()


def kill(at: str, now: str) -> None:
    if now == at:
        os.kill(os.getpid(), 9)


if __name__ == "__main__":
    {"full": full, "limited": limited, "rollback": rollback}[sys.argv[1]](Path(sys.argv[2]))
