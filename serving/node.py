"""The repository that Triton is started on, on one node: the published versions, each with an engine for its GPU.

What was published is never changed, may be read-only, and serves nodes with other GPUs. So a node serves a repository
of its own: links to the published files, or copies where they lie on another volume; beside them the node's engine and
its passport; and a contract that makes the same promise and names these files, so whoever loads them can verify them.

Triton has one configuration a model, so a model is served by engines when each of its served versions has one that was
held against its graph, and from its graphs otherwise.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from contract.digest import artifact, verify
from contract.error import ContractError
from contract.passport import PASSPORT_FILE, Passport
from contract.repository import CONFIG_FILE, Repository, withdrawn_line
from contract.schema import CONTRACT_FILE, Contract
from contract.triton import MODEL_FILE, Runtime
from serving.control import ModelConfig
from serving.error import EngineBusy, EngineError, RepositoryMissing, ServingError
from serving.published import Published, Stamp, look

_LOCK_TIMEOUT_S = 30.0
_COMPILED = ("onnxruntime", "onnxruntime_onnx", "tensorrt", "tensorrt_plan")


class Engines(Protocol):
    """Where a node's engines come from."""

    def find(self, contract: Contract, folder: Path, /) -> Path:
        """Folder with an engine for the version in `folder` that may answer clients; raises EngineError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one version (None: of the whole model), in a sentence."""

    model: str
    version: int | None
    sentence: str
    engine: bool = False
    refused: bool = False

    def __str__(self) -> str:
        """Name and sentence."""
        version = "" if self.version is None else f" version {self.version}"
        return f"{self.model}{version} {self.sentence}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Version:
    """A published version whose files are right, and what it will be served by."""

    contract: Contract
    engine: Path | None
    sentence: str


class Node:
    """Keeps the repository `output` in step with `source`."""

    def __init__(self, *, source: Repository, output: Repository, engines: Engines) -> None:
        self._source = source
        self._output = output
        self._engines = engines
        self._done: dict[str, Stamp] = {}

    def prepare(self) -> list[Outcome]:
        """Bring `output` in step; what became of each version of the models that changed since the last call.

        Raises RepositoryMissing, and ServingError when `source` can't be read or `output` can't be written; what that
        held before is intact then.
        """
        names = self._published()
        try:
            self._output.root.mkdir(parents=True, exist_ok=True)
            self._output.staging.mkdir(exist_ok=True)
            with FileLock(self._output.staging / "lock", timeout=_LOCK_TIMEOUT_S):
                outcomes = [outcome for name in names for outcome in self._model(name)]
                for name in set(self._output.models()) - set(names):
                    self._done.pop(name, None)
                    self._remove(self._output.root / name)
        except Timeout as exc:
            raise ServingError(f"another process works on {self._output.root}: start one only") from exc
        except OSError as exc:
            raise ServingError(f"{self._output.root} can't be written: {exc.strerror or exc}") from exc
        return outcomes

    def _published(self) -> list[str]:
        root = self._source.root
        try:
            if not root.is_dir():
                raise RepositoryMissing(f"{root} doesn't exist: publish a model there first; nothing is prepared")
            return list(self._source.models())
        except OSError as exc:
            raise ServingError(
                f"{root} can't be read: {exc.strerror or exc}; let user {os.getuid()} read it, or mount another volume"
            ) from exc

    def _model(self, name: str) -> list[Outcome]:
        published = look(self._source, name)
        if published is None or self._done.get(name) == published.stamp:
            return []
        if published.config is None:
            return [Outcome(model=name, version=None, refused=True, sentence=f"is left out: {published.problem}")]
        versions: dict[int, _Version] = {}
        outcomes, busy = [], False
        for number in published.named_versions:
            try:
                versions[number] = self._version(published.config, name, number)
            except EngineBusy as exc:
                busy = True
                versions[number] = _Version(contract=self._contract(name, number), engine=None, sentence=str(exc))
            except ContractError as exc:
                outcomes.append(Outcome(model=name, version=number, refused=True, sentence=f"is left out: {exc}"))
        outcomes += self._serve(published, published.config, versions)
        if not busy:
            self._done[name] = published.stamp
        return outcomes

    def _contract(self, name: str, version: int) -> Contract:
        return self._source.contract(name, version, verified=True)

    def _version(self, config: ModelConfig, name: str, number: int) -> _Version:
        """Raises ContractError for a version that can't be trusted, EngineBusy when its engine may come later."""
        contract = self._contract(name, number)
        kind = config.backend or config.platform
        if kind not in _COMPILED:
            return _Version(contract=contract, engine=None, sentence=f"the backend {kind} runs no engines")
        try:
            engine = self._engines.find(contract, self._source.version_dir(name, number))
        except EngineBusy:
            raise
        except EngineError as exc:
            return _Version(contract=contract, engine=None, sentence=str(exc))
        return _Version(contract=contract, engine=engine, sentence=_described(Passport.load(engine)))

    def _serve(self, published: Published, config: ModelConfig, versions: dict[int, _Version]) -> list[Outcome]:
        """Place the versions, then the configuration that names them, then take away what it doesn't name."""
        name = published.name
        lacking = sorted(number for number, version in versions.items() if version.engine is None)
        outcomes = []
        for number, version in versions.items():
            engine = None if lacking else version.engine
            self._place(name, number, version.contract, engine)
            if engine is not None:
                sentence = f"is served by {version.sentence}"
            elif version.engine is None:
                sentence = f"is served without an engine: {version.sentence}"
            else:
                sentence = f"is served without its engine, for version {lacking[0]} has none and Triton mixes neither"
            outcomes.append(Outcome(model=name, version=number, sentence=sentence, engine=engine is not None))
        if versions:
            runtime: Runtime = "onnxruntime" if lacking else "tensorrt"
            text = text_format.MessageToString(_config(config, runtime, sorted(versions)))
            self._configure(name, withdrawn_line(self._source.withdrawn(name)) + text)
        for number in set(self._output.versions(name)) - versions.keys():
            self._remove(self._output.version_dir(name, number))
        return outcomes

    def _place(self, name: str, number: int, contract: Contract, engine: Path | None) -> None:
        source, target = self._source.version_dir(name, number), self._output.version_dir(name, number)
        with tempfile.TemporaryDirectory(dir=self._output.staging, prefix="draft-") as draft:
            folder = Path(draft, "new")
            folder.mkdir()
            here = _filled(folder, contract, source, None if engine == source else engine)
            if _holds(target, here):
                return
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                target.rename(Path(draft, "old"))
            folder.rename(target)

    def _configure(self, name: str, text: str) -> None:
        target = self._output.root / name / CONFIG_FILE
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            return
        aside = self._output.staging / CONFIG_FILE
        aside.write_text(text, encoding="utf-8")
        aside.replace(target)

    def _remove(self, folder: Path) -> None:
        """Out of the repository in one step, then from the disk."""
        with tempfile.TemporaryDirectory(dir=self._output.staging, prefix="removed-") as removed:
            folder.rename(Path(removed, folder.name))


def _filled(folder: Path, contract: Contract, source: Path, engine: Path | None) -> Contract:
    """Fill `folder` with a version's files, its engine, and a contract that names these, which is returned."""
    kept = contract.artifacts
    if engine is not None:
        kept = tuple(entry for entry in kept if entry.role not in ("engine", "passport"))
    for entry in kept:
        (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
        _link(source / entry.path, folder / entry.path)
    if engine is not None:
        roles = {MODEL_FILE["tensorrt"]: "engine", PASSPORT_FILE: "passport"}
        for file in roles:
            _link(engine / file, folder / file)
        kept += tuple(artifact(folder, file, role) for file, role in roles.items())
    here = contract.model_copy(update={"artifacts": kept})
    here.save(folder)
    return here


def _holds(target: Path, contract: Contract) -> bool:
    """Whether the version is there already, file by file."""
    with suppress(ContractError):
        if (target / CONTRACT_FILE).is_file() and Contract.load(target) == contract:
            verify(contract, target)
            return True
    return False


def _config(config: ModelConfig, runtime: Runtime, versions: list[int]) -> ModelConfig:
    """The published configuration with the runtime of this node, where it isn't another backend's."""
    made = model_config_pb2.ModelConfig()
    made.CopyFrom(config)
    made.version_policy.specific.versions[:] = versions
    if (config.backend or config.platform) not in _COMPILED:
        return made
    compiled = runtime == "tensorrt"
    made.backend, made.platform = ("", "tensorrt_plan") if compiled else ("onnxruntime", "")
    made.default_model_filename = MODEL_FILE[runtime]
    made.ClearField("cc_model_filenames")
    group = model_config_pb2.ModelInstanceGroup
    for instances in made.instance_group:
        instances.kind = group.KIND_GPU if compiled else group.KIND_AUTO
    return made


def _described(passport: Passport) -> str:
    error = "" if passport.max_error is None else f", within {passport.max_error:.1e} of its graph"
    return f"{passport.engine} of {passport.builder} {passport.builder_version} for {passport.targets}{error}"


def _link(source: str | Path, target: str | Path) -> None:
    """The same file where both lie on one volume, else a copy of it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
