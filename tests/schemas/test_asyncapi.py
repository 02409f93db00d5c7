"""The AsyncAPI document describes the worker as it is: its topics, headers and published schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from schemas.asyncapi import document
from schemas.compat import PUBLISHED
from schemas.envelope import seal
from schemas.events import EVENT_TYPE
from schemas.topics import DEFAULT_TOPICS, TOPIC_CONTRACTS
from schemas.verdicts import DEAD_LETTER_TYPE, OOD_TYPE, VERDICT_TYPE

DOCUMENT: dict[str, Any] = yaml.safe_load((PUBLISHED / "asyncapi.yaml").read_text("utf-8"))
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]

# Fixed members by object: AsyncAPI 3.0.0, "Fixed Fields"; None in `_REQUIRED` means that nothing is.
_MEMBERS = {
    "root": {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"},
    "info": {"title", "version", "description", "termsOfService", "contact", "license", "tags", "externalDocs"},
    "server": {"host", "protocol", "protocolVersion", "pathname", "description", "title", "summary", "variables"}
    | {"security", "tags", "externalDocs", "bindings"},
    "channel": {"address", "messages", "title", "summary", "description", "servers", "parameters", "tags"}
    | {"externalDocs", "bindings"},
    "operation": {"action", "channel", "title", "summary", "description", "security", "tags", "externalDocs"}
    | {"bindings", "traits", "messages", "reply"},
    "message": {"headers", "payload", "correlationId", "contentType", "name", "title", "summary", "description"}
    | {"tags", "externalDocs", "bindings", "examples", "traits"},
}
_REQUIRED = {
    "root": {"asyncapi", "info"},
    "info": {"title", "version"},
    "server": {"host", "protocol"},
    "channel": {"address", "messages"},
    "operation": {"action", "channel"},
    "message": {"name", "headers", "payload", "contentType"},
}


def parts() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "root", DOCUMENT
    yield "info", DOCUMENT["info"]
    for kind, found in (
        ("server", DOCUMENT["servers"]),
        ("channel", DOCUMENT["channels"]),
        ("operation", DOCUMENT["operations"]),
        ("message", MESSAGES),
    ):
        assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in found)
        yield from ((kind, part) for part in found.values())


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            assert list(node) == ["$ref"]
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(reference: str) -> Any:
    node: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def test_the_committed_document_is_the_generated_one() -> None:
    assert document() == DOCUMENT
    assert DOCUMENT["asyncapi"] == "3.0.0"


def test_every_object_has_its_required_members_and_no_unknown_ones() -> None:
    for kind, part in parts():
        assert _REQUIRED[kind] <= part.keys() <= _MEMBERS[kind], kind


def test_every_reference_resolves_and_every_payload_is_a_published_schema() -> None:
    found = set(references(DOCUMENT))
    for reference in found:
        if reference.startswith("#/"):
            assert isinstance(resolve(reference), dict)
        else:
            assert (PUBLISHED / reference).is_file()
    payloads = {message["payload"]["schema"]["$ref"] for message in MESSAGES.values()}
    assert payloads == {reference for reference in found if not reference.startswith("#/")}
    assert payloads == {
        "./v1/content-event.producer.json",
        "./v1/verdict.consumer.json",
        "./v1/ood-event.consumer.json",
        "./v1/dead-letter.consumer.json",
    }


def test_the_variables_of_every_server_are_declared_with_a_default() -> None:
    for server in DOCUMENT["servers"].values():
        assert set(re.findall(r"{(\w+)}", server["host"])) == server["variables"].keys()
        assert all(isinstance(variable["default"], str) for variable in server["variables"].values())
        assert server["protocol"] in {"kafka", "kafka-secure"}


def test_the_channels_are_the_default_topics_with_their_clean_up_policies() -> None:
    contracts = {getattr(DEFAULT_TOPICS, name): contract for name, contract in TOPIC_CONTRACTS.items()}
    addresses = {channel["address"]: channel for channel in DOCUMENT["channels"].values()}
    assert set(addresses) == {"content.events", "moderation.verdicts", "moderation.ood", "moderation.dead-letters"}
    for address, channel in addresses.items():
        binding = channel["bindings"]["kafka"]
        assert binding["topicConfiguration"] == {"cleanup.policy": [contracts[address].cleanup.value]}
        assert binding["bindingVersion"] == "0.5.0"
        (message,) = channel["messages"].values()
        assert resolve(message["$ref"])["bindings"]["kafka"]["key"]["description"] == contracts[address].key


def test_the_worker_receives_events_and_sends_the_rest() -> None:
    actions = {name: operation["action"] for name, operation in DOCUMENT["operations"].items()}
    assert actions == {
        "receiveContentEvent": "receive",
        "sendVerdict": "send",
        "sendOodEvent": "send",
        "sendDeadLetter": "send",
    }
    for operation in DOCUMENT["operations"].values():
        (message,) = operation[
            "messages"
        ]  # AsyncAPI: a subset of the channel's messages, referred to through the channel
        assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


@pytest.mark.parametrize(
    ("message", "type"),
    [("contentEvent", EVENT_TYPE), ("verdict", VERDICT_TYPE), ("oodEvent", OOD_TYPE), ("deadLetter", DEAD_LETTER_TYPE)],
)
def test_the_headers_that_are_sealed_are_the_headers_that_are_described(message: str, type: str) -> None:
    described = MESSAGES[message]["headers"]
    validator = Draft202012Validator({**described, "additionalProperties": False})
    for parent in (None, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"):
        headers = seal(id="1", type=type, source="/worker", time=datetime(2026, 1, 2, tzinfo=UTC), traceparent=parent)
        written = {name: value.decode() for name, value in headers}
        assert validator.is_valid(written)
        assert not validator.is_valid({**written, "ce_type": "another"})
    assert validator.is_valid({}) == (message == "contentEvent")
