"""The gateway's settings, from `TIDEGATE_*` environment variables or arguments."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every bound and address of one gateway process."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", frozen=True, extra="forbid")

    repository: Path = Path("model_repository")
    triton: str = "127.0.0.1:8001"  # host:port of its gRPC endpoint, or several, separated by commas
    routes: Path | None = None
    feedback_keys: Path | None = None
    api_keys: Path | None = None
    host: str = "127.0.0.1"
    http_port: int = Field(default=8080, ge=0, le=65535)
    grpc_port: int = Field(default=8081, ge=0, le=65535)
    metrics_port: int = Field(default=8082, ge=0, le=65535)  # with several processes, the first of as many
    processes: int = Field(default=1, ge=1, le=64)
    share_ports: bool = False  # with other processes of this host: set for the processes of one gateway

    request_timeout_s: float = Field(default=10.0, gt=0)
    drain_timeout_s: float = Field(default=10.0, gt=0)
    poll_interval_s: float = Field(default=1.0, gt=0)
    max_inflight: int = Field(default=512, ge=1)
    max_connections: int = Field(default=4096, ge=1)
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    max_items: int = Field(default=64, ge=1)
    shared_memory_bytes: int | None = Field(default=None, ge=0)  # per Triton; None: 32 MiB for one on this host
    upstream_calls: int = Field(default=2, ge=1)  # in flight per version and signature, of all processes together
    # How long one call that is alone in the process keeps it awake for its answer; waking up takes a tenth of a ms.
    busy_poll_us: int = Field(default=500, ge=0, le=10_000)
    preprocess_threads: int = Field(default=4, ge=1)
    decode_bytes: int = Field(default=256 * 1024 * 1024, ge=16 * 1024 * 1024)  # for images that are being decoded
    # Samples a second of each version whose features are counted, in the long run; more of them tell nothing more.
    observed_per_s: int = Field(default=2000, ge=1)
    # Requests that show a drift: none, their ids and bins, or their inputs too. In memory, but whoever can reach the
    # gateway can read them: see docs/drift.md before switching it on.
    examples: Literal["off", "ids", "inputs"] = "off"
    counting: bool = True  # metrics and drift: only a benchmark of their cost switches them off

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_json: bool = False
    log_sample: float = Field(default=0.01, ge=0, le=1)  # share of the answered requests that get a line in the log
    trace_endpoint: str | None = None  # OTLP over HTTP, for example http://collector:4318
    trace_sample: float = Field(default=0.01, ge=0, le=1)
