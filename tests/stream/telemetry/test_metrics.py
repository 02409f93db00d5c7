from __future__ import annotations

import re

import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase

from stream.telemetry.metrics import WorkerMetrics

CLOSED = {"status", "action", "reason", "kind", "stage", "why", "result", "direction"}
"""The labels whose values are from a list in the code or in a policy."""


def declared() -> dict[str, MetricWrapperBase]:
    found = {name: value for name, value in vars(WorkerMetrics()).items() if isinstance(value, MetricWrapperBase)}
    assert len(found) > 10
    return found


def name_of(metric: MetricWrapperBase) -> str:
    return str(metric._name)


@pytest.mark.parametrize("attribute", declared())
def test_a_metric_says_what_it_means_and_what_to_do(attribute: str) -> None:
    metric = declared()[attribute]
    sentences = re.findall(r"[^.:;]+[.:;]", metric._documentation)
    action = re.search(r"look|watch|see|compare|planning|board|:|;", metric._documentation, re.IGNORECASE)
    assert metric._documentation.endswith(".")
    assert len(sentences) >= 2 or action, "one half says what it is, the other what to do when it moves"


def test_names_are_unique_and_follow_prometheus() -> None:
    names = [name_of(metric) for metric in declared().values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"proguard_[a-z_]+", name) for name in names)
    times = [name_of(metric) for metric in declared().values() if metric._type == "histogram"]
    assert all(name.endswith("_seconds") for name in times)


def test_help_texts_are_unique() -> None:
    texts = [metric._documentation for metric in declared().values()]
    assert len(set(texts)) == len(texts)


def test_labels_are_from_closed_sets_only() -> None:
    assert {label for metric in declared().values() for label in metric._labelnames} <= CLOSED


def test_a_metric_that_a_help_text_points_to_exists() -> None:
    exposed = generate_latest(WorkerMetrics().registry).decode()
    names = set(re.findall(r"^# TYPE (\S+)", exposed, re.MULTILINE))
    for metric in declared().values():
        assert set(re.findall(r"proguard_[a-z_]+", metric._documentation)) <= names


def test_every_worker_has_a_registry_of_its_own() -> None:
    one, other = WorkerMetrics(), WorkerMetrics()
    one.events.inc()
    assert one.registry.get_sample_value("proguard_events_total") == 1
    assert other.registry.get_sample_value("proguard_events_total") == 0
