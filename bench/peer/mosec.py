"""Mosec: its controller is written in Rust, the worker in Python."""

import os

from mosec import Server, Worker

from bench.peer.session import HOST, MAX_BATCH_SIZE, PORT, Session


class Onnx(Worker):
    """The model."""

    def __init__(self):
        super().__init__()
        self._session = Session()

    def forward(self, data):
        """Answer a batch."""
        return [{"scores": scores} for scores in self._session([sample["x"] for sample in data]).tolist()]


if __name__ == "__main__":
    os.environ |= {"MOSEC_ADDRESS": HOST, "MOSEC_PORT": str(PORT), "MOSEC_LOG_LEVEL": "warning"}
    server = Server()
    server.append_worker(Onnx, num=1, max_batch_size=MAX_BATCH_SIZE, max_wait_time=1)
    server.run()
