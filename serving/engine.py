"""`python -m serving.engine`: the engines of a repository's versions, built on the node that serves them.

    python -m serving.engine --repository /models --cache /cache --output /serve   an init container's whole work
    python -m serving.engine --repository /models --cache /cache --output /serve --watch 10   and a sidecar's
    python -m serving.engine --repository /models --cache /cache --model fashion-mnist       fills the cache only

`/models` may be read-only. `/serve` becomes a repository of its own, made of links (or copies, from another volume), in
which every version has an engine, or the reason why its ONNX file is served is printed in one sentence. Triton and
`python -m serving` are started on it. Running it again builds and changes nothing.

Exit codes: 0 every published version can be served, 1 it could not be done and one sentence says why, 2 wrong
arguments, 3 done, but a version was refused, for its files aren't what its contract says.
"""

import argparse
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.error import ContractError
from contract.golden import Golden
from contract.passport import Passport
from contract.repository import Repository
from contract.schema import Contract
from contract.triton import MODEL_FILE
from serving.builder import available, find_builder, local_node
from serving.cache import EngineCache
from serving.compilation import build
from serving.error import EngineUnavailable, RepositoryMissing, ServingError
from serving.node import Node, Outcome

__all__ = ["available", "build", "local_node", "main"]

_LOG = logging.getLogger("serving.engine")
_DAY_S = 86_400
_POLL_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare what is served; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.model is None) == (options.output is None):
        parser.error("expected either --output, or --model to fill the cache for one model")
    if (options.version and not options.model) or (options.watch and not options.output):
        parser.error("--version goes with --model, and --watch with --output")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=options.log_level.upper())
    try:
        return _run(options)
    except (ServingError, ContractError, OSError) as exc:
        _LOG.error("%s", exc)
        return 1


def _run(options: argparse.Namespace) -> int:
    source = Repository(options.repository)
    engines = _engines(options)
    if options.output is None:
        return _fill(source, engines, options.model, options.version)
    node = Node(source=source, output=Repository(options.output), engines=engines)
    code = _report(_prepared(node, options.wait))
    if engines.cache is not None:
        engines.cache.prune(options.keep_days * _DAY_S)
    if options.watch is not None:
        _watch(node, options.watch)
    return code


def _prepared(node: Node, wait_s: float) -> list[Outcome]:
    """What became of each version; a repository that isn't there yet is waited for that long."""
    deadline, said = time.monotonic() + wait_s, False
    while True:
        try:
            return node.prepare()
        except RepositoryMissing as exc:
            if time.monotonic() >= deadline:
                raise
            if not said:
                _LOG.warning("%s; waiting for it for up to %.0f s", exc, wait_s)
            said = True
            time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))


def _watch(node: Node, interval_s: float) -> None:
    """Go on until a signal ends it; what can't be done now may be done the next time."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(interval_s):
        try:
            _report(node.prepare())
        except ServingError as exc:
            _LOG.error("%s", exc)


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalEngines:
    """The engines of this machine: a version's own where it fits, else the cache's; `why_none` where there are none."""

    cache: EngineCache | None = None
    why_none: str = ""

    def find(self, contract: Contract, folder: Path, /) -> Path:
        """Folder with the engine; raises EngineError, in one sentence, where clients can't be answered by one."""
        if self.cache is None:
            raise EngineUnavailable(self.why_none)
        own, node = contract.artifact("engine"), local_node()
        if node is not None and own is not None and own.path == MODEL_FILE["tensorrt"]:
            passport = Passport.load(folder)
            if (passport.misfit(*node) or passport.doubt()) is None:
                return folder
        if contract.artifact("golden") is None:
            raise EngineUnavailable("it has no golden samples that an engine could be held against")
        found = self.cache.engine(folder / MODEL_FILE["onnxruntime"], contract, Golden.load(folder))
        doubt = Passport.load(found).doubt()
        if doubt is not None:
            raise EngineUnavailable(doubt)
        return found


def _engines(options: argparse.Namespace) -> LocalEngines:
    try:
        builder = find_builder()
    except EngineUnavailable as exc:
        return LocalEngines(why_none=str(exc))
    if builder.name != "tensorrt":
        return LocalEngines(why_none=f"no NVIDIA GPU with the package tensorrt was found, only {builder.title}")
    return LocalEngines(cache=EngineCache(folder=options.cache, builder=builder, lock_timeout_s=options.lock_timeout))


def _fill(source: Repository, engines: LocalEngines, model: str, version: int | None) -> int:
    """Build one version's engine, or those of all of a model's versions, into the cache."""
    if engines.cache is None:
        raise EngineUnavailable(engines.why_none)
    for number in [version] if version is not None else source.versions(model):
        contract = source.contract(model, number, verified=True)
        _LOG.info("%s version %d: %s", model, number, engines.find(contract, source.version_dir(model, number)))
    return 0


def _report(outcomes: Sequence[Outcome]) -> int:
    for outcome in outcomes:
        level = logging.INFO if outcome.engine else logging.ERROR if outcome.refused else logging.WARNING
        _LOG.log(level, "%s", outcome)
    return 3 if any(outcome.refused for outcome in outcomes) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.engine", description="Build the engines of a repository's versions on this node."
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="may be read-only")
    parser.add_argument("--output", type=Path, help="repository to make, which Triton is started on")
    parser.add_argument("--cache", type=Path, default=Path("run/engines"), help="folder on a volume that stays")
    parser.add_argument("--model", help="fill the cache for this model only, without --output")
    parser.add_argument("--version", type=int, help="of --model; all its versions without it")
    parser.add_argument("--watch", type=_seconds, help="go on, and look for new versions every so many seconds")
    parser.add_argument("--wait", type=_seconds, default=0.0, help="seconds to wait for a repository that isn't there")
    parser.add_argument("--lock-timeout", type=_seconds, default=900.0, help="seconds to wait for another builder")
    parser.add_argument("--keep-days", type=_seconds, default=30.0, help="engines that nothing used for longer go")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
