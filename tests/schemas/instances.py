"""Hypothesis instances of a JSON Schema, for the part of 2020-12 that the contracts use. Aimed at the edges of its limits."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

Schema = dict[str, Any] | bool

_SCALARS: list[st.SearchStrategy[Any]] = [
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(-2, 2),
    st.sampled_from(["", "a", "safe", "é" * 3, "x" * 600]),
]
_TEXTS = (
    "",
    "a",
    "ab",
    "cab",
    "abx",
    "review",
    "C1",
    "C12S3",
    "0" * 64,
    "deadbeef" * 8,
    "Some Name",
    "é" * 120,
    "x" * 256,
)
"""For patterns: drawing from a regular expression takes most of a test's time."""
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def is_valid(instance: Any, schema: Schema) -> bool:
    return bool(_validator(json.dumps(schema)).is_valid(instance))


@functools.lru_cache(maxsize=64)
def _validator(text: str) -> Any:
    return Draft202012Validator(json.loads(text))


def instances(schema: Schema, root: Schema | None = None) -> st.SearchStrategy[Any]:
    """Mostly valid instances of `schema`; filter with `is_valid` where that matters."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return st.one_of(_SCALARS) if schema else st.nothing()
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"][2:].split("/"):
            target = target[part]
        return instances(target, root)
    if "anyOf" in schema:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return st.one_of([instances({**rest, **b} if isinstance(b, dict) else b, root) for b in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"]) if schema["enum"] else st.nothing()
    kinds = schema.get("type", list(_TYPES))
    return st.one_of([_of_type(kind, schema, root) for kind in (kinds if isinstance(kinds, list) else [kinds])])


def _of_type(kind: str, schema: dict[str, Any], root: Schema) -> st.SearchStrategy[Any]:
    if kind in ("integer", "number"):
        return _numbers(kind, schema)
    if kind == "string":
        return _strings(schema)
    if kind == "array":
        low = schema.get("minItems", 0)
        high = min(schema.get("maxItems", low + 3), low + 3)
        items = instances(schema.get("items", True), root)
        return st.just([]) if items.is_empty else st.lists(items, min_size=min(low, high), max_size=high)
    if kind == "object":
        return _objects(schema, root)
    return st.none() if kind == "null" else st.booleans()


def _numbers(kind: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1_000))
    high = max(low, schema.get("maximum", schema.get("exclusiveMaximum", low + 10_000)))
    edges = st.sampled_from([low, high])
    if kind == "integer":
        return st.one_of(edges.map(int), st.integers(int(low), int(high)))
    return st.one_of(edges, st.floats(low, high, allow_subnormal=False))


def _strings(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if schema.get("format") == "date-time":
        return st.sampled_from(["2026-01-02T03:04:05Z", "2026-12-31T23:59:59.999999+05:30"])
    if schema.get("format") == "base64url":
        return st.sampled_from(["", "AA==", "_-8="])
    low = schema.get("minLength", 0)
    high = max(low, schema.get("maxLength", low + 5_000))
    if "pattern" in schema:
        fitting = [text for text in _TEXTS if re.search(schema["pattern"], text) and low <= len(text) <= high]
        return st.sampled_from(fitting) if fitting else st.nothing()
    return st.one_of(st.text(min_size=low, max_size=min(high, low + 5)), st.just("x" * min(high, 5_000)))


@st.composite
def _objects(draw: st.DrawFn, schema: dict[str, Any], root: Schema) -> dict[str, Any]:
    result: dict[str, Any] = {}
    others = schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        result[name] = draw(instances(schema.get("properties", {}).get(name, others), root))
    for name, child in schema.get("properties", {}).items():
        if name not in result and child is not False and draw(st.booleans()):
            result[name] = draw(instances(child, root))
    if others is not False:
        for name in draw(st.lists(st.sampled_from(["extra", "a", "b", "d"]), max_size=schema.get("maxProperties", 2))):
            result.setdefault(name, draw(instances(others, root)))
    return result
