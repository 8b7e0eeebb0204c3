"""Requests that differ from an earlier one only in their data: nothing else of them is read again.

A client sends the same JSON again and again with other values in `data`. What surrounds the values, byte for byte, is
a *form*: it was read and checked once. If `before + values + after` is a request and `values` a complete JSON value,
then with any other complete value in that place it is the same request with other data; so the values alone are
parsed, and checked as ever.
"""

from dataclasses import dataclass

import orjson

from contract.tensor import datatype_of, from_values
from gateway.v2 import InferRequest, read_request

MAX_FORMS = 256
MAX_FORM_BYTES = 1024  # before the values, and after them

_DATA = b'"data":'
_MAX_TRIES = 8


@dataclass(frozen=True, slots=True)
class Form:
    """What surrounds the values of a request with one input, and what it means. The request holds no tensors."""

    after: bytes
    input: str
    datatype: str
    shape: tuple[int, ...]
    request: InferRequest


class Forms:
    """Reads JSON requests, and keeps their forms."""

    def __init__(self) -> None:
        self._forms: dict[bytes, Form] = {}

    def __len__(self) -> int:
        return len(self._forms)

    def read(self, body: bytes) -> InferRequest:
        """Read a request; raises what `read_request` raises."""
        start = body.find(_DATA) + len(_DATA)
        form = self._forms.get(body[:start]) if start <= MAX_FORM_BYTES else None
        if form is not None and body.endswith(form.after):
            values = _values(body[start : len(body) - len(form.after)])
            if values is not None:
                tensor = from_values(form.input, form.datatype, form.shape, values)
                return form.request.with_tensors({form.input: tensor})
        request = read_request(body)
        if form is None and len(_DATA) <= start <= MAX_FORM_BYTES:
            self._keep(body, start, request)
        return request

    def _keep(self, body: bytes, start: int, request: InferRequest) -> None:
        if len(request.tensors) != 1 or request.id:  # an id is another one each time
            return
        after = _after(body, start)
        if after is None:
            return
        if len(self._forms) >= MAX_FORMS:
            self._forms.clear()
        [(name, tensor)] = request.tensors.items()
        self._forms[body[:start]] = Form(after, name, datatype_of(tensor), tensor.shape, request.with_tensors({}))


def _after(body: bytes, start: int) -> bytes | None:
    """What follows the value that begins at `start`: a JSON value ends where it is complete, so there is one end."""
    end = len(body)
    for _ in range(_MAX_TRIES):
        end = body.rfind(b"]", start, end)
        if end < 0 or len(body) - end > MAX_FORM_BYTES:
            return None
        if _values(body[start : end + 1]) is not None:
            return body[end + 1 :]
    return None


def _values(text: bytes) -> list[object] | None:
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return values if type(values) is list else None
