"""Every command line of `tidegate` in the documentation is one that the command line itself takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from tidegate.command import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("k8s/**/*.md")])
SPAN = re.compile(r"`+([^`]+)`+")
COMMAND = re.compile(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*/)?tidegate (.+)")


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each, in blocks and in sentences; what a shell makes of the line otherwise is left out."""
    text = text.replace("\\\n", " ").replace("\\|", "|")
    for piece in [*text.splitlines(), *(" ".join(span.split()) for span in SPAN.findall(text))]:
        for part in re.split(r"[;|]|&&| > ", piece):
            if found := COMMAND.fullmatch(part.strip()):
                yield shlex.split(found[1], comments=True)


def parse(arguments: list[str]) -> None:
    """Read them as `tidegate` would, and run nothing; raises TyperException."""
    command, rest = get_command(app), list(arguments)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            raise typer.BadParameter(f"there is no command {name}")
        command = command.commands[name]
    if not rest:  # a name alone is spoken of, not run
        return
    context = command.make_context(command.name, rest)
    if arguments[0] == "jobs" and context.params["command"] != ["COMMAND"]:
        parse(list(context.params["command"]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one(page: Path) -> None:
    for arguments in commands(page.read_text(encoding="utf-8")):
        try:
            parse(arguments)
        except TyperException as exc:
            pytest.fail(f"tidegate {shlex.join(arguments)}: {exc}")


def test_commands_are_found_wherever_they_are_written() -> None:
    page = """
    $ A=1 tidegate up --processes 2 > log  # runs
    tidegate routes; .venv/bin/tidegate models
| `tidegate jobs -- sync A B \\| kubectl create -f -` | and `tidegate
train RECIPE`, but not `tidegate`, a model_repository/tidegate or tidegate in a sentence |
"""
    assert list(commands(page)) == [
        ["up", "--processes", "2"],
        ["routes"],
        ["models"],
        ["jobs", "--", "sync", "A", "B"],
        ["train", "RECIPE"],
    ]


@pytest.mark.parametrize(
    "wrong",
    ["predict spam-lstm --text hello", "predict spam-lstm", "sunk a", "models undo tiny", "jobs -- predict --text a b"],
)
def test_what_the_command_line_refuses_is_found(wrong: str) -> None:
    with pytest.raises(TyperException):
        parse(wrong.split())
