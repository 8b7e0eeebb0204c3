import logging
from pathlib import Path

import pytest

from gateway.key_file import KeyFileError
from gateway.key_ring import KeyRing

OLD, NEW = "old:" + "00" * 16, "new:" + "_-" * 16


def write(path: Path, *lines: str) -> Path:
    fresh = path.with_suffix(".tmp")
    fresh.write_text("\n".join(lines))
    fresh.chmod(0o600)
    return fresh.rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "keys", "# rotated in May", "", NEW, f"  {OLD}  ")


def test_the_first_key_signs_and_all_are_found(path: Path) -> None:
    keys = KeyRing(path)
    old = keys.find(b"old")
    assert keys.signing.id == b"new"
    assert len(keys.signing.secret) == 24
    assert old is not None
    assert old.secret == bytes(16)
    assert keys.find(b"other") is None


def test_a_made_ring_is_its_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    keys = KeyRing.make(tmp_path / "keys")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    assert KeyRing(tmp_path / "keys").signing == keys.signing
    with pytest.raises(KeyFileError, match="can't be written: File exists"):
        KeyRing.make(tmp_path / "keys")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((), "expected a line key-id:secret, got no key"),
        (("# only this",), "got no key"),
        ((OLD, "secret"), "line 2: expected key-id:secret"),
        (("a b:" + "00" * 16,), "line 1: expected key-id:secret"),
        (("a:" + "00" * 15,), "at least 16 bytes"),
        (("a:" + "?" * 32,), "in hex or base64url"),
        (("a:" + "x" * 33,), "in hex or base64url"),
        ((OLD, OLD), "line 2: key 'old' is there twice"),
        ((OLD, "#" * 300_000), "at most 262144 bytes"),
    ],
)
def test_what_is_no_key_ring_is_said_without_a_secret(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(KeyFileError, match=said) as error:
        KeyRing(write(tmp_path / "keys", *lines))
    assert "00000000" not in str(error.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        KeyRing(tmp_path / "keys")


def test_a_change_is_taken_over(path: Path) -> None:
    keys = KeyRing(path)
    write(path, "newest:" + "11" * 16, NEW)
    keys.refresh()
    assert keys.signing.id == b"newest"
    assert keys.find(b"new") is not None
    assert keys.find(b"old") is None


@pytest.mark.parametrize("broken", ["nonsense", None])
def test_a_broken_edit_is_logged_once_and_changes_nothing(
    path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    keys = KeyRing(path)
    if broken is None:
        path.unlink()
    else:
        write(path, broken)
    keys.refresh()
    keys.refresh()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "stay as they were" in caplog.text
    assert keys.signing.id == b"new"
    write(path, OLD)
    keys.refresh()
    assert keys.signing.id == b"old"


def test_a_file_that_everyone_can_read_is_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    KeyRing(path)
    assert not caplog.records
    path.chmod(0o644)
    KeyRing(path)
    assert "every user" in caplog.text
