import gzip
import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from training.data import Split, digest, grouped, split
from training.dataset import fashion_mnist
from training.error import DataInvalid, DataNotFound
from training.source import DataFile, Source

CONTENT = b"real data"


def source(url: str = "http://127.0.0.1:9/file.gz", content: bytes = CONTENT) -> Source:
    file = DataFile(name="file", sha256=hashlib.sha256(content).hexdigest(), url=url)
    return Source(folder="tidegate-test", package="dataset-test", files=(file,))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/tidegate/datasets/tidegate-test"


@given(st.integers(2, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))), st.integers(0, 2**32))
def test_every_sample_is_in_exactly_one_split(sizes: tuple[int, int], seed: int) -> None:
    size, num_validation = sizes
    samples = Split(inputs={"x": np.arange(size)}, targets=np.arange(size) * 2)
    train, validation = split(samples, num_validation, seed)
    assert len(validation) == num_validation
    assert sorted([*train.inputs["x"], *validation.inputs["x"]]) == list(range(size))
    np.testing.assert_array_equal(train.targets, train.inputs["x"] * 2)
    np.testing.assert_array_equal(train.targets, split(samples, num_validation, seed)[0].targets)


def test_a_split_that_leaves_nothing_is_refused() -> None:
    samples = Split(inputs={"x": np.arange(3)}, targets=np.arange(3))
    with pytest.raises(ValueError, match="1 to 2 samples, got 3"):
        split(samples, 3, 0)
    with pytest.raises(ValueError, match="one length"):
        Split(inputs={"x": np.arange(3)}, targets=np.arange(2))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=20, max_size=40), st.integers(0, 2**32))
def test_a_group_is_in_one_split(groups: list[int], seed: int) -> None:
    group = np.unique(groups, return_inverse=True)[1]
    samples = Split(inputs={"x": np.arange(len(group))}, targets=group)
    largest = int(np.bincount(group).max())
    assume(len(group) > 3 * largest)
    parts = grouped(samples, group, num_validation=largest, num_test=largest, seed=seed)
    assert sorted(np.concatenate([part.inputs["x"] for part in parts])) == list(range(len(group)))
    assert sum(len(set(part.targets)) for part in parts) == len(set(groups))
    assert len(parts[2]) <= largest
    assert len(parts[1]) + len(parts[2]) <= 2 * largest


def test_a_digest_is_of_all_that_is_in_the_splits() -> None:
    def made(**changes: Any) -> str:
        parts = {"inputs": {"x": np.arange(6)}, "targets": np.arange(6), **changes.pop("part", {})}
        train = Split(**parts)
        splits = {"train": train.take(slice(4)), "test": train.take(slice(4, None)), **changes.pop("splits", {})}
        return digest(splits, {"a": b"1", **changes})

    part = Split(inputs={"x": np.arange(6)}, targets=np.arange(6))
    others = [
        made(),
        made(part={"inputs": {"x": np.arange(6, dtype=np.int32)}}),
        made(part={"inputs": {"y": np.arange(6)}}),
        made(part={"targets": np.arange(6)[::-1]}),
        made(part={"lesson": {"x": np.arange(6)}}),
        made(part={"observed": {"x": np.arange(6.0)}}),
        made(splits={"train": part.take(slice(3)), "test": part.take(slice(3, None))}),
        made(a=b"2"),
    ]
    assert len(set(others)) == len(others)
    assert made() == made()


@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_a_file_is_found_where_the_user_says_packed_or_not(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(CONTENT) if name.endswith("gz") else CONTENT)
    assert source().read(tmp_path) == {"file": CONTENT}


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"other data")
    with pytest.raises(DataInvalid, match=r"expected content with sha256 .* got"):
        source().read(tmp_path)
    (tmp_path / "file.gz").write_bytes(gzip.compress(CONTENT)[:-4])
    with pytest.raises(DataInvalid, match="no complete gzip file"):
        source().read(tmp_path)


def test_a_missing_file_says_how_to_get_it() -> None:
    with pytest.raises(DataNotFound, match=r"apt-get install dataset-test.*--data"):
        source().read(None)


def test_a_folder_that_holds_none_of_the_files_is_said_to_hold_none(tmp_path: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "file").write_bytes(CONTENT)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataNotFound, match=r": expected files file, packed .* got none of them: name a folder"):
            source().read(folder)
    assert source().read(None) == {"file": CONTENT}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    public = tmp_path / "public"
    public.mkdir()
    (public / "file.gz").write_bytes(gzip.compress(CONTENT))
    handler = partial(_QuietHandler, directory=str(public))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_is_downloaded_once_and_kept(address: str, cache: Path) -> None:
    assert source(f"{address}/file.gz").read(None) == {"file": CONTENT}
    assert (cache / "file.gz").is_file()
    assert source("http://127.0.0.1:9/gone.gz").read(None) == {"file": CONTENT}


def test_a_download_that_is_another_file_is_refused_and_not_kept(address: str, cache: Path) -> None:
    with pytest.raises(DataInvalid, match="expected content"):
        source(f"{address}/file.gz", b"what was published").read(None)
    assert not (cache / "file.gz").exists()
    with pytest.raises(DataNotFound, match="404"):
        source(f"{address}/absent.gz").read(None)


def test_fashion_mnist_is_there_and_whole() -> None:
    """Fails with the sentence that says how to get it where setup hasn't installed it."""
    dataset = fashion_mnist.load(None)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (55_000, 5_000, 10_000)
    assert dataset.test.inputs["image"].shape == (10_000, 28, 28, 1)
    assert dataset.test.inputs["image"].dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(dataset.test.targets), np.full(10, 1_000))
    scaled = dataset.train.inputs["image"] / np.float32(255)
    assert scaled.mean() == pytest.approx(fashion_mnist.PIXEL_MEAN, abs=1e-3)
    assert scaled.std() == pytest.approx(fashion_mnist.PIXEL_STD, abs=1e-3)


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it is called with
        pass
