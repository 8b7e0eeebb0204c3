"""The keys of those who may ask a gateway: made, listed, revoked. The file holds their hashes alone."""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tidegate.error import CommandError
from tidegate.terminal import console

if TYPE_CHECKING:
    from gateway.access import ApiKey

FileOption = Annotated[Path, typer.Option("--file", help="The file that the gateway reads (TIDEGATE_API_KEYS).")]
FILE = Path("api.keys")

_LOCK_TIMEOUT_S = 10.0
_HEAD = "# name:sha256 of each key that may ask; no line, no access\n"


def new(
    name: Annotated[str, typer.Argument(help="Who is to have the key.")],
    file: FileOption = FILE,
    until: Annotated[str | None, typer.Option(help="The last day on which it is good: 2027-01-31 (UTC).")] = None,
) -> None:
    """Make a key, print it once, and put its hash into the file. A gateway takes it over within a second.

    Example: tidegate keys new team-search --until 2027-01-31
    """
    from gateway.access import new_key

    try:
        last_day = None if until is None else date.fromisoformat(until)
        text, key = new_key(name, last_day)
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    if last_day is not None and last_day < datetime.now(UTC).date():
        raise CommandError(f"expected a last day that isn't over, got {last_day}")
    with _edited(file) as lines:
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines += [f"{key.line()}\n"] if lines else [_HEAD, f"{key.line()}\n"]
    typer.echo(text)
    typer.echo(f"{name}'s key, shown this once; {file} holds its hash", err=True)


def revoke(
    name: Annotated[str, typer.Argument(help="Whose keys are to be good no more.")],
    file: FileOption = FILE,
) -> None:
    """Take all keys of a name out of the file. A gateway refuses them within a second.

    Example: tidegate keys revoke team-search
    """
    of = re.compile(rf"\s*{re.escape(name)}\s*:")
    with _edited(file, made=False) as lines:
        kept = [line for line in lines if of.match(line) is None]
        if (num := len(lines) - len(kept)) == 0:
            raise CommandError(f"{file} has no key of {name!r}")
        lines[:] = kept
    console.print(f"{num} key{'' if num == 1 else 's'} of {name} taken out of {file}")


def list_keys(file: FileOption = FILE) -> None:
    """Show who has keys, and until when they are good.

    Example: tidegate keys list
    """
    table = Table("name", "hash begins", "good until", box=None)
    today = datetime.now(UTC).date()
    for key in _read(file, file):
        over = key.last_day is not None and key.last_day < today
        table.add_row(
            key.name, key.digest.hex()[:12], f"{key.last_day or 'revoked'}{', which is over' if over else ''}"
        )
    console.print(table)


def _read(draft: Path, file: Path) -> "tuple[ApiKey, ...]":
    """What a gateway would read in a draft of the file; raises CommandError with what it would say."""
    from gateway.access import read_keys
    from gateway.key_file import KeyFileError

    try:
        return read_keys(draft)
    except KeyFileError as exc:
        raise CommandError(str(exc).replace(str(draft), str(file))) from exc


def _lock(folder: int) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


@contextmanager
def _edited(file: Path, *, made: bool = True) -> Iterator[list[str]]:
    """The file's lines, to be changed; then it is replaced in one step, by one that a gateway can read, or not at all.

    Owner, group and mode stay, and a link goes on leading to it. A file that isn't there is `made`.
    """
    file = file.resolve()
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            _lock(folder)  # two at once would bring back what the other took out
            there = file.exists() or not made
            lines = file.read_text("utf-8", "surrogateescape").splitlines(keepends=True) if there else []
            yield lines
            with draft.open("x", encoding="utf-8", errors="surrogateescape") as out:
                state = file.stat() if there else None
                os.fchmod(out.fileno(), 0o640 if state is None else state.st_mode & 0o7777)
                if state is not None and (state.st_uid, state.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(out.fileno(), state.st_uid, state.st_gid)
                out.write("".join(lines))
            _read(draft, file)
            draft.replace(file)
        finally:
            os.close(folder)
            with suppress(FileNotFoundError):
                draft.unlink()
    except OSError as exc:
        raise CommandError(f"{file}: the API keys can't be changed: {exc.strerror}") from exc
