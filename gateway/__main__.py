"""`python -m gateway`: one gateway process, configured by `TIDEGATE_*` environment variables."""

import logging
import sys

from pydantic import ValidationError

from gateway.server import run
from gateway.setting import Settings


def main() -> int:
    """Run; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        run(Settings())
    except ValidationError as exc:
        logging.error("a setting is not valid: TIDEGATE_%s: %s", *_first(exc))
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
