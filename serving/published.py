"""What a model repository asks to be served: the named versions of each model, and which of them can be trusted.

A version is refused when its folder is missing, when its contract or a file isn't what training wrote, or when its
engine is one that Triton can't load, or that was never held against its graph. Looking is cheap (file times and
sizes); hashing happens only after a change.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from contract.digest import sha256_of
from contract.error import ContractError
from contract.passport import Passport
from contract.repository import CONFIG_FILE, Repository
from contract.schema import CONTRACT_FILE
from serving.control import ModelConfig

Stamp = tuple[tuple[str, int, int, int], ...]
"""Path, modification time in ns, size and inode of files: changes when any of them does."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model as the repository has it now. `config` is None when `config.pbtxt` can't be used; `problem` says why."""

    name: str
    config: ModelConfig | None
    config_stamp: Stamp
    named_versions: tuple[int, ...] = ()
    stamp: Stamp = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Examined:
    """Versions that may be loaded, each with what identifies its files, and the others with the reason."""

    accepted: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


def look(repository: Repository, name: str, before: Published | None = None) -> Published | None:
    """The model as it is now, parsing its config only when that changed; None when it is being taken away."""
    path = repository.root / name / CONFIG_FILE
    try:
        config_stamp = _stamp([path])
        if before is None or before.config_stamp != config_stamp:
            before = _read(name, path.read_text(encoding="utf-8"), config_stamp)
        # Folders that come and go count too: the policy may say "the latest", and a named folder may appear.
        named = before.named_versions if before.config is None else _named(before.config, repository.versions(name))
        files = _files(repository, name, named)
        stamp = _stamp(files)
    except FileNotFoundError:
        return None
    return Published(
        name=name,
        config=before.config,
        config_stamp=config_stamp,
        named_versions=named,
        stamp=config_stamp + stamp,
        problem=before.problem,
    )


def examine(repository: Repository, published: Published, node: tuple[str, str, str] | None = None) -> Examined:
    """Hold every named version against its contract and its engine's passport.

    `node` is (builder, its version, compute capability) of the engines that this machine runs, where it is known.
    """
    examined = Examined()
    present = set(repository.versions(published.name))
    for version in published.named_versions:
        if version not in present:
            examined.refused[version] = f"{CONFIG_FILE} names it, and there is no such folder"
            continue
        try:
            identity = _identity(repository, published, version)
            problem = _engine_problem(repository, published, version, node)
        except (ContractError, OSError) as exc:
            problem = str(exc) if isinstance(exc, ContractError) else f"its files can't be read: {exc.strerror}"
        if problem is None:
            examined.accepted[version] = identity
        else:
            examined.refused[version] = problem
    return examined


def _read(name: str, text: str, stamp: Stamp) -> Published:
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as exc:
        return Published(name=name, config=None, config_stamp=stamp, problem=f"{CONFIG_FILE} can't be read: {exc}")
    if config.name not in ("", name):
        problem = f"{CONFIG_FILE} is the config of {config.name!r}, and lies in the folder {name!r}"
        return Published(name=name, config=None, config_stamp=stamp, problem=problem)
    return Published(name=name, config=config, config_stamp=stamp)


def _named(config: ModelConfig, present: Sequence[int]) -> tuple[int, ...]:
    """Versions that the config's policy asks for; Triton's default policy is the latest one."""
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "specific":
            return tuple(sorted(policy.specific.versions))
        case "all":
            return tuple(present)
        case _:
            return tuple(present[-max(1, policy.latest.num_versions) :])


def _files(repository: Repository, name: str, versions: Sequence[int]) -> list[Path]:
    found: list[Path] = []
    for version in versions:
        for folder, _, files in os.walk(repository.version_dir(name, version)):
            found += (Path(folder, file) for file in sorted(files))
    return found


def _stamp(paths: Sequence[Path]) -> Stamp:
    stats = [(str(path), path.stat(follow_symlinks=False)) for path in paths]
    return tuple((path, stat.st_mtime_ns, stat.st_size, stat.st_ino) for path, stat in stats)


def _identity(repository: Repository, published: Published, version: int) -> str:
    """The contract's digest after all files were held against it; without a contract, the files' stamp."""
    folder = repository.version_dir(published.name, version)
    if not (folder / CONTRACT_FILE).exists():
        return repr(_stamp(_files(repository, published.name, [version])))
    repository.contract(published.name, version, verified=True)
    return sha256_of(folder / CONTRACT_FILE)


def _engine_problem(
    repository: Repository, published: Published, version: int, node: tuple[str, str, str] | None
) -> str | None:
    """Why Triton can't or mustn't load this version's engine, said before it tries; None when it may, or needs none."""
    if published.config is None or published.config.platform != "tensorrt_plan":
        return None
    passport = Passport.load(repository.version_dir(published.name, version))
    if not passport.triton_loadable:
        return f"its engine was built with {passport.builder}; Triton loads engines of tensorrt only"
    return (None if node is None else passport.misfit(*node)) or passport.doubt()
