"""JSON Schemas (2020-12) from the models, one per contract and party.

*Producer* schemas say what may be written. They are closed: an unknown field is a mistake of whoever writes it.
*Consumer* schemas say what a reader must expect. They are open: a newer producer may have added a field.

Who writes a contract decides how its fields are counted:

- A platform or an analyst writes it (events, policies): both schemas describe what the service accepts. A field with a
  default may be left out, so a consumer cannot rely on it either.
- The service writes it (verdicts, OOD events, dead letters): both schemas describe what leaves the service. Every field
  is always written, null included, so both schemas require all of them.

What a schema cannot say stays in the model and in the descriptions: that an event holds some content, that ids in a
policy are unique, that a policy fails closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import core_schema

from schemas.base import Contract
from schemas.deadletters import DeadLetter
from schemas.events import ContentEvent
from schemas.policy import Policy
from schemas.verdicts import OodEvent, Verdict

VERSION = "v1"
"""The contracts' major version: the last part of their CloudEvents types, and a folder of `schemas/published`."""

JsonSchema = dict[str, Any]


class Role(StrEnum):
    """Whose view a schema takes."""

    PRODUCER = "producer"
    CONSUMER = "consumer"


@dataclass(frozen=True, slots=True)
class PublishedContract:
    """A model that others read or write. `written_here`: the service is its producer."""

    name: str
    model: type[Contract]
    written_here: bool


CONTRACTS = (
    PublishedContract("content-event", ContentEvent, written_here=False),
    PublishedContract("verdict", Verdict, written_here=True),
    PublishedContract("ood-event", OodEvent, written_here=True),
    PublishedContract("dead-letter", DeadLetter, written_here=True),
    PublishedContract("policy", Policy, written_here=False),
)


def schema_of(contract: PublishedContract, role: Role) -> JsonSchema:
    """The schema to publish for one party of a contract."""
    mode: JsonSchemaMode = "serialization" if contract.written_here else "validation"
    schema = _generate(contract, mode, closed=role is Role.PRODUCER)
    header = {"$schema": GenerateJsonSchema.schema_dialect, "$id": schema_id(contract.name, role)}
    return header | {key: schema[key] for key in ("title", "description")} | schema


def reader_schema(contract: PublishedContract) -> JsonSchema:
    """What this release's own code accepts of a contract, whoever wrote it. Never published; `schemas.compat` needs it.

    It differs from the consumer schema for what the service writes: a field with a default may be missing there,
    because a record of an older release, still in its topic, does not have it.
    """
    return _generate(contract, "validation", closed=False)


def schema_id(name: str, role: Role) -> str:
    """The schema's `$id`: a name, not a place to fetch it from."""
    return f"urn:proguard-stream:schema:{VERSION}:{name}:{role}"


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with every field required where the service writes it, with the defaults that a factory makes,
    and without titles that repeat a field's name.
    """

    def field_is_required(self, field: Any, total: bool) -> bool:
        return self.mode == "serialization" or super().field_is_required(field, total)

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        if schema.get("default_factory") in (list, dict):
            return schema["default_factory"]()  # type: ignore[call-arg]
        return super().get_default_value(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 (pydantic's signature)
        return False


def _generate(contract: PublishedContract, mode: JsonSchemaMode, *, closed: bool) -> JsonSchema:
    schema = contract.model.model_json_schema(schema_generator=_Generator, mode=mode)
    for node in _objects(schema):
        node["additionalProperties"] = not closed
        if mode == "serialization":  # a default is what an absent field means, and none is absent
            for field in node["properties"].values():
                field.pop("default", None)
    return schema


def _objects(schema: JsonSchema) -> Iterator[JsonSchema]:
    """Every object with declared fields; free maps are left alone."""
    definitions: Mapping[str, JsonSchema] = schema.get("$defs", {})
    for node in (schema, *definitions.values()):
        if "properties" in node:
            yield node
