import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.access import read_keys
from tidegate.command import app


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["keys", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout + result.stderr


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "api.keys"
    at = ("--file", str(file))
    said = run("new", "team-a", *at)
    (text,) = re.findall(r"^tg_\S{40,}$", said, re.MULTILINE)
    run("new", "team-b", "--until", "2020-01-31", *at)
    file.write_text(file.read_text().rstrip("\n"))  # as an editor may leave it
    run("new", "team-a", *at)
    assert [key.name for key in read_keys(file)] == ["team-a", "team-b", "team-a"]
    assert text not in file.read_text()
    assert file.stat().st_mode & 0o007 == 0
    listed = run("list", *at)
    assert listed.count("team-a") == 2
    assert "2020-01-31, which is over" in listed
    assert "2 keys of team-a" in run("revoke", "team-a", *at)
    assert [key.name for key in read_keys(file)] == ["team-b"]
    assert "no key of 'team-a'" in run("revoke", "team-a", *at, code=1)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("new", "a b"), "expected a name"),
        (("new", "a", "--until", "tomorrow"), "Invalid isoformat"),
        (("list",), "No such file"),
        (("revoke", "a"), "No such file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    output = run(*arguments, "--file", str(tmp_path / "api.keys"), code=1)
    assert said in output
    assert len(output.splitlines()) == 1
