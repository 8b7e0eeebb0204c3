"""Reading a Dockerfile: its instructions, continued lines joined, comments left out."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction."""

    name: str
    text: str


def instructions(path: Path) -> list[Step]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [Step(name, text.strip()) for name, _, text in found]
