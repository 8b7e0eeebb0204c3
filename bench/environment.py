"""The peers: what each is, and the virtual environment of its own that it runs in, made when it is first wanted."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.error import ServerError
from bench.kind import HOST, HttpKind, plain_json, v2_json
from bench.model import MAX_BATCH_SIZE, Model
from bench.server import Server

INSTALL_TIMEOUT_S = 900
_RUNTIME = "onnxruntime==1.32.0"  # the version that Triton's environment has, see setup.sh
_V2_PATH = "/v2/models/model/infer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Another server, and how it is set up on two cores.

    It is one module of `bench/peer`, and it listens on `port` of this machine, perhaps on the next two as well.
    `settings` says in words what the module sets. `suspend` is for one that takes a core's time while nothing is asked:
    LitServe polls, 12 % of a core. Of the others none takes half a percent.
    """

    id: str
    requirement: str
    port: int
    settings: str
    ask: Callable[[str, str, Model], HttpKind]
    path: str
    suspend: bool = False

    def kind(self, model: Model) -> HttpKind:
        """How it is asked."""
        return self.ask(self.id, f"http://{HOST}:{self.port}{self.path}", model)

    def server(self, model: Model, folder: Path) -> Server:
        """The process, with its environment in `folder`."""
        return Server(
            name=self.id,
            command=[str(folder / "bin" / "python"), "-m", f"bench.peer.{self.id}"],
            environment={
                "BENCH_MODEL": str(model.onnx.resolve()),
                "BENCH_PORT": str(self.port),
                "BENCH_BATCH": str(MAX_BATCH_SIZE),
                "HOME": str(folder.resolve()),  # what a peer keeps for itself stays with it
            },
            log=folder / f"{model.name}.log",
            suspend=self.suspend,
        )


PEERS = (
    Peer(
        id="mlserver",
        requirement="mlserver==1.7.1",
        port=18200,
        settings="V2 JSON; one process (`parallel_workers` 0), adaptive batching of up to 64 within 1 ms",
        ask=v2_json,
        path=_V2_PATH,
    ),
    Peer(
        id="kserve",
        requirement="kserve==0.21.0",
        port=18210,
        settings="V2 JSON; one process; its Python server has no batching, that is a sidecar's",
        ask=v2_json,
        path=_V2_PATH,
    ),
    Peer(
        id="litserve",
        requirement="litserve==0.2.19",
        port=18220,
        settings="own JSON; one API and one worker process, `fast_queue`, batching of up to 64 within 1 ms; it polls "
        "when idle, so it is suspended while others are measured",
        suspend=True,
        ask=lambda kind, url, model: plain_json(kind, url, model, lambda answer: answer["scores"]),
        path="/predict",
    ),
    Peer(
        id="bentoml",
        requirement="bentoml==1.4.39",
        port=18230,
        settings="own JSON; one worker, adaptive batching of up to 64 within 1 s, tuned by itself: "
        "once it has seen many connections, it holds single requests back",
        ask=lambda kind, url, model: plain_json(kind, url, model, lambda answer: answer[0], nested=True),
        path="/predict",
    ),
    Peer(
        id="mosec",
        requirement="mosec==0.9.8",
        port=18240,
        settings="own JSON; its controller (Rust) and one worker process, batching of up to 64 within 1 ms",
        ask=lambda kind, url, model: plain_json(kind, url, model, lambda answer: answer["scores"]),
        path="/inference",
    ),
)


def install(peer: Peer, folder: Path) -> Mapping[str, str]:
    """Make the peer's environment unless it is there; returns the versions in it, raises ServerError."""
    python, stamp = folder / "bin" / "python", folder / ".stamp"
    wanted = f"{peer.requirement} {_RUNTIME}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], peer)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *wanted.split()], peer)
        stamp.write_text(wanted)
    names = [part.partition("==")[0] for part in wanted.split()]
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    versions: dict[str, str] = json.loads(_run([str(python), "-c", code], peer))
    return versions


def _run(command: list[str], peer: Peer) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=True, stdin=subprocess.DEVNULL
        ).stdout
    except subprocess.CalledProcessError as exc:
        lines = exc.stderr.strip().splitlines() or ["no word why"]
        raise ServerError(f"{peer.requirement} can't be installed: {lines[-1][:200]}") from exc
    except (subprocess.TimeoutExpired, OSError) as exc:
        raise ServerError(f"{peer.requirement} can't be installed: {exc}") from exc
