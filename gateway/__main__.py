"""`python -m gateway`: a gateway of one or several processes, configured by `TIDEGATE_*` environment variables."""

import ctypes
import logging
import signal
import sys

from pydantic import ValidationError

from gateway.error import ConfigurationError
from gateway.log import configure
from gateway.process import supervise
from gateway.server import run
from gateway.setting import Settings

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run; returns the exit code: 2 when the configuration is wrong, 1 when a port can't be had."""
    try:
        settings = Settings()
    except ValidationError as exc:
        logging.error("a setting is not valid: TIDEGATE_%s: %s", *_first(exc))
        return 2
    configure(settings.log_level, json=settings.log_json)
    try:
        if settings.processes > 1:
            return supervise(settings)
        if settings.share_ports and sys.platform == "linux":  # one of several: it ends with their parent
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        run(settings)
    except ConfigurationError as exc:
        logging.error("%s", exc)
        return 2
    except OSError as exc:
        logging.error("%s", exc)
        return 1
    return 0


def _first(exc: ValidationError) -> tuple[str, str]:
    error = exc.errors()[0]
    return "_".join(str(part) for part in error["loc"]).upper(), error["msg"]


if __name__ == "__main__":
    sys.exit(main())
