"""Digests of files: how a version proves that its files are the ones training wrote."""

import hashlib
from pathlib import Path

from contract.error import DigestMismatch
from contract.schema import Artifact, Contract


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def artifact(version_dir: Path, path: str, role: str) -> Artifact:
    """The artifact entry of a file as it is now."""
    file = version_dir / path
    return Artifact.model_validate(
        {"path": path, "role": role, "sha256": sha256_of(file), "size_bytes": file.stat().st_size}
    )


def verify(contract: Contract, version_dir: Path) -> None:
    """Hold every file of a version against its contract; raises DigestMismatch naming the first that differs."""
    for entry in contract.artifacts:
        file = version_dir / entry.path
        where = f"{contract.name}/{contract.version}/{entry.path}"
        if file.is_symlink() or not file.is_file():
            raise DigestMismatch(f"{where} is missing, or no plain file")
        if (size := file.stat().st_size) != entry.size_bytes:
            raise DigestMismatch(f"{where}: expected {entry.size_bytes} bytes, got {size}")
        if (digest := sha256_of(file)) != entry.sha256:
            raise DigestMismatch(f"{where}: expected sha256 {entry.sha256[:12]}..., got {digest[:12]}...")
