"""BentoML, which tunes its batching itself within the latency it is given: much less, and it refuses requests."""

import os
import sys

import bentoml
import numpy as np

from bench.peer.session import HOST, MAX_BATCH_SIZE, PORT, Session


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Onnx:
    """The model."""

    def __init__(self):
        self._session = Session()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=1000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Answer a batch."""
        return self._session(x)


if __name__ == "__main__":
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    serve = ["-m", "bentoml", "serve", "bench.peer.bentoml:Onnx", "--host", HOST, "--port", str(PORT)]
    os.execv(sys.executable, [sys.executable, *serve])  # noqa: S606
