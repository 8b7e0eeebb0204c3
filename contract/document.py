"""The base of every model that is written to a file."""

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """Frozen, and closed: an unknown field is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
