"""The files that are made by code and kept in the repository, so that they can be read, reviewed and mounted."""

from pathlib import Path

from monitoring.alertmanager import ALERTMANAGER_FILE, alertmanager_configuration
from monitoring.boardbook import BOARDS_FOLDER, board_texts
from monitoring.file import write_texts
from monitoring.prometheus import CONFIG_FILE, configuration
from monitoring.rulebook import ALERTS_FILE, RULES_FILE, alerts_text, rules_text

COMPOSE_CONFIG_FILE = "compose.prometheus.yml"  # for compose.yaml, which has an Alertmanager beside Prometheus


def generated_texts() -> dict[str, str]:
    """Text of every generated file by its path below this package's folder."""
    return {
        CONFIG_FILE: configuration(),
        COMPOSE_CONFIG_FILE: configuration(alertmanagers=["127.0.0.1:9093"]),
        RULES_FILE: rules_text(),
        ALERTS_FILE: alerts_text(),
        ALERTMANAGER_FILE: alertmanager_configuration(),
        **{f"{BOARDS_FOLDER}/{name}": text for name, text in board_texts().items()},
    }


def write_generated(folder: Path) -> list[Path]:
    """Write the generated files below a folder and return those whose text changed."""
    return write_texts(folder, generated_texts())
