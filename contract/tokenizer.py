"""Loading the tokenizer that a version carries."""

from pathlib import Path

from tokenizers import Tokenizer

from contract.error import ContractInvalid


def load(version_dir: Path, file: str) -> Tokenizer:
    """The tokenizer in a version's folder; raises ContractInvalid when it can't be loaded."""
    try:
        return Tokenizer.from_file(str(version_dir / file))
    except Exception as exc:  # the library raises a bare Exception
        raise ContractInvalid(f"{file} can't be loaded as a tokenizer: {exc!s:.120}") from exc
