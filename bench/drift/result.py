"""What was measured, as files keep it between runs."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Alarms(_Document):
    """False alarms of one kind of traffic: how many, in how many months of how many features."""

    traffic: str
    way: str
    alarms: int
    months: float
    seconds: float

    @property
    def per_month(self) -> float:
        """Alarms a model-month."""
        return self.alarms / self.months


class Delay(_Document):
    """Samples from a shift until an alarm, of each repetition; None where none came in time."""

    shift: str
    way: str
    rate: float
    samples: tuple[float | None, ...]
    limit: float  # samples after which the run ended


class Look(_Document):
    """One way of looking at data sets of 30 features: how many looks flagged anything, and how many what shifted."""

    way: str
    version: str
    data: str
    num_samples: int
    looks: int
    flagged: int
    found: int | None = None  # looks in which the shifted features were flagged, where there were any
    seconds_a_look: float
    note: str = ""


class Costs(_Document):
    """What thirty features cost: microseconds a request, milliseconds a scrape and a minute, seconds at start."""

    counting_us: float
    with_examples_us: float
    scrape_ms: float
    most_series: int
    lane_start_s: float
    lane_minute_ms: float


class Evaluation(_Document):
    """Everything that is known; a run replaces what it measured again and leaves the rest."""

    alarms: tuple[Alarms, ...] = ()
    delays: tuple[Delay, ...] = ()
    looks: tuple[Look, ...] = ()
    failures: tuple[str, ...] = ()
    costs: Costs | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """What the file holds, or nothing where there is none."""
        return cls.model_validate_json(path.read_bytes()) if path.is_file() else cls()

    def save(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")
