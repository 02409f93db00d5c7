"""The AsyncAPI 3.0 document of the worker: its topics, its messages, what it receives and what it sends.

It describes the service to the other side. So what the service receives refers to the producer schema, for whoever
writes it, and what it sends to the consumer schema, for whoever reads it. References are relative to
`schemas/published`, where the document lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas.events import EVENT_TYPE
from schemas.jsonschemas import VERSION, Role
from schemas.topics import DEFAULT_TOPICS, TOPIC_CONTRACTS
from schemas.verdicts import DEAD_LETTER_TYPE, OOD_TYPE, VERDICT_TYPE

_BINDING_VERSION = "0.5.0"
_SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"


@dataclass(frozen=True, slots=True)
class _Flow:
    """One topic of the worker, by its field in `Topics`, with its only message."""

    topic: str
    channel: str
    message: str
    operation: str
    contract: str
    type: str
    received: bool
    title: str
    about: str


_FLOWS = (
    _Flow(
        "content",
        "contentEvents",
        "contentEvent",
        "receiveContentEvent",
        "content-event",
        EVENT_TYPE,
        received=True,
        title="Content event",
        about=(
            "One piece of content to be judged. CloudEvents binary mode (attributes in headers), structured mode "
            "(`application/cloudevents+json`) and plain JSON without any CloudEvents header are all read. Another type or "
            "spec version is dead-lettered as `unsupported_version`, never guessed."
        ),
    ),
    _Flow(
        "verdicts",
        "verdicts",
        "verdict",
        "sendVerdict",
        "verdict",
        VERDICT_TYPE,
        received=False,
        title="Verdict",
        about=(
            "What was decided on one event. The id is the same for the same event, policy and model, so a reader that "
            "keeps ids drops duplicates. `indeterminate` is never safe: `action` is what the policy says for that."
        ),
    ),
    _Flow(
        "ood",
        "outOfDistribution",
        "oodEvent",
        "sendOodEvent",
        "ood-event",
        OOD_TYPE,
        received=False,
        title="Out-of-distribution event",
        about="A verdict whose risk fits no category of the policy, under the guard's name for it.",
    ),
    _Flow(
        "dead_letters",
        "deadLetters",
        "deadLetter",
        "sendDeadLetter",
        "dead-letter",
        DEAD_LETTER_TYPE,
        received=False,
        title="Dead letter",
        about=(
            "An event that could not be read (then it stands in for the verdict) or not be judged (then it comes with an "
            "`indeterminate` one). Key, headers and value of the original record are kept byte for byte, as base64url."
        ),
    ),
)


def document() -> dict[str, Any]:
    """The whole document, ready to be written as YAML or JSON."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:proguard-stream:worker",
        "info": {
            "title": "ProGuard Stream worker",
            "version": f"{VERSION.removeprefix('v')}.0.0",
            "description": (
                "Reads content events from Kafka, judges each with the ProGuard guard, and writes one verdict per event. "
                "Topic names are defaults; an installation may rename them."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "plain": _server("kafka", "Kafka without TLS, as on one machine."),
            "secure": _server("kafka-secure", "Kafka over TLS, with or without SASL."),
        },
        "channels": {flow.channel: _channel(flow) for flow in _FLOWS},
        "operations": {flow.operation: _operation(flow) for flow in _FLOWS},
        "components": {"messages": {flow.message: _message(flow) for flow in _FLOWS}},
    }


def _server(protocol: str, description: str) -> dict[str, Any]:
    return {
        "host": "{host}:{port}",
        "protocol": protocol,
        "description": description,
        "variables": {
            "host": {"default": "localhost", "description": "Any broker of the cluster."},
            "port": {"default": "9092", "description": "Its listener's port."},
        },
    }


def _channel(flow: _Flow) -> dict[str, Any]:
    contract = TOPIC_CONTRACTS[flow.topic]
    address = getattr(DEFAULT_TOPICS, flow.topic)
    return {
        "address": address,
        "title": address,
        "summary": contract.summary,
        "messages": {flow.message: {"$ref": f"#/components/messages/{flow.message}"}},
        "bindings": {
            "kafka": {
                "topicConfiguration": {"cleanup.policy": [contract.cleanup.value]},
                "bindingVersion": _BINDING_VERSION,
            }
        },
    }


def _operation(flow: _Flow) -> dict[str, Any]:
    return {
        "action": "receive" if flow.received else "send",
        "channel": {"$ref": f"#/channels/{flow.channel}"},
        "summary": TOPIC_CONTRACTS[flow.topic].summary,
        "messages": [{"$ref": f"#/channels/{flow.channel}/messages/{flow.message}"}],
    }


def _message(flow: _Flow) -> dict[str, Any]:
    role = Role.PRODUCER if flow.received else Role.CONSUMER
    return {
        "name": flow.type,
        "title": flow.title,
        "summary": TOPIC_CONTRACTS[flow.topic].summary,
        "description": flow.about,
        "contentType": "application/json",
        "headers": _headers(flow),
        "payload": {
            "schemaFormat": _SCHEMA_FORMAT,
            "schema": {"$ref": f"./{VERSION}/{flow.contract}.{role}.json"},
        },
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": TOPIC_CONTRACTS[flow.topic].key},
                "bindingVersion": _BINDING_VERSION,
            }
        },
    }


def _headers(flow: _Flow) -> dict[str, Any]:
    """What `schemas.envelope.seal` writes; on the input side all of it may be absent."""
    attributes: dict[str, Any] = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "description": "The data's `id`."},
        "ce_type": {"const": flow.type},
        "ce_source": {"type": "string", "description": "Who wrote it, as a URI reference."},
        "ce_time": {"type": "string", "format": "date-time", "description": "When it was written."},
        "content-type": {"type": "string", "description": "`application/json`, with parameters or without."},
    }
    if not flow.received:
        attributes["content-type"] = {"const": "application/json"}
    required = [] if flow.received else list(attributes)
    attributes["traceparent"] = {
        "type": "string",
        "description": "W3C trace context, when the record belongs to a trace.",
    }
    return {"type": "object", "properties": attributes} | ({"required": required} if required else {})
