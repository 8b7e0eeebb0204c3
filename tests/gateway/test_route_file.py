"""The file while the gateway runs: edits of every kind, good and broken, and what is told of them."""

import asyncio
import logging
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gateway.route import RouteTable
from gateway.route_file import RouteFile, check, describe
from gateway.route_text import MAX_BYTES, RouteError
from gateway.shadow import Shadow

ONE = "routes: [{name: one, targets: [{model: m}]}]"
TWO = "routes: [{name: two, targets: [{model: m}]}]"


def write(path: Path, text: str | None) -> None:
    """Write the file as a shell would; None removes it."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "routes.yaml"
    write(path, ONE)
    return path


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def names(file: RouteFile) -> list[str]:
    return [route.name for route in file.table.document.routes]


async def look(file: RouteFile, times: int = 2) -> None:
    for _ in range(times):
        await file.refresh()


def reloads(registry: CollectorRegistry) -> tuple[float | None, float | None, float | None]:
    """Edits applied, edits refused, and whether the file is in force."""
    counts = [registry.get_sample_value("gateway_route_reloads_total", {"result": r}) for r in ("applied", "refused")]
    return counts[0], counts[1], registry.get_sample_value("gateway_route_config_in_force")


async def test_without_a_file_there_are_no_routes(registry: CollectorRegistry) -> None:
    file = RouteFile.load(None, registry)
    await look(file)
    assert names(file) == []
    assert (file.error, file.revision) == (None, None)
    assert reloads(registry) == (0, 0, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"routes: 1", "line 1: routes: expected a list, got 1"),
        (b"routes:\n- \xff", "line 2: expected UTF-8, got the byte 0xff"),
        (b"#" * (MAX_BYTES + 1), f"at most {MAX_BYTES} bytes"),
        (None, "the routes file can't be read: No such file or directory"),
    ],
)
def test_a_file_that_cant_be_read_is_refused_at_the_start(
    path: Path, registry: CollectorRegistry, content: bytes | None, said: str
) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for load in (lambda: RouteFile.load(path, registry), lambda: check(path)):
        with pytest.raises(RouteError) as error:
            load()
        assert str(error.value).startswith(f"{path}: ")
        assert said in str(error.value)


async def test_an_edit_comes_into_force_and_is_told(path: Path, registry: CollectorRegistry) -> None:
    told: list[RouteTable] = []
    file = RouteFile.load(path, registry, on_change=told.append)
    first = file.revision
    await look(file, 3)
    assert told == [file.table]
    write(path, TWO)
    await look(file)
    assert names(file) == ["two"]
    assert told[1:] == [file.table]
    assert file.revision != first
    assert reloads(registry) == (1, 0, 1)


def swap(link: Path, to: str) -> None:
    """Point a symlink elsewhere in one step, as Kubernetes does."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(to)
    fresh.rename(link)


async def test_swapped_symlinks_are_seen(tmp_path: Path, registry: CollectorRegistry) -> None:
    for name, text in (("v1", ONE), ("v2", TWO)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "routes.yaml", text)
    swap(tmp_path / "data", "v1")
    swap(tmp_path / "routes.yaml", "data/routes.yaml")
    file = RouteFile.load(tmp_path / "routes.yaml", registry)
    swap(tmp_path / "data", "v2")
    await look(file)
    assert names(file) == ["two"]


async def test_a_file_that_is_just_being_written_is_waited_for(path: Path, registry: CollectorRegistry) -> None:
    file = RouteFile.load(path, registry)
    for half in ("", "routes: [{na", TWO):  # emptied, half-written, done: each seen once
        write(path, half)
        await look(file, 1)
        assert names(file) == ["one"]
        assert file.error is None
    await look(file, 1)
    assert names(file) == ["two"]
    assert reloads(registry) == (1, 0, 1)


@pytest.mark.parametrize("broken", ["routes: 1", None])
async def test_a_broken_edit_changes_nothing_and_is_said_once(
    path: Path, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    file = RouteFile.load(path, registry)
    revision = file.revision
    write(path, broken)
    await look(file, 5)
    assert names(file) == ["one"]
    assert file.revision == revision
    assert file.error is not None
    assert str(path.parent) not in file.error  # clients see it
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert file.error in caplog.text
    assert reloads(registry) == (0, 1, 0)

    write(path, ONE)  # undone
    await look(file)
    assert file.error is None
    assert reloads(registry) == (0, 1, 1)

    write(path, TWO)
    await look(file)
    assert names(file) == ["two"]
    assert reloads(registry) == (1, 1, 1)


async def test_watching_takes_edits_over(path: Path, registry: CollectorRegistry) -> None:
    changed = asyncio.Event()
    file = RouteFile.load(path, registry, on_change=lambda table: changed.set())
    changed.clear()
    write(path, TWO)
    watch = asyncio.create_task(file.watch(0.001))
    async with asyncio.timeout(10):
        await changed.wait()
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch
    assert names(file) == ["two"]


async def test_what_is_in_force_is_described(path: Path, registry: CollectorRegistry) -> None:
    write(
        path,
        "routes: [{name: a, targets: [{model: m, version: 2}], shadow: {model: n, fraction: 0.5},"
        " rules: [{when: {tenant: [t]}, targets: [{model: n}]}]}]",
    )
    shadow = Shadow(registry)
    file = RouteFile.load(path, registry, on_change=shadow.prepare)
    document = describe(file, shadow)
    assert document["revision"] == file.revision
    assert document["error"] is None
    assert document["tenant_header"] == "x-tenant"
    assert document["routes"] == [
        {
            "name": "a",
            "targets": [{"model": "m", "version": 2, "weight": 1}],
            "rules": [{"when": {"tenant": ["t"]}, "targets": [{"model": "n", "weight": 1}]}],
            "shadow": {
                "model": "n", "fraction": 0.5, "max_inflight": 16, "deadline_ms": 10_000, "rtol": 1e-3, "atol": 1e-3,
                "counts": {"agreed": 0, "disagreed": 0, "failed": 0, "dropped": 0, "top1_same": 0, "top1_different": 0},
            },
        }
    ]  # fmt: skip
