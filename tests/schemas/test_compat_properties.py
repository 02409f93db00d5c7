"""The promise of the compatibility check, against a real validator: nothing reported means nothing is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from schemas.compat import Direction, breaking_changes
from schemas.jsonschemas import CONTRACTS, Role, reader_schema, schema_of
from tests.schemas.instances import Schema, instances, is_valid

_LIMITS = ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"]
_RANGES = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
_VALUES = st.sampled_from(["safe", "unsafe", "a", 1, 0, None, True])


@st.composite
def _leaves(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["string", "integer", "number", "null", "boolean", "enum", "any"]))
    if kind == "any":
        return {}
    if kind == "enum":
        return {"enum": draw(st.lists(_VALUES, min_size=1, max_size=3, unique_by=repr))}
    schema: dict[str, Any] = {"type": kind}
    if kind == "string":
        schema |= draw(st.dictionaries(st.sampled_from(["minLength", "maxLength"]), st.integers(0, 3)))
        schema |= draw(st.dictionaries(st.just("pattern"), st.sampled_from(["^[a-c]*$", "^a"]), max_size=1))
    if kind in ("integer", "number"):
        schema |= draw(st.dictionaries(st.sampled_from(_RANGES), st.integers(-2, 2), max_size=2))
    return schema


def _nested(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(st.sampled_from(["a", "b", "c"]), children, max_size=3)
    objects = st.fixed_dictionaries(
        {"type": st.just("object"), "properties": properties},
        optional={
            "additionalProperties": st.booleans() | children,
            "required": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2, unique=True),
        },
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")}, optional={"items": children, "maxItems": st.integers(0, 3)}
    )
    return st.one_of(
        objects, arrays, st.lists(children, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches})
    )


schemas: st.SearchStrategy[dict[str, Any]] = st.recursive(_leaves(), _nested, max_leaves=6)


def nodes(schema: Any) -> list[dict[str, Any]]:
    """Every schema object inside a schema, `$defs` included."""
    if not isinstance(schema, dict):
        return []
    children = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", [])]
    children += [schema.get("items"), schema.get("additionalProperties")]
    return [schema, *(node for child in children for node in nodes(child))]


@st.composite
def mutated(draw: st.DrawFn, schema: Schema) -> Any:
    """The schema after a few random changes anywhere in it: relaxed, narrowed, renamed, retyped."""
    result = copy.deepcopy(schema)
    for _ in range(draw(st.integers(1, 3))):
        node = draw(st.sampled_from(nodes(result) or [{}]))
        change = draw(
            st.sampled_from(["drop", "limit", "range", "enum", "field", "rename", "require", "open", "branch", "type"])
        )
        if change == "drop" and node:
            node.pop(draw(st.sampled_from(sorted(node.keys() - {"$ref", "$defs"} or {"title"}))), None)
        elif change in ("limit", "range"):
            node[draw(st.sampled_from(_LIMITS if change == "limit" else _RANGES))] = draw(st.integers(0, 3))
        elif change == "enum" and node.get("enum"):
            at = draw(st.integers(0, len(node["enum"]) - 1))
            node["enum"] = draw(
                st.sampled_from([node["enum"][:at] + node["enum"][at + 1 :] or ["new"], [*node["enum"], "new"]])
            )
        elif change == "field" and "properties" in node:
            node["properties"][draw(st.sampled_from(["a", "b", "d"]))] = draw(_leaves())
        elif change == "rename" and node.get("properties"):
            name = draw(st.sampled_from(sorted(node["properties"])))
            node["properties"][name + "2"] = node["properties"].pop(name)
        elif change == "require" and node.get("properties"):
            name = draw(st.sampled_from(sorted(node["properties"])))
            node["required"] = sorted({*node.get("required", ())} ^ {name})
        elif change == "open" and "properties" in node:
            node["additionalProperties"] = draw(st.booleans())
        elif change == "branch" and "anyOf" in node:
            node["anyOf"] = draw(st.permutations([*node["anyOf"], draw(_leaves())]))[: draw(st.integers(1, 3))]
        elif change == "type" and "type" in node:
            node["type"] = draw(st.sampled_from(["string", "number", "integer", "null", ["string", "null"]]))
    return result


def check(data: st.DataObject, old: Any, new: Any, direction: Direction) -> None:
    writer, reader = (old, new) if direction is Direction.INPUT else (new, old)
    found = breaking_changes(old, new, direction)
    event(f"{direction}: {'breaking' if found else 'compatible'}")
    if found:
        return
    strategy = instances(writer)
    assume(not strategy.is_empty)
    for instance in data.draw(st.lists(strategy, min_size=1, max_size=5)):
        if is_valid(instance, writer):
            assert is_valid(instance, reader), json.dumps(instance)


@settings(max_examples=200)
@given(st.data(), schemas, st.sampled_from(Direction))
def test_no_finding_means_that_every_written_instance_is_accepted(
    data: st.DataObject, old: dict[str, Any], direction: Direction
) -> None:
    check(data, old, data.draw(st.just(old) | mutated(old)), direction)


@settings(max_examples=100)
@given(st.data(), schemas, schemas, st.sampled_from(Direction))
def test_it_holds_for_schemas_that_have_nothing_to_do_with_each_other(
    data: st.DataObject, old: dict[str, Any], new: dict[str, Any], direction: Direction
) -> None:
    check(data, old, new, direction)


_INPUTS = {c.name: (schema_of(c, Role.PRODUCER), reader_schema(c)) for c in CONTRACTS}
_OUTPUTS = {c.name: (schema_of(c, Role.CONSUMER), schema_of(c, Role.PRODUCER)) for c in CONTRACTS if c.written_here}


@settings(max_examples=100)
@given(st.data(), st.sampled_from(sorted(_INPUTS)))
def test_it_holds_for_every_change_of_what_is_read(data: st.DataObject, name: str) -> None:
    old, reader = _INPUTS[name]
    check(data, old, data.draw(mutated(reader)), Direction.INPUT)


@settings(max_examples=100)
@given(st.data(), st.sampled_from(sorted(_OUTPUTS)))
def test_it_holds_for_every_change_of_what_is_written(data: st.DataObject, name: str) -> None:
    old, producer = _OUTPUTS[name]
    check(data, old, data.draw(mutated(producer)), Direction.OUTPUT)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(sorted(_INPUTS)))
def test_every_record_of_a_producer_schema_is_accepted_by_the_consumer_schema(data: st.DataObject, name: str) -> None:
    contract = next(c for c in CONTRACTS if c.name == name)
    instance = data.draw(instances(_INPUTS[name][0]))
    assume(is_valid(instance, _INPUTS[name][0]))
    assert is_valid(instance, schema_of(contract, Role.CONSUMER))
    assert is_valid({**instance, "a_newer_field": 1}, schema_of(contract, Role.CONSUMER))
    assert not is_valid({**instance, "a_newer_field": 1}, _INPUTS[name][0])
