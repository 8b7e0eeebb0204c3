"""What predict costs without any server: a process that decodes image files and runs the model, one after the other.

`python -m bench.loop <version folder> <threads, 0 for ONNX Runtime's default> <seconds>`; the files come on standard
input, each behind its length in four bytes. Decoding is the gateway's own: the two differ in everything around it.
"""

import io
import itertools
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from bench.load import Figures
from contract import Contract
from contract.preprocess import preprocessor

_WARM_UP_S = 0.3


def main() -> None:
    """Run, and print the figures as JSON."""
    folder, threads, duration_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    prepare = preprocessor(Contract.load(folder), folder)
    assert prepare is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    start = time.perf_counter() + _WARM_UP_S
    latencies_s = []
    for file in itertools.cycle(read_files(sys.stdin.buffer.read())):
        began = time.perf_counter()
        if began >= start + duration_s:
            break
        session.run(None, prepare([file]).tensors)
        if began >= start:
            latencies_s.append(time.perf_counter() - began)
    p50, p99 = np.percentile(latencies_s, (50, 99)) * 1000
    num = len(latencies_s)
    print(  # noqa: T201
        Figures(answers_per_s=num / sum(latencies_s), p50_ms=p50, p99_ms=p99, num_answers=num).model_dump_json()
    )


def read_files(data: bytes) -> list[bytes]:
    """Take apart what was put together as length and bytes."""
    files, stream = [], io.BytesIO(data)
    while length := stream.read(4):
        files.append(stream.read(int.from_bytes(length, "big")))
    return files


if __name__ == "__main__":
    main()
