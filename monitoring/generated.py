"""The files that are made by code and kept in the repository, so that they can be read, reviewed and mounted."""

from pathlib import Path

from monitoring.overview import overview
from monitoring.prometheus import CONFIG_FILE, configuration
from monitoring.rulebook import RULES_FILE, rules_text

DASHBOARD_FILE = "dashboards/overview.json"


def generated_texts() -> dict[str, str]:
    """Text of every generated file by its path below this package's folder."""
    return {CONFIG_FILE: configuration(), RULES_FILE: rules_text(), DASHBOARD_FILE: overview()}


def write_generated(folder: Path) -> list[Path]:
    """Write the generated files below a folder and return those whose text changed."""
    changed = []
    for name, text in generated_texts().items():
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        changed.append(path)
    return changed
