"""Copies of a model repository between a folder, a bucket and a registry: whole, verified, gone on with, and no less.

One bucket is the object store library's own in memory, the other one is S3 as moto's server speaks it, signatures
verified; the registry is the real one of Debian's package.
"""

import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from contract import Contract, DigestMismatch, Repository
from contract.digest import artifact
from tests.conftest import MakeVersion
from tests.port import free_ports
from tidegate.artefact import Artefact
from tidegate.bucket import Bucket
from tidegate.delivery import jobs, sync
from tidegate.store import DeliveryError, Folder, Store, Synced, Version, synchronise

Place = Callable[[], Store]
FIRST, SECOND = Version("tiny", 1), Version("tiny", 2)


@pytest.fixture
def source(tmp_path: Path, make_version: MakeVersion) -> Path:
    root = tmp_path / "source" / "models"
    make_version(root)
    return root


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container registry on loopback; its address."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not on PATH: copies to a registry were not tried")
    folder, (port,) = tmp_path_factory.mktemp("registry"), free_ports(1)
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", config], stdout=log, stderr=log)
    try:
        pause = threading.Event()
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            except urllib.error.URLError:
                assert process.poll() is None
                pause.wait(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(params=["folder", "bucket", "s3", "registry"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Opens one and the same place, each time anew."""
    match request.param:
        case "folder":
            return lambda: Folder(tmp_path / "between" / "models")
        case "bucket":
            objects = MemoryStore()
            return lambda: Bucket(objects, "memory:///")
        case "s3":
            address = request.getfixturevalue("s3")
            return lambda: Bucket.at(address)
        case _:
            host = request.getfixturevalue("registry")
            return lambda: Artefact(f"{host}/{tmp_path.name.replace('_', '-').lower()}/models:latest")


def test_a_repository_comes_through_as_it_was(place: Place, source: Path, tmp_path: Path) -> None:
    there = synchronise(Folder(source), place())
    target = tmp_path / "target" / "models"
    back = synchronise(place(), Folder(target))

    assert there == back == Synced(copied=(FIRST,), configured=("tiny",))
    assert contents(target) == contents(source)
    Repository(target).contract("tiny", 1, verified=True)
    assert not list(Repository(target).staging.glob("sync/*"))


def test_what_is_there_already_isn_t_copied(place: Place, source: Path, make_version: MakeVersion) -> None:
    synchronise(Folder(source), place())
    assert synchronise(Folder(source), place()) == Synced(copied=(), configured=())

    make_version(source, version=2)
    assert synchronise(Folder(source), place()) == Synced(copied=(SECOND,), configured=("tiny",))
    assert set(place().versions()) == {FIRST, SECOND}


def test_a_version_that_isn_t_served_yet_is_copied(place: Place, source: Path, make_version: MakeVersion) -> None:
    before = (source / "tiny/config.pbtxt").read_text()
    synchronise(Folder(source), place())
    make_version(source, version=2)
    (source / "tiny/config.pbtxt").write_text(before)

    assert synchronise(Folder(source), place()) == Synced(copied=(SECOND,), configured=())
    assert set(place().versions()) == {FIRST, SECOND}
    assert place().configs() == {"tiny": before}


def test_a_rollback_copies_only_what_is_served(place: Place, source: Path, make_version: MakeVersion) -> None:
    before = (source / "tiny/config.pbtxt").read_text()
    make_version(source, version=2)
    synchronise(Folder(source), place())
    (source / "tiny/config.pbtxt").write_text(before)

    assert synchronise(Folder(source), place()) == Synced(copied=(), configured=("tiny",))
    assert place().configs() == {"tiny": before}
    assert set(place().versions()) == {FIRST, SECOND}


def test_files_that_were_changed_are_refused_and_nothing_else_is_served(
    place: Place, source: Path, make_version: MakeVersion
) -> None:
    synchronise(Folder(source), place())
    served = place().configs()
    make_version(source, version=2)
    model = source / "tiny/2/model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")

    with pytest.raises(DigestMismatch, match=r"tiny/2/model\.onnx"):
        synchronise(Folder(source), place())
    assert set(place().versions()) == {FIRST}
    assert place().configs() == served


def test_a_published_version_never_changes(
    place: Place, source: Path, tmp_path: Path, make_version: MakeVersion
) -> None:
    synchronise(Folder(source), place())
    other = tmp_path / "other" / "models"
    make_version(other, description="another one")

    with pytest.raises(DeliveryError, match="tiny version 1 is another one at the target"):
        synchronise(Folder(other), place())


def test_of_two_copies_at_once_the_first_one_s_version_stays(
    place: Place, source: Path, tmp_path: Path, make_version: MakeVersion
) -> None:
    other = tmp_path / "other" / "models"
    make_version(other, description="another one")

    class Overtaken(Folder):
        def fetch(self, version: Version, folder: Path) -> None:
            super().fetch(version, folder)
            synchronise(Folder(other), place())

    with pytest.raises(DeliveryError, match="tiny version 1 came in meanwhile, from elsewhere: copy again"):
        synchronise(Overtaken(source), place())
    assert place().versions() == Folder(other).versions()
    synchronise(place(), Folder(tmp_path / "target" / "models"))
    assert contents(tmp_path / "target/models") == contents(other)


def test_only_the_named_models_are_copied(place: Place, source: Path, make_version: MakeVersion) -> None:
    make_version(source, name="other")

    assert synchronise(Folder(source), place(), models=["other"]).configured == ("other",)
    assert set(place().configs()) == {"other"}
    with pytest.raises(DeliveryError, match=r"there is no model none with a contract; models are \['other', 'tiny'\]"):
        synchronise(Folder(source), place(), models=["none"])


def test_a_copy_that_was_broken_off_goes_on(source: Path, tmp_path: Path) -> None:
    """The folder of the try before is there, with one whole file, one half, and the contract missing."""
    target = Folder(tmp_path / "target" / "models")
    digest = Folder(source).versions()[FIRST]
    left = target.scratch / digest[:12] / "tiny" / "1"
    left.mkdir(parents=True)
    shutil.copyfile(source / "tiny/1/model.onnx", left / "model.onnx")
    (left / "golden.npz").write_bytes((source / "tiny/1/golden.npz").read_bytes()[:10])
    kept = (left / "model.onnx").stat().st_ino

    synchronise(Folder(source), target)

    assert (tmp_path / "target/models/tiny/1/model.onnx").stat().st_ino == kept
    assert contents(tmp_path / "target/models") == contents(source)


@pytest.mark.parametrize("place", ["bucket", "s3"], indirect=True)
def test_an_upload_that_was_broken_off_goes_on(place: Place, source: Path, tmp_path: Path) -> None:
    """The first try has no second file; the next one has no first file any more, and needs none."""
    first, second = (shutil.copytree(source / "tiny/1", tmp_path / name / "tiny/1") for name in ("first", "second"))
    (first / "golden.npz").unlink()
    with pytest.raises(DeliveryError, match="No such file"):
        place().add(FIRST, first)
    assert place().versions() == {}

    (second / "model.onnx").unlink()
    place().add(FIRST, second)

    assert place().versions() == Folder(source).versions()
    place().fetch(FIRST, tmp_path / "back/tiny/1")
    assert contents(tmp_path / "back/tiny/1") == contents(source / "tiny/1")


@pytest.mark.parametrize("place", ["bucket", "s3"], indirect=True)
def test_an_object_that_was_changed_is_refused(place: Place, source: Path, tmp_path: Path) -> None:
    synchronise(Folder(source), place())
    model = Contract.load(source / "tiny/1").artifacts[0]
    bucket = place()
    assert isinstance(bucket, Bucket)
    obstore.put(bucket._objects, f"blobs/{model.sha256}", b"?" * model.size_bytes)

    target = Folder(tmp_path / "target" / "models")
    with pytest.raises(DigestMismatch, match=r"tiny/1/model\.onnx"):
        synchronise(bucket, target)
    assert not target.versions()
    assert not target.configs()


@pytest.mark.parametrize("place", ["bucket", "s3"], indirect=True)
def test_an_object_that_is_gone_is_one_sentence(place: Place, source: Path, tmp_path: Path) -> None:
    synchronise(Folder(source), place())
    blob = f"blobs/{Contract.load(source / 'tiny/1').artifacts[0].sha256}"
    bucket = place()
    assert isinstance(bucket, Bucket)
    obstore.delete(bucket._objects, blob)

    with pytest.raises(DeliveryError, match=rf"Object at location \S*{blob} not found"):
        synchronise(bucket, Folder(tmp_path / "target" / "models"))


def test_whoever_serves_never_sees_half_a_version(source: Path, tmp_path: Path, make_version: MakeVersion) -> None:
    """At each file that is copied, the target holds whole versions, and a configuration that names no other."""
    root = tmp_path / "target" / "models"
    synchronise(Folder(source), Folder(root))
    make_version(source, version=2)

    class Watching(Folder):
        def fetch(self, version: Version, folder: Path) -> None:
            super().fetch(version, folder)
            assert Repository(root).versions("tiny") == [1]

    class Watched(Folder):
        def configure(self, configs: object) -> None:
            assert Repository(root).contract("tiny", 2, verified=True)
            assert "[1]" in (root / "tiny/config.pbtxt").read_text()

    synchronise(Watching(source), Watched(root))


def test_a_layer_is_the_same_bytes_whoever_makes_it(registry: str, source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "copy" / "models")
    one, other = (Artefact(f"{registry}/same:{tag}") for tag in ("one", "other"))
    synchronise(Folder(source), one)
    synchronise(Folder(tmp_path / "copy" / "models"), other)

    assert one._layers() == other._layers()


def test_a_large_file_goes_to_s3_in_parts(s3: str, source: Path, tmp_path: Path) -> None:
    folder = source / "tiny/1"
    (folder / "report.html").write_bytes(bytes(range(256)) * (11 * 4096))
    contract, report = Contract.load(folder), artifact(folder, "report.html", "report")
    contract.model_copy(update={"artifacts": (*contract.artifacts, report)}).save(folder)
    bucket = Bucket.at(s3)

    synchronise(Folder(source), bucket)

    tag = obstore.head(bucket._objects, f"blobs/{report.sha256}")["e_tag"]
    assert str(tag).strip('"').endswith("-3")  # S3's mark of three parts
    synchronise(Bucket.at(s3), Folder(tmp_path / "target" / "models"))
    assert contents(tmp_path / "target/models") == contents(source)


def test_a_store_without_conditional_writes_is_copied_to(
    s3: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    assert synchronise(Folder(source), Bucket.at(s3)).copied == (FIRST,)
    assert synchronise(Folder(source), Bucket.at(s3)) == Synced(copied=(), configured=())


def test_an_unreachable_registry_is_one_sentence(source: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}/models:latest"

    with pytest.raises(DeliveryError, match="the registry can't be asked"):
        synchronise(Folder(source), Artefact(address))


@pytest.mark.parametrize(
    ("address", "sentence"),
    [("ftp://there/models", "expected a folder, or an address of oci, s3, gs, az"), ("s3://", "s3://")],
)
def test_an_address_that_is_none_is_one_sentence(address: str, sentence: str, source: Path) -> None:
    with pytest.raises(DeliveryError, match=sentence):
        sync(str(source), address)


def test_the_command_says_what_it_did(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sync(str(source), str(tmp_path / "target" / "models"))
    assert "tiny version 1: " in (said := capsys.readouterr().out)
    assert "served there as here from now on: tiny" in said

    sync(str(source), str(tmp_path / "target" / "models"))
    assert capsys.readouterr().out == "everything was there already\n"

    sync(str(source), str(tmp_path / "target" / "models"), json_=True)
    assert capsys.readouterr().out == '{\n "copied": [],\n "configured": []\n}\n'


def test_a_job_without_an_image_says_where_to_put_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="has a placeholder for tidegate-training"):
        jobs(["models", "rollback", "tiny"])

    jobs(["models", "rollback", "tiny"], image="registry.example.com/training@sha256:1")
    assert "--repository=/models/repository" in capsys.readouterr().out


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
