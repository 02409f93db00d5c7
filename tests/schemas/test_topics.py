"""The topics of DESIGN.md, each with its facts."""

from __future__ import annotations

from dataclasses import astuple, fields

from schemas.topics import DEFAULT_TOPICS, TOPIC_CONTRACTS, Cleanup, Topics


def test_every_topic_has_one_legal_name_of_its_own() -> None:
    names = astuple(DEFAULT_TOPICS)
    assert len(set(names)) == len(names) == 7
    assert all(name.replace(".", "").replace("-", "").isalpha() and len(name) <= 249 for name in names)


def test_every_topic_has_its_facts_and_none_is_left_over() -> None:
    assert set(TOPIC_CONTRACTS) == {field.name for field in fields(Topics)}


def test_only_state_is_compacted() -> None:
    compacted = {name for name, contract in TOPIC_CONTRACTS.items() if contract.cleanup is Cleanup.COMPACT}
    assert compacted == {"policies", "emerging_risks"}
