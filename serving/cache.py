"""Engines that were built before, on a volume that outlives the pod: a build takes minutes, finding one a moment.

    <folder>/<key>/model.plan, passport.json      one engine, put there whole by a rename
    <folder>/<key>.lock                           held by the one process that builds it
    <folder>/timing-<builder>-<version>-<targets>.cache

What the key doesn't cover can't change an engine. Locks are flock(2) by way of filelock: the kernel drops them with
the process that held them.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from contract.digest import sha256_of
from contract.error import ContractError
from contract.golden import Golden
from contract.passport import InputProfile, Passport
from contract.schema import Contract
from serving.builder import Builder, Progress
from serving.compilation import build, profile_of
from serving.error import EngineBusy
from serving.measurement import measure, require_runtime


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCache:
    """The engines of one builder in one folder; several processes may share it."""

    folder: Path
    builder: Builder
    lock_timeout_s: float = 900.0

    def engine(self, onnx: Path, contract: Contract, golden: Golden, *, progress: Progress | None = None) -> Path:
        """Folder with the engine of `onnx` and its passport, built and measured now unless it is there.

        Raises EngineBusy when another process doesn't finish building it, and what building and measuring
        raise; then nothing was added.
        """
        key = cache_key(
            onnx_sha256=sha256_of(onnx),
            builder=self.builder.name,
            builder_version=self.builder.version,
            compute_capabilities=self.builder.compute_capabilities,
            profile=profile_of(contract.inputs, contract.batch_axis),
        )
        found = self.folder / key
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{found}.lock", timeout=self.lock_timeout_s):
                if not _whole(found):
                    self._build(found, onnx, contract, golden, progress)
        except Timeout as exc:
            raise EngineBusy(f"another process was still building this engine after {self.lock_timeout_s:g} s") from exc
        os.utime(found)
        return found

    def prune(self, keep_s: float) -> list[str]:
        """Remove engines that nothing asked for in the last `keep_s` seconds; their keys."""
        oldest, removed = time.time() - keep_s, []
        for lock in self.folder.glob("*.lock"):
            found = lock.with_suffix("")
            with suppress(Timeout), FileLock(lock, timeout=0):
                if found.is_dir() and found.stat().st_mtime < oldest:
                    shutil.rmtree(found)
                    removed.append(found.name)
        return removed

    def _build(self, found: Path, onnx: Path, contract: Contract, golden: Golden, progress: Progress | None) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".draft-") as draft:
            built = Path(draft, "engine")
            built.mkdir()
            if self.builder.name == "tensorrt":
                require_runtime()  # before minutes of work whose result nobody could measure
            passport = build(
                onnx,
                contract.inputs,
                contract.batch_axis,
                progress=progress,
                compute_capabilities=self.builder.compute_capabilities,
                timing_cache=timing_cache_of(self.folder, self.builder),
                folder=built,
            )
            if passport.triton_loadable:
                measure(self.builder, built, golden, contract.batch_axis, contract.postprocess)
            shutil.rmtree(found, ignore_errors=True)  # what is there isn't whole
            built.rename(found)


def timing_cache_of(folder: Path, builder: Builder) -> Path:
    """TensorRT's measurements of kernels, which builds of one version for one GPU share."""
    return folder / f"timing-{builder.name}-{builder.version}-{'-'.join(builder.compute_capabilities)}.cache"


def cache_key(
    *,
    onnx_sha256: str,
    builder: str,
    builder_version: str,
    compute_capabilities: Sequence[str],
    profile: Sequence[InputProfile],
) -> str:
    """Hex SHA-256 that two builds share exactly when one's engine can stand for the other's.

    Precision is in the graph, so the graph's digest covers it.
    """
    facts = {
        "onnx": onnx_sha256,
        "builder": [builder, builder_version],
        "compute_capabilities": sorted(compute_capabilities),
        "profile": sorted((entry.model_dump() for entry in profile), key=lambda entry: str(entry["name"])),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _whole(folder: Path) -> bool:
    """Whether an engine and its own passport lie there: a damaged one is built anew."""
    try:
        Passport.load(folder)
    except (ContractError, OSError):
        return False
    return True
