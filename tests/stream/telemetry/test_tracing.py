from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from stream.telemetry.tracing import PassThroughTracer, SdkTracer, valid_traceparent
from stream.worker.records import InputRecord

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
RECORD = InputRecord("content.events", 3, 42, b"a key", b"the secret words", (), -1)

HOSTILE = [
    "",
    "00",
    "00-ab-cd-01",
    PARENT.upper(),
    PARENT + "\n",
    PARENT + "-extra",
    f" {PARENT}",
    f"ff-{TRACE_ID}-{SPAN_ID}-01",
    f"00-{'0' * 32}-{SPAN_ID}-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"00-{TRACE_ID}-{SPAN_ID}-zz",
    "\ud800",
    "٠٠-" + PARENT[3:],
    "a\r\nInjected: header",
    "x" * 100_000,
]


class Spans:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = SdkTracer(SimpleSpanProcessor(self.exporter), group="the-group")


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    yield found
    found.tracer.shutdown()


def test_the_span_of_an_event_continues_the_trace_of_its_record(spans: Spans) -> None:
    with spans.tracer.process(RECORD, PARENT) as sent_on:
        assert spans.exporter.get_finished_spans() == ()
    (span,) = spans.exporter.get_finished_spans()
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert (span.name, span.kind) == ("process content.events", SpanKind.CONSUMER)
    assert sent_on == f"00-{TRACE_ID}-{span.context.span_id:016x}-01"


def test_the_span_says_where_the_event_was_and_nothing_of_what_it_holds(spans: Spans) -> None:
    with spans.tracer.process(RECORD, None):
        pass
    (span,) = spans.exporter.get_finished_spans()
    attributes = dict(span.attributes or {})
    assert attributes["messaging.system"] == "kafka"
    assert attributes["messaging.destination.name"] == "content.events"
    assert attributes["messaging.destination.partition.id"] == "3"
    assert attributes["messaging.kafka.offset"] == 42
    assert attributes["messaging.consumer.group.name"] == "the-group"
    assert "secret" not in span.to_json()
    assert "a key" not in span.to_json()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_trace_context_that_is_none_begins_a_new_trace(spans: Spans, hostile: str) -> None:
    with spans.tracer.process(RECORD, hostile) as sent_on:
        pass
    (span,) = spans.exporter.get_finished_spans()
    assert span.parent is None
    assert valid_traceparent(sent_on) == sent_on != hostile


def test_events_in_flight_at_the_same_time_have_spans_of_their_own(spans: Spans) -> None:
    with spans.tracer.process(RECORD, PARENT) as one, spans.tracer.process(RECORD, None) as other:
        assert one is not None
        assert other is not None
        assert one[3:35] == TRACE_ID != other[3:35]
    assert [span.parent is None for span in spans.exporter.get_finished_spans()] == [True, False]


def test_a_span_ends_when_the_judging_fails(spans: Spans) -> None:
    with pytest.raises(ValueError, match="oops"), spans.tracer.process(RECORD, None):
        raise ValueError("oops")
    assert len(spans.exporter.get_finished_spans()) == 1


def test_without_an_exporter_a_valid_context_is_handed_on_and_nothing_else() -> None:
    with PassThroughTracer().process(RECORD, PARENT) as sent_on:
        assert sent_on == PARENT
    for hostile in [*HOSTILE, None]:
        with PassThroughTracer().process(RECORD, hostile) as sent_on:
            assert sent_on is None


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\n?", fullmatch=True))
def test_what_is_sent_on_is_plain_text_of_one_length(text: str) -> None:
    found = valid_traceparent(text)
    assert found is None or (found == text and len(found.encode("ascii")) == 55 and "\n" not in found)
