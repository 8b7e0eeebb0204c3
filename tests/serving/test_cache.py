import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from contract import Passport, Repository
from contract.golden import Golden
from contract.schema import AxisRange, TensorSpec
from serving import builder as builders
from serving.cache import EngineCache, cache_key
from serving.compilation import profile_of
from serving.error import EngineBuildFailed, EngineBusy
from serving.gpu import find_gpu

pytestmark = pytest.mark.skipif(
    builders._import("tensorrt_rtx") is None or find_gpu() is not None,
    reason="needs tensorrt-rtx-cu13, and no GPU, where TensorRT is chosen instead",
)

BATCH = AxisRange(min=1, opt=4, max=8)
SEQUENCE = TensorSpec(name="tokens", datatype="FP32", shape=(-1, 4), ranges=(AxisRange(min=1, opt=16, max=64),))


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(folder=tmp_path / "cache", builder=builders.find_builder(["8.9"]), lock_timeout_s=0.1)


@pytest.fixture
def find(cache: EngineCache, tiny_repository: Repository) -> Callable[[], Path]:
    """Ask the cache for the engine of `tiny`."""
    contract, folder = tiny_repository.latest("tiny"), tiny_repository.version_dir("tiny", 1)
    return lambda: cache.engine(folder / "model.onnx", contract, Golden.load(folder))


def test_an_engine_is_built_once(cache: EngineCache, find: Callable[[], Path], tiny_repository: Repository) -> None:
    before = {path: path.read_bytes() for path in tiny_repository.root.rglob("*") if path.is_file()}
    found = find()
    assert Passport.load(found).compute_capabilities == ("8.9",)
    written = (found / "model.rtx").stat().st_mtime_ns
    assert find() == found
    assert (found / "model.rtx").stat().st_mtime_ns == written
    assert sorted(path.suffix for path in cache.folder.iterdir()) == ["", ".lock"]
    assert {path: path.read_bytes() for path in tiny_repository.root.rglob("*") if path.is_file()} == before


def test_a_damaged_engine_is_built_anew(find: Callable[[], Path]) -> None:
    engine = find() / "model.rtx"
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert Passport.load(find()).engine_size_bytes == len(whole)


def test_two_builders_wait_for_each_other(cache: EngineCache, find: Callable[[], Path]) -> None:
    found = find()
    with FileLock(f"{found}.lock"), pytest.raises(EngineBusy, match=r"still building this engine after 0\.1 s"):
        find_in_another_thread(find)


def find_in_another_thread(find: Callable[[], Path]) -> None:
    """A lock lets the thread that holds it in again."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            find()
        except EngineBusy as exc:
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    if raised:
        raise raised[0]


def test_a_failed_build_leaves_nothing(cache: EngineCache, tiny_repository: Repository, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"garbage")
    with pytest.raises(EngineBuildFailed):
        cache.engine(bad, tiny_repository.latest("tiny"), Golden({}, {}))
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]


def test_engines_that_nothing_asks_for_are_removed(cache: EngineCache, find: Callable[[], Path]) -> None:
    found = find()
    assert cache.prune(keep_s=3600) == []
    assert cache.prune(keep_s=-1) == [found.name]
    assert not found.exists()
    assert find() == found


KEY = st.fixed_dictionaries(
    {
        "onnx_sha256": st.sampled_from(["a" * 64, "b" * 64]),
        "builder": st.sampled_from(["tensorrt", "tensorrt-rtx"]),
        "builder_version": st.sampled_from(["10.9", "11.4"]),
        "compute_capabilities": st.sampled_from([("8.6",), ("8.9",), ("8.6", "8.9")]),
        "profile": st.sampled_from([1, 2]).map(
            lambda batch_min: profile_of([SEQUENCE], AxisRange(min=batch_min, opt=4, max=8))
        ),
    }
)


@given(one=KEY, other=KEY)
def test_the_cache_key_is_the_same_exactly_for_the_same_build(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (cache_key(**one) == cache_key(**other)) == (one == other)


def test_the_cache_key_doesnt_depend_on_order() -> None:
    other = TensorSpec(name="mask", datatype="FP32", shape=(4,))
    facts = {"onnx_sha256": "a" * 64, "builder": "tensorrt-rtx", "builder_version": "1.7"}
    one = cache_key(**facts, compute_capabilities=["8.6", "8.9"], profile=profile_of([SEQUENCE, other], BATCH))
    two = cache_key(**facts, compute_capabilities=["8.9", "8.6"], profile=profile_of([other, SEQUENCE], BATCH))
    assert one == two
