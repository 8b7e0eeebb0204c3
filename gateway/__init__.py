"""HTTP and gRPC in; preprocess, route, batch, call Triton, count."""

from gateway.app import create_app, create_plane, running
from gateway.setting import Settings

__all__ = ["Settings", "create_app", "create_plane", "running"]
