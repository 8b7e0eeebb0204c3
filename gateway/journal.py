"""What is written down of each request besides metrics: a line in the log, and a trace."""

import time
from collections.abc import Sequence

from gateway.call import Ask, Call
from gateway.log import Record, RequestLog
from gateway.metric import OTHER, STAGES
from gateway.outcome import Outcome, message_of
from gateway.trace import Span, Tracer


class Journal:
    """Writes a request down when it has ended."""

    def __init__(self, requests: RequestLog, tracer: Tracer) -> None:
        self._requests = requests
        self._tracer = tracer

    def begin(self, ask: Ask) -> Span | None:
        """Begin a request's trace; None when it isn't traced."""
        if not self._tracer.enabled:
            return None
        return self._tracer.start(ask.headers(), ask.protocol, time.time())

    def end(
        self,
        ask: Ask,
        call: Call | None,
        span: Span | None,
        outcome: Outcome,
        error: BaseException | None,
        took_s: float,
    ) -> None:
        """Write a request down, if its turn has come."""
        logged = self._requests.wants(outcome.status)
        if span is None and not logged:
            return
        record = Record(
            time_unix_s=time.time() - took_s,
            request_id=ask.request_id,
            protocol=ask.protocol,
            asked=ask.name if ask.version is None else f"{ask.name}/{ask.version}",
            model=call.served.name if call else OTHER,
            version=call.served.version if call else OTHER,
            status=outcome.status,
            grpc_code=outcome.grpc_code.name,
            duration_ms=took_s * 1000,
            stages=dict(zip(STAGES, (took * 1000 for took in call.stages), strict=True)) if call else {},
            batch_samples=call.batch_samples if call else 0,
            error=None if error is None else message_of(error),
            client=ask.client,
            key=ask.key,
            trace_id=None,
        )
        if span is not None:
            record = self._tracer.finish(span, record)
        if logged:
            self._requests.write(record)

    def upstream_metadata(self, spans: Sequence[Span | None]) -> Sequence[tuple[str, str]]:
        """What a call to Triton carries of the traces of the requests in it."""
        return self._tracer.upstream_metadata(spans) if self._tracer.enabled else ()

    def close(self, timeout_s: float) -> None:
        """Write out what is waiting; blocks for up to twice the time."""
        self._requests.close(timeout_s)
        self._tracer.shutdown(timeout_s)
