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
    over = f"team-b:{'ab' * 32} until 2020-01-31"
    file.write_bytes(f"{file.read_text()}# f\xfcr\n{over}".encode("latin-1"))  # as an editor may leave it
    run("new", "team-a", *at)
    assert [key.name for key in read_keys(file)] == ["team-a", "team-b", "team-a"]
    assert text.encode() not in file.read_bytes()
    assert file.stat().st_mode & 0o007 == 0
    listed = run("list", *at)
    assert listed.count("team-a") == 2
    assert "2020-01-31, which is over" in listed
    assert "2 keys of team-a" in run("revoke", "team-a", *at)
    assert [key.name for key in read_keys(file)] == ["team-b"]
    assert "no key of 'team-a'" in run("revoke", "team-a", *at, code=1)
    assert b"f\xfcr" in file.read_bytes()
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_leads_to_the_file_still_and_its_mode_stays(tmp_path: Path) -> None:
    file, link = tmp_path / "api.keys", tmp_path / "link"
    run("new", "team-a", "--file", str(file))
    file.chmod(0o600)
    link.symlink_to(file)
    run("new", "team-b", "--file", str(link))
    run("revoke", "team-a", "--file", str(link))
    assert link.is_symlink()
    assert [key.name for key in read_keys(file)] == ["team-b"]
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("arguments", [("new", "team-b"), ("revoke", "team-a")])
def test_what_a_gateway_would_refuse_is_not_written(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = tmp_path / "api.keys"
    run("new", "team-a", "--file", str(file))
    broken = file.read_text() + "team-b:tg_the_key_itself\n"
    file.write_text(broken)
    said = run(*arguments, "--file", str(file), code=1)
    assert f"{file}, line " in said
    assert "tg_" not in said
    assert file.read_text() == broken
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("new", "a b"), "expected a name"),
        (("new", "a\n"), "expected a name"),
        (("new", "a", "--until", "2020-01-31"), "expected a last day that isn't over"),
        (("new", "a", "--until", "tomorrow"), "Invalid isoformat"),
        (("list",), "No such file"),
        (("revoke", "a"), "No such file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    output = run(*arguments, "--file", str(tmp_path / "api.keys"), code=1)
    assert said in output
    assert len(output.splitlines()) == 1
