"""Golden samples: a few real inputs with the outputs the trained model gave, kept beside every version.

Whoever loads the version elsewhere can hold its answers against them. One `.npz` file, arrays named `input.<tensor>`
and `output.<tensor>`.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.error import ContractInvalid

GOLDEN_FILE = "golden.npz"


@dataclass(frozen=True, slots=True)
class Golden:
    """Input and output tensors `[N, ...]` by name."""

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]

    def save(self, version_dir: Path) -> Path:
        """Write the file into a version's folder."""
        path = version_dir / GOLDEN_FILE
        arrays = {f"input.{k}": v for k, v in self.inputs.items()} | {f"output.{k}": v for k, v in self.outputs.items()}
        np.savez_compressed(path, allow_pickle=False, **arrays)
        return path

    @classmethod
    def load(cls, version_dir: Path) -> "Golden":
        """Read the file; raises ContractInvalid when it isn't there or isn't one."""
        sides: dict[str, dict[str, NDArray[Any]]] = {"input": {}, "output": {}}
        try:
            with np.load(version_dir / GOLDEN_FILE, allow_pickle=False) as arrays:
                for key in arrays.files:
                    side, _, name = key.partition(".")
                    sides[side][name] = arrays[key]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
            where = f"{version_dir.parent.name}/{version_dir.name}/{GOLDEN_FILE}"
            raise ContractInvalid(f"{where} can't be read: {exc!s:.120}") from exc
        return cls(sides["input"], sides["output"])
