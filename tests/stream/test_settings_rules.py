"""What holds for every setting, and the rules between them. How settings are read is in `test_settings`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from schemas.topics import DEFAULT_TOPICS
from stream.settings import KafkaSettings, TopicSettings, WorkerSettings


def fields(model: type[BaseModel], at: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting below `model` that is not a group of others."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{at}{name}.")
        else:
            yield f"{at}{name}", field


SETTINGS = dict(fields(WorkerSettings))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_described_in_a_sentence_that_is_its_own(name: str) -> None:
    description = SETTINGS[name].description or ""
    assert re.match(r"[A-Z`a-z].*[.]$", description), f"{name}: {description!r}"
    assert [other for other, field in SETTINGS.items() if field.description == description] == [name]


def test_every_setting_has_a_default_so_that_a_worker_starts_without_any() -> None:
    assert [name for name, field in SETTINGS.items() if field.is_required()] == []
    assert WorkerSettings().topics.topics() == DEFAULT_TOPICS


@pytest.mark.parametrize("unit", ["_ms", "_s"])
def test_a_setting_with_a_unit_says_it(unit: str) -> None:
    word = {"_ms": "millisecond", "_s": "second"}[unit]
    timed = [name for name in SETTINGS if name.endswith(unit)]
    assert timed
    assert [name for name in timed if word not in (SETTINGS[name].description or "").lower()] == []


def set_by_the_worker() -> set[str]:
    settings = KafkaSettings()
    return settings.consumer().keys() | settings.producer(5).keys()


@pytest.mark.parametrize("name", sorted(set_by_the_worker()))
def test_a_librdkafka_property_is_either_obeyed_or_refused_never_ignored(name: str) -> None:
    try:
        settings = KafkaSettings(properties={name: "17"})
    except ValidationError:
        return  # refused
    asked = [client for client in (settings.consumer(), settings.producer(5)) if name in client]
    assert [client[name] for client in asked] == ["17"] * len(asked)


@pytest.mark.parametrize(
    "name",
    [
        "enable.auto.commit",
        "enable.auto.offset.store",
        "acks",
        "enable.idempotence",
        "transactional.id",
        "group.protocol",
    ],
)
def test_a_property_that_would_break_a_promise_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(name)):
        KafkaSettings(properties={name: "x"})


def test_the_promises_of_the_clients_are_in_their_properties() -> None:
    consumer, producer = KafkaSettings().consumer(), KafkaSettings().producer(5)
    assert (consumer["enable.auto.commit"], consumer["enable.auto.offset.store"]) == (False, False)
    assert (consumer["isolation.level"], consumer["auto.offset.reset"]) == ("read_committed", "error")
    assert consumer["partition.assignment.strategy"] == "cooperative-sticky"
    assert (producer["enable.idempotence"], producer["acks"]) == (True, "all")


@pytest.mark.parametrize("one", ["content", "verdicts", "ood", "dead_letters"])
@pytest.mark.parametrize("other", ["content", "verdicts", "ood", "dead_letters"])
def test_no_two_topics_are_one(one: str, other: str) -> None:
    if one != other:
        with pytest.raises(ValidationError, match="different names"):
            TopicSettings.model_validate({one: "x", other: "x"})


@pytest.mark.parametrize(("drain_s", "session_ms", "fits"), [(5.9, 6000, True), (6, 6000, False), (44, 45_000, True)])
def test_a_drain_is_shorter_than_a_session(drain_s: float, session_ms: int, fits: bool) -> None:
    document: dict[str, Any] = {
        "delivery": {"drain_s": drain_s, "transaction_timeout_ms": session_ms},
        "kafka": {"session_timeout_ms": session_ms},
    }
    if fits:
        assert WorkerSettings(**document).delivery.drain_s == drain_s
    else:
        with pytest.raises(ValidationError, match="drain_s must be shorter"):
            WorkerSettings(**document)


@pytest.mark.parametrize(("transaction_ms", "fits"), [(30_000, True), (30_001, False)])
def test_a_transaction_is_not_longer_than_a_session(transaction_ms: int, fits: bool) -> None:
    document: dict[str, Any] = {
        "delivery": {"transaction_timeout_ms": transaction_ms},
        "kafka": {"session_timeout_ms": 30_000},
    }
    if fits:
        assert WorkerSettings(**document).delivery.transaction_timeout_ms == transaction_ms
    else:
        with pytest.raises(ValidationError, match="transaction_timeout_ms must not be longer"):
            WorkerSettings(**document)


@pytest.mark.parametrize("half", ["private_key", "certificate_chain"])
def test_half_of_a_client_certificate_is_refused(half: str) -> None:
    with pytest.raises(ValidationError, match="go together"):
        WorkerSettings.model_validate({"guard": {"tls": {half: "/x.pem"}}})


def test_any_part_of_tls_turns_it_on() -> None:
    off = WorkerSettings()
    named = WorkerSettings.model_validate({"guard": {"url": "https://proxy", "tls": {"root_certificates": "/ca.pem"}}})
    assert (off.guard.tls.active, named.guard.tls.active) == (False, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"limits": {"max_event_bytes": 0}},
        {"limits": {"max_event_bytes": 9_000_000}},
        {"limits": {"max_in_flight_events": 0}},
        {"limits": {"deadline_s": 0}},
        {"delivery": {"commit_interval_ms": 0}},
        {"delivery": {"mode": "exactly_twice"}},
        {"kafka": {"session_timeout_ms": 100}},
        {"kafka": {"group_id": ""}},
        {"guard": {"max_in_flight": 0}},
        {"guard": {"attempts": 0}},
        {"health": {"port": 65_536}},
        {"telemetry": {"log_level": "loud"}},
    ],
)
def test_a_value_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings(**wrong)
