"""`python -m serving`: start Triton, keep its models in step with the repository, and keep it running.

    python -m serving --repository model_repository                      a Triton of this machine (see serving.runtime)
    python -m serving --repository model_repository --address triton:8001   a Triton that someone else runs

Ends in order on SIGTERM and SIGINT. Exit codes: 0 stopped as told, 1 Triton could not be started, 2 wrong arguments.
"""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from contract.repository import Repository
from serving.builder import local_node
from serving.control import Control
from serving.error import ServingError
from serving.launcher import Launcher, LaunchSettings, Ports
from serving.loader import Loader
from serving.runtime import find
from serving.supervisor import Supervisor, SupervisorSettings

_LOG = logging.getLogger("serving")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal ends it; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=options.log_level.upper())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        supervision = SupervisorSettings(interval_s=options.interval)
        launcher = None if options.address else _launcher(options)
    except ValueError as exc:
        parser.error(str(exc))
    except ServingError as exc:
        _LOG.error("%s", exc)
        return 1
    address = options.address or f"{options.host}:{options.grpc_port}"
    with Control(address, stop=stop) as triton:
        node = None if options.address else local_node()
        loader = Loader(Repository(options.repository), triton, load_timeout_s=options.load_timeout, node=node)
        try:
            Supervisor(loader, launcher, stop=stop, settings=supervision).run()
        except ServingError as exc:
            _LOG.error("%s", exc)
            return 1
    _LOG.info("stopped")
    return 0


def _launcher(options: argparse.Namespace) -> Launcher:
    runtime = find(options.state_dir, binary=options.binary, venv=options.venv)
    settings = LaunchSettings(
        repository=options.repository,
        state_dir=options.state_dir,
        host=options.host,
        ports=Ports(http=options.http_port, grpc=options.grpc_port, metrics=options.metrics_port),
        start_timeout_s=options.start_timeout,
        stop_timeout_s=options.stop_timeout,
    )
    return Launcher(runtime, settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Run Triton on a model repository.")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--address", help="host:port of the gRPC endpoint of a Triton run by someone else")
    parser.add_argument("--binary", type=Path, help="Triton's binary; without it: PATH, then the wheel's environment")
    parser.add_argument("--venv", type=Path, help="environment that holds nvidia-pytriton (default: .venv-triton)")
    parser.add_argument("--state-dir", type=Path, default=Path("run/triton"), help="for Triton's log and backends")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two looks at the repository")
    parser.add_argument("--start-timeout", type=float, default=60.0, help="seconds until Triton must be ready")
    parser.add_argument("--stop-timeout", type=float, default=4.0, help="seconds from SIGTERM to SIGKILL")
    parser.add_argument("--load-timeout", type=float, default=300.0, help="seconds that loading one model may take")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


if __name__ == "__main__":
    sys.exit(main())
