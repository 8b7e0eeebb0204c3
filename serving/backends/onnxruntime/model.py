"""Triton's `onnxruntime` backend for machines whose Triton has none: a Python-based backend around ONNX Runtime.

Triton's own C++ backend of the same name reads the same `config.pbtxt`, so one repository loads in both. This file
runs in Triton's Python stub, in Triton's own virtual environment: it can't import anything else of ours.

A call of `execute` brings the requests that the dynamic batcher put together. Those whose tensors agree in all but the
batch axis run as one batch. If such a batch fails, its requests run alone, so that only the bad one gets an error.

Optional parameters in `config.pbtxt`, as in the C++ backend: `intra_op_thread_count`, `inter_op_thread_count`,
`graph_optimization_level` (-1 none, 1 basic, 2 extended, 99 all).

Source: https://github.com/triton-inference-server/backend/blob/main/docs/python_based_backends.md
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

# Measured on 2 cores: two threads answer twice as fast as one from about half a millisecond of compute on (13 instead
# of 26 ms for a batch of 32 images), and cost 20 us below. They don't spin between requests: that gained nothing on
# large batches, and takes the core that Triton and the gateway need.
MAX_DEFAULT_THREADS = 4

DATATYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
OPTIMIZATION_LEVELS = {
    "-1": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "1": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "2": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "99": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_PATH = re.compile(r"(?<![\w.])/[^\s:'\"]*/([^\s:/'\"]+)")


class TritonPythonModel:
    """One instance of one version; the name is what Triton's stub looks for."""

    def initialize(self, args):
        """Open the version's ONNX file and hold it against the config; a TritonModelException names what's wrong."""
        config = json.loads(args["model_config"])
        self._batched = int(config.get("max_batch_size", 0)) > 0
        self._session = _open(config, args)
        problem = _disagreement(config, self._session)
        if problem:
            raise pb_utils.TritonModelException(problem)
        self._inputs = tuple(node.name for node in self._session.get_inputs())
        self._outputs = tuple(entry["name"] for entry in config["output"])
        self._strings = {node.name for node in self._session.get_inputs() if node.type == "tensor(string)"}

    def execute(self, requests):
        """One response a request, in order."""
        if len(requests) == 1:
            return [self._answer_alone(requests[0])]
        responses = [None] * len(requests)
        groups = {}
        for position, request in enumerate(requests):
            try:
                feed = self._feed(request)
            except _BadTensor as exc:
                responses[position] = _failure(exc)
                continue
            # Without a batch axis nothing can be put together: every request is a group of its own.
            key = tuple(feed[name].shape[1:] for name in self._inputs) if self._batched else position
            groups.setdefault(key, []).append((position, request, feed))
        for members in groups.values():
            for (position, _, _), response in zip(members, self._answer_group(members), strict=True):
                responses[position] = response
        return responses

    def finalize(self):
        """Give the session's memory back before the process ends."""
        self._session = None

    def _answer_alone(self, request):
        try:
            return self._answer(request, self._feed(request))
        except _BadTensor as exc:
            return _failure(exc)

    def _answer(self, request, feed):
        names = self._wanted(request)
        try:
            return _success(names, self._session.run(names, feed))
        except Exception as exc:  # ONNX Runtime raises classes of its own for each status, all of them plain Exceptions
            return _failure(exc)

    def _answer_group(self, members):
        if len(members) == 1:
            return [self._answer(request, feed) for _, request, feed in members]
        wanted = [self._wanted(request) for _, request, _ in members]
        names = [name for name in self._outputs if any(name in some for some in wanted)]
        sizes = [feed[self._inputs[0]].shape[0] for _, _, feed in members]
        try:
            joined = {name: np.concatenate([feed[name] for _, _, feed in members]) for name in self._inputs}
            arrays = self._session.run(names, joined)
        except Exception:  # one of them is bad, and only running each alone tells which
            return [self._answer(request, feed) for _, request, feed in members]
        if any(array.ndim == 0 or array.shape[0] != sum(sizes) for array in arrays):
            # A graph that mixes its rows has no answer for each request in a joined run.
            return [self._answer(request, feed) for _, request, feed in members]
        ends = np.cumsum(sizes)
        outputs = dict(zip(names, arrays, strict=True))
        return [
            _success(some, [outputs[name][end - size : end] for name in some])
            for some, size, end in zip(wanted, sizes, ends, strict=True)
        ]

    def _wanted(self, request):
        """Output names that the request asks for, in the config's order; none named means all."""
        asked = request.requested_output_names()
        return [name for name in self._outputs if name in asked] if asked else list(self._outputs)

    def _feed(self, request):
        """Array by input name; _BadTensor when one is missing or the batch axes differ."""
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        feed = {}
        for name in self._inputs:
            if name not in tensors:
                raise _BadTensor(f"input {name!r} is missing")
            array = tensors[name].as_numpy()
            feed[name] = _decoded(name, array) if name in self._strings else array
        if self._batched and len({array.shape[:1] for array in feed.values()}) > 1:
            raise _BadTensor(f"the inputs differ in their batch axis: {[array.shape[0] for array in feed.values()]}")
        return feed


class _BadTensor(Exception):
    """A request's tensor can't be fed to the model; the message says which and why."""


def _open(config, args):
    name = config.get("default_model_filename") or "model.onnx"
    path = Path(args["model_repository"], args["model_version"], name)
    where = f"{args['model_name']}/{args['model_version']}/{name}"
    if not path.is_file():
        raise pb_utils.TritonModelException(f"{where} doesn't exist: the version's folder must hold the ONNX file")
    options = _options(config)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # whatever the parser met: every ONNX Runtime status is a class of its own
        raise pb_utils.TritonModelException(f"{where} can't be loaded: {_plain(exc)}") from None


def _options(config):
    parameters = {key: entry.get("string_value", "") for key, entry in config.get("parameters", {}).items()}
    options = ort.SessionOptions()
    options.intra_op_num_threads = _integer(parameters, "intra_op_thread_count") or _default_threads()
    options.inter_op_num_threads = _integer(parameters, "inter_op_thread_count") or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    level = parameters.get("graph_optimization_level", "99")
    if level not in OPTIMIZATION_LEVELS:
        expected = ", ".join(OPTIMIZATION_LEVELS)
        raise pb_utils.TritonModelException(f"graph_optimization_level: expected one of {expected}, got {level!r}")
    options.graph_optimization_level = OPTIMIZATION_LEVELS[level]
    options.log_severity_level = 3
    return options


def _default_threads():
    return min(len(os.sched_getaffinity(0)), MAX_DEFAULT_THREADS)


def _integer(parameters, key):
    value = parameters.get(key, "0")
    if not value.isdecimal():
        raise pb_utils.TritonModelException(f"{key}: expected a non-negative integer, got {value!r}")
    return int(value)


def _disagreement(config, session):
    """One sentence when config and graph differ in names, datatypes, ranks or the batch axis; else None."""
    batched = int(config.get("max_batch_size", 0)) > 0
    for direction, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
        graph = {node.name: node for node in nodes}
        entries = {entry["name"]: entry for entry in config.get(direction, [])}
        unknown = sorted(entries.keys() - graph.keys())
        unnamed = sorted(graph.keys() - entries.keys()) if direction == "input" else []
        if unknown or unnamed:
            return f"config.pbtxt names the {direction}s {sorted(entries)}; the model has {sorted(graph)}"
        for name, entry in entries.items():
            problem = _tensor_disagreement(entry, graph[name], batched)
            if problem:
                return f"{direction} {name!r}: {problem}"
    return None


def _tensor_disagreement(entry, node, batched):
    if DATATYPES.get(node.type) != entry["data_type"]:
        return f"config.pbtxt says {entry['data_type']}, the model has {node.type}, which is " + (
            DATATYPES.get(node.type) or "not supported by this backend"
        )
    shape = list(node.shape)
    if batched and (not shape or isinstance(shape[0], int)):
        return f"max_batch_size needs a dynamic first axis, the model has shape {shape}: export it so, or set 0"
    dims = [int(dim) for dim in entry.get("reshape", {}).get("shape", entry["dims"])]
    sample = shape[1:] if batched else shape
    fits = len(dims) == len(sample)
    fits = fits and all(not isinstance(b, int) or a in (-1, b) for a, b in zip(dims, sample, strict=True))
    return None if fits else f"config.pbtxt says {dims} a sample, the model has {sample}"


def _decoded(name, array):
    """ONNX strings are text; Triton's BYTES are bytes."""
    try:
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError:
        raise _BadTensor(f"input {name!r}: a BYTES element isn't UTF-8") from None
    decoded = np.empty(len(flat), dtype=np.object_)
    decoded[:] = flat
    return decoded.reshape(array.shape)


def _success(names, arrays):
    return pb_utils.InferenceResponse(
        output_tensors=[
            pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in zip(names, arrays, strict=True)
        ]
    )


def _failure(exc):
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(_plain(exc)))


def _plain(exc):
    """The message on one line, file names without the folders they lie in."""
    return _PATH.sub(r"\1", " ".join(str(exc).split()))[:500]
