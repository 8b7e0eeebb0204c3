"""What many models cost a gateway that nobody asks: series, size and time of a scrape, memory, a look for changes.

The upstream is a list in this process: no Triton of one machine holds a thousand models, and a gateway needn't.
"""

import asyncio
import gc
import json
import os
import shutil
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.drift.backfill import running_prometheus
from bench.machine import resident_mib
from bench.model import FASHION, make_model
from contract import Contract, Repository
from contract.document import Document
from contract.triton import model_config
from gateway import Settings, create_plane
from gateway.exposition import Registry, start_exporter
from gateway.upstream import IndexEntry
from monitoring.limit import MAX_SAMPLES
from monitoring.prometheus import SCRAPE_INTERVAL_S, write_configuration
from monitoring.rulebook import alerts_text, rules_text

INTERVAL_S = 10
WATCH_S = 75.0


class ManyRow(Document):
    """One number of models. Times are seconds; memory is what this process grew by, in MiB."""

    num_models: int
    num_series: int
    scrape_bytes: int
    scrape_s: float
    first_look_s: float
    look_s: float
    memory_mib: float


class _Listed:
    """An upstream that lists every version of a repository as ready, and is asked nothing else."""

    def __init__(self, repository: Repository, num_models: int | None = None) -> None:
        self._entries = [
            IndexEntry(name, str(version), True, "")
            for name in repository.models()[:num_models]
            for version in repository.versions(name)
        ]

    async def index(self, timeout_s: float) -> Sequence[IndexEntry]:
        return self._entries

    async def close(self) -> None:
        pass


def run(scratch: Path, published: Path, numbers: Sequence[int]) -> list[ManyRow]:
    """A row for each number of models, each a copy of the Fashion-MNIST one; raises BenchError without that."""
    repository = Repository(scratch / "many")
    original = make_model(FASHION, repository.root, published)
    rows = []
    for number in sorted(numbers):
        for index in range(len(repository.models()), number):
            _copy(original.folder, original.contract, repository, f"model-{index:04d}")
        rows.append(asyncio.run(_measure(repository)))
    return rows


class Watched(Document):
    """A Prometheus with all our rules, which scrapes a gateway of so many models.

    `rules_s` is one round of all rules; `rules_cores` what they keep busy at the intervals that they have in service.
    """

    num_models: int
    num_scraped: int
    num_head_series: int
    scrape_s: float
    rules_s: float
    rules_cores: float
    memory_mib: float


def watch(scratch: Path, num_models: int) -> Watched:
    """Watch a gateway of the models that `run` made, for some rounds of the rules; raises BenchError."""
    return asyncio.run(_watch(scratch, Repository(scratch / "many"), num_models))


async def _watch(scratch: Path, repository: Repository, num_models: int) -> Watched:
    registry = Registry()
    upstream: Any = _Listed(repository, num_models)
    plane = create_plane(Settings(repository=repository.root), upstream=upstream, registry=registry)
    await plane.catalog.refresh()
    server, thread = start_exporter("127.0.0.1", 0, registry)
    config = write_configuration(
        scratch / "prometheus",
        gateways=[f"127.0.0.1:{server.server_port}"],
        tritons=[],
        scrape_interval_s=INTERVAL_S,
        slow_interval_s=INTERVAL_S,
    )
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(f"sample_limit: {MAX_SAMPLES['gateway']}", "sample_limit: 0"), encoding="utf-8")
    try:
        with running_prometheus(config, scratch / "prometheus" / "data", scratch / "prometheus.log") as url:
            await asyncio.sleep(WATCH_S)
            values = _values(await asyncio.to_thread(_get, f"{url}/metrics"))
            scraped = json.loads(await asyncio.to_thread(_get, f"{url}/api/v1/query?query=scrape_duration_seconds"))
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
        await plane.close()
    taken = {_group(name): value for name, value in values.items() if name.startswith(_ROUND)}
    intervals = _intervals()
    return Watched(
        num_models=num_models,
        num_scraped=sum(1 for line in registry.text().splitlines() if not line.startswith(b"#")),
        num_head_series=int(values["prometheus_tsdb_head_series"]),
        scrape_s=float(scraped["data"]["result"][0]["value"][1]),
        rules_s=sum(taken.values()),
        rules_cores=sum(taken_s / intervals[group] for group, taken_s in taken.items()),
        memory_mib=values["process_resident_memory_bytes"] / 2**20,
    )


_ROUND = "prometheus_rule_group_last_duration_seconds{"


def _group(name: str) -> str:
    """`..._seconds{rule_group="/etc/rules.yml;name"}`."""
    return name.rpartition(";")[2].rstrip('"}')


def _intervals() -> dict[str, float]:
    """Seconds between two rounds of each group in service."""
    groups = [group for text in (rules_text(), alerts_text()) for group in yaml.safe_load(text)["groups"]]
    return {group["name"]: float(str(group.get("interval", SCRAPE_INTERVAL_S)).rstrip("s")) for group in groups}


def _get(url: str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        content: bytes = answer.read()
    return content


def _values(text: bytes) -> dict[str, float]:
    lines = (line for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def _copy(folder: Path, contract: Contract, repository: Repository, name: str) -> None:
    target = repository.version_dir(name, contract.version)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.plan", "*.engine", "*.html"))
    renamed = contract.model_copy(update={"name": name})
    renamed.save(target)
    config = model_config(renamed, "onnxruntime", [contract.version])
    (repository.root / name / "config.pbtxt").write_text(config, encoding="utf-8")


async def _measure(repository: Repository) -> ManyRow:
    gc.collect()
    before = max(resident_mib(os.getpid()))
    registry = Registry()
    upstream: Any = _Listed(repository)
    plane = create_plane(Settings(repository=repository.root), upstream=upstream, registry=registry)
    first_look_s = await _timed(plane)
    look_s = min([await _timed(plane) for _ in range(5)])
    started = time.perf_counter()
    text = registry.text()
    scrape_s = time.perf_counter() - started
    num_series = sum(1 for line in text.splitlines() if not line.startswith(b"#"))
    memory = max(resident_mib(os.getpid())) - before
    await plane.close()
    return ManyRow(
        num_models=len(repository.models()),
        num_series=num_series,
        scrape_bytes=len(text),
        scrape_s=scrape_s,
        first_look_s=first_look_s,
        look_s=look_s,
        memory_mib=memory,
    )


async def _timed(plane: Any) -> float:
    started = time.perf_counter()
    await plane.catalog.refresh()
    return time.perf_counter() - started
