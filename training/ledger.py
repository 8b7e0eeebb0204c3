"""Version numbers, each given out once.

A version's number stands in caches, dashboards and incident notes long after its folder is gone, so a number must
never come to mean another version. The ledger remembers the highest one given out for every model; it is on the disk
before the number is used. If someone deletes the ledger, the folders that are left still count.
"""

import json
from pathlib import Path

from contract.repository import Repository
from training.durable import write_atomically
from training.error import PublishFailed

LEDGER_FILE = "ledger.json"


def next_version(repository: Repository, model: str) -> int:
    """Give out the next number of a model; the caller holds the publish lock.

    Raises PublishFailed when the ledger is there and isn't one.
    """
    file = repository.staging / LEDGER_FILE
    given_out = _load(file)
    version = max(given_out.get(model, 0), *repository.versions(model), 0) + 1
    write_atomically(file, json.dumps({**given_out, model: version}, indent=1, sort_keys=True).encode() + b"\n")
    return version


def _load(file: Path) -> dict[str, int]:
    try:
        saved = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        saved = None
    if not isinstance(saved, dict) or not all(isinstance(number, int) for number in saved.values()):
        raise PublishFailed(
            f"{file} is damaged: write into it the highest version number that each model ever had, "
            'as in {"my-model": 7}, and publish again'
        )
    return saved
