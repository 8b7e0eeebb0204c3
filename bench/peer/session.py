"""The model as every peer holds it: ONNX Runtime on the CPU, one thread a run.

`BENCH_MODEL` names the ONNX file, with one input and one output whose first axis is the batch; `BENCH_PORT` is where to
listen, `BENCH_BATCH` the most samples that may run at a time.
"""

import os

import numpy as np
import onnxruntime as ort

HOST = "127.0.0.1"
PORT = int(os.environ["BENCH_PORT"])
MAX_BATCH_SIZE = int(os.environ["BENCH_BATCH"])

_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class Session:
    """Answers batches."""

    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        node = self._session.get_inputs()[0]
        self._input, self._shape, self._dtype = node.name, tuple(node.shape[1:]), _DTYPES[node.type]
        self.output = self._session.get_outputs()[0].name

    def __call__(self, samples):
        """Scores `[N, labels]` of N samples, in any form that numpy reads; each may be flat."""
        batch = np.asarray(samples, dtype=self._dtype).reshape(-1, *self._shape)
        return self._session.run(None, {self._input: batch})[0]
