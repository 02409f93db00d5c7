"""OpenTelemetry tracing by hand: the published Kafka instrumentation is wrong under concurrency (it keeps one current span a consumer).

Spans follow the messaging conventions (`process <topic>`, kind CONSUMER, parent from the record's `traceparent`). Without
an exporter nothing is recorded and the incoming context is passed on unchanged, so a trace still leads through the worker.

The incoming context is content: anybody who can write an event chooses it. What is not a W3C `traceparent` is dropped here,
because it would go into gRPC metadata and Kafka headers, which refuse what is not plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from stream.worker.records import InputRecord

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def valid_traceparent(text: str | None) -> str | None:
    """`text` when it is a trace context of W3C's form, else None."""
    return text if text is not None and _TRACEPARENT.fullmatch(text) else None


class Tracer(Protocol):
    """Opens the span of one event."""

    def process(self, record: InputRecord, traceparent: str | None) -> AbstractContextManager[str | None]:
        """A span around the judging of `record`; gives the `traceparent` to send on, a valid one or None."""
        ...


class PassThroughTracer:
    """Records nothing; hands the incoming context on."""

    def process(self, record: InputRecord, traceparent: str | None) -> AbstractContextManager[str | None]:  # noqa: ARG002
        return nullcontext(valid_traceparent(traceparent))


class SdkTracer:
    """Spans through the OpenTelemetry SDK."""

    def __init__(self, processor: SpanProcessor, *, group: str, service_name: str = "proguard-stream-worker") -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": service_name}))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("proguard_stream.worker")
        self._propagator = TraceContextTextMapPropagator()
        self._group = group

    @contextmanager
    def process(self, record: InputRecord, traceparent: str | None) -> Iterator[str | None]:
        incoming = valid_traceparent(traceparent)
        parent = self._propagator.extract({"traceparent": incoming} if incoming else {})
        span = self._tracer.start_span(
            f"process {record.topic}",
            context=parent,
            kind=trace.SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
                "messaging.consumer.group.name": self._group,
            },
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=trace.set_span_in_context(span))
        try:
            yield carrier.get("traceparent", incoming)
        finally:
            span.end()

    def shutdown(self) -> None:
        """Flush what is recorded. May block for the exporter's timeout."""
        self._provider.shutdown()


def otlp_processor(endpoint: str) -> SpanProcessor:
    """Batches spans to an OTLP/gRPC collector; drops them rather than block when it is away."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://")))
