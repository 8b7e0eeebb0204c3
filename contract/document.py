"""The base of every model that is written to a file."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

# Labels and categories become label values in Prometheus: never empty, never long.
Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Document(BaseModel):
    """Frozen, and closed: an unknown field is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
