"""`python -m tidegate.retraining_run`: a training Job's folder of runs, and the end of those of Jobs long over.

A run goes on only with the data that it began with, so a Job that is to learn from new data can't go on with the run of
the Job before it: each has a folder of its own, named after it, and a pod that comes back finds its Job's. This is the
command of an init container: it makes the folder, and of those beside it keeps the last few, so that a model that is
retrained for years doesn't fill the volume. It removes only what it made, never what a process still trains in.

Exit codes: 0 done, 1 the folder can't be made, 2 wrong arguments.
"""

import argparse
import fcntl
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

MARKER = ".job"  # in each folder that was made here; its time is that of the Job's last start
NUM_KEPT = 3
_ASIDE = ".removed-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the folder and tidy up beside it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tidegate.retraining_run", description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="the Job's folder of runs; beside it are other Jobs'")
    parser.add_argument("--keep", type=int, default=NUM_KEPT, help="folders to keep, the Job's own among them")
    options = parser.parse_args(arguments)
    if options.keep < 1:
        parser.error(f"expected to keep 1 folder or more, the Job's own, got {options.keep}")
    try:
        begin(options.runs)
    except OSError as exc:
        sys.stderr.write(f"{options.runs} can't be made: {exc.strerror or exc}\n")
        return 1
    try:
        for name in tidy(options.runs, options.keep):
            sys.stdout.write(f"removed the runs of {name}: the last {options.keep} are kept\n")
    except OSError as exc:  # the next Job tries again
        sys.stderr.write(f"old runs beside {options.runs} can't be removed: {exc.strerror or exc}\n")
    return 0


def begin(runs: Path) -> None:
    """Make a Job's folder of runs; one that is there already is that of the Job's pod before this one."""
    runs.mkdir(parents=True, exist_ok=True)
    (runs / MARKER).touch()


def tidy(runs: Path, keep: int) -> list[str]:
    """Remove the folders beside `runs` that `begin` made, all but the `keep` - 1 whose Jobs started last; their names.

    One in which a process trains stays, and goes when a later Job begins.
    """
    for left in runs.parent.glob(f"{_ASIDE}*"):  # by someone who was killed
        shutil.rmtree(left)
    marked = [marker.parent for marker in runs.parent.glob(f"*/{MARKER}") if marker.parent != runs]
    others = sorted(marked, key=lambda folder: (folder / MARKER).stat().st_mtime_ns, reverse=True)
    return [folder.name for folder in others[keep - 1 :] if _removed(folder)]


def _removed(folder: Path) -> bool:
    aside = folder.with_name(f"{_ASIDE}{folder.name}")
    with _free(folder) as free:
        if not free:
            return False
        folder.rename(aside)  # from here on a Job of that name begins anew
    shutil.rmtree(aside)
    return True


@contextmanager
def _free(folder: Path) -> Iterator[bool]:
    """Whether no process has one of the folder's runs open; none can open one meanwhile, by the lock that they hold."""
    with ExitStack() as held:
        try:
            for path in folder.glob("*/lock"):
                fcntl.flock(held.enter_context(path.open("a")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


if __name__ == "__main__":
    sys.exit(main())
