"""The keys of those who may ask a gateway: made, listed, revoked. The file holds their hashes alone."""

import os
import re
from datetime import UTC, date, datetime
from math import inf
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tidegate.error import CommandError
from tidegate.terminal import console

FileOption = Annotated[Path, typer.Option("--file", help="The file that the gateway reads (TIDEGATE_API_KEYS).")]
FILE = Path("api.keys")

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
        text, key = new_key(name, None if until is None else date.fromisoformat(until))
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    lines = _lines(file) if file.exists() else [_HEAD]
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    _write(file, [*lines, f"{key.line()}\n"])
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
    lines = _lines(file)
    kept = [line for line in lines if of.match(line) is None]
    if len(kept) == len(lines):
        raise CommandError(f"{file} has no key of {name!r}")
    _write(file, kept)
    num = len(lines) - len(kept)
    console.print(f"{num} key{'' if num == 1 else 's'} of {name} taken out of {file}")


def list_keys(file: FileOption = FILE) -> None:
    """Show who has keys, and until when they are good.

    Example: tidegate keys list
    """
    from gateway.access import read_keys
    from gateway.key_file import KeyFileError

    try:
        keys = read_keys(file)
    except KeyFileError as exc:
        raise CommandError(str(exc)) from exc
    table = Table("name", "hash begins", "good until", box=None)
    now = datetime.now(UTC).timestamp()
    for key in keys:
        _, _, last = key.line().partition(" until ")
        over = key.until_unix_s != inf and key.until_unix_s <= now
        table.add_row(key.name, key.digest.hex()[:12], f"{last}, which is over" if over else last or "revoked")
    console.print(table)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as exc:
        raise CommandError(f"{file}: the API keys can't be read: {exc.strerror}") from exc


def _write(file: Path, lines: list[str]) -> None:
    """Replace the file in one step: a gateway never reads half of it."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o640
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as out:
            out.write("".join(lines))
        draft.replace(file)
    except OSError as exc:
        raise CommandError(f"{file}: the API keys can't be written: {exc.strerror}") from exc
