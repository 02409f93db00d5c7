"""Is everything that one JSON Schema allows accepted by another?

A decision by keywords, for the part of JSON Schema 2020-12 that the contracts use. It errs on the side of "no": a
keyword that it does not know, a recursive `$ref`, two places that restrict the same thing are findings, not guesses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any] | bool
_Node = dict[str, Any]

_ANNOTATIONS = frozenset(
    {"$schema", "$id", "$defs", "$comment", "title", "description", "default", "examples", "deprecated"}
    | {"readOnly", "writeOnly"}
)
_AT_LEAST = ("minLength", "minItems", "minProperties")
_AT_MOST = ("maxLength", "maxItems", "maxProperties")
_RANGE = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_KNOWN = frozenset(
    {"type", "enum", "properties", "required", "additionalProperties", "items", "pattern", "format", "multipleOf"}
    | {"uniqueItems", *_AT_LEAST, *_AT_MOST, *_RANGE}
)
_SCOPED = frozenset({"properties", "additionalProperties"})
"""Keywords that mean something only together with the other one beside them."""


@dataclass(frozen=True, slots=True)
class Breaking:
    """One place where something breaks. `path` is a JSON path into the record, `$` for the record itself."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def uncovered(*, writer: Schema, reader: Schema, losses: bool) -> list[Breaking]:
    """Where `reader` may refuse an instance that `writer` allows; empty only when it accepts every one.

    With `losses`, also where a field of the writer is unknown to an open reader, which would drop it, and where an
    absent field has another default.
    """
    findings = _Comparison(losses).compare(_inlined(writer, writer, ()), _inlined(reader, reader, ()), "$")
    return list(dict.fromkeys(findings))


@dataclass(frozen=True, slots=True)
class _Comparison:
    losses: bool

    def compare(self, writer: Schema, reader: Schema, path: str) -> list[Breaking]:
        """Every alternative of the writer must be accepted by one alternative of the reader."""
        readers = list(_alternatives(reader))
        if not all(accepted.keys() - _ANNOTATIONS for accepted in readers):
            return []  # one alternative accepts anything
        findings: list[Breaking] = []
        for allowed in _alternatives(writer):
            attempts = [self._one(allowed, accepted, path) for accepted in readers]
            if not attempts:
                findings.append(Breaking(path, "nothing is accepted here"))
            elif all(attempts):
                meant = [
                    found for found, accepted in zip(attempts, readers, strict=True) if _type_fits(allowed, accepted)
                ]
                findings += (
                    sorted(meant, key=len)[0] if meant else [Breaking(path, f"{_kind(allowed)} is not accepted")]
                )
        return findings

    def _one(self, writer: _Node, reader: _Node, path: str) -> list[Breaking]:
        findings = [Breaking(path, what) for what in _scalars(writer, reader)]
        findings += self._objects(writer, reader, path)
        if "items" in reader:
            findings += self.compare(writer.get("items", True), reader["items"], f"{path}[*]")
        return findings

    def _objects(self, writer: _Node, reader: _Node, path: str) -> Iterator[Breaking]:
        written, read = writer.get("properties", {}), reader.get("properties", {})
        others_written, others_read = writer.get("additionalProperties", True), reader.get("additionalProperties", True)
        for name in reader.get("required", ()):
            if name not in writer.get("required", ()):
                yield Breaking(f"{path}.{name}", "the field is required and may be missing")
        for name in sorted(written.keys() | read.keys()):
            here = f"{path}.{name}"
            if name not in read and self.losses and isinstance(others_read, bool):
                yield Breaking(here, "the field is removed or renamed: it would be dropped")
                continue
            if name not in written and others_written is False:
                if not self.losses:
                    yield Breaking(here, "the field is removed or renamed")
                continue
            yield from self.compare(written.get(name, others_written), read.get(name, others_read), here)
            if self.losses and name in written and name in read and not _same_default(written[name], read[name]):
                yield Breaking(here, "the default is another one: an absent field would mean something else")
        if others_written is not False:
            yield from self.compare(others_written, others_read, f"{path}.*")


def _scalars(writer: _Node, reader: _Node) -> Iterator[str]:
    """What the reader's keywords refuse, objects and arrays apart."""
    for keyword in sorted((writer.keys() | reader.keys()) - _KNOWN - _ANNOTATIONS):
        yield f"the keyword {keyword} cannot be compared"
    if not _type_fits(writer, reader):
        yield f"{_kind(writer)} is not accepted"
    if "enum" in reader:
        if "enum" not in writer:
            yield "only some values are accepted"
        elif surplus := sorted(set(map(_canonical, writer["enum"])) - set(map(_canonical, reader["enum"]))):
            yield f"values not accepted: {', '.join(surplus)}"
    for keyword in ("pattern", "format", "multipleOf"):
        if keyword in reader and (keyword not in writer or _canonical(writer[keyword]) != _canonical(reader[keyword])):
            yield f"{keyword} is added or changed"
    if reader.get("uniqueItems", False) and not writer.get("uniqueItems", False):
        yield "repeated items are not accepted"
    for keyword in _AT_LEAST:
        if writer.get(keyword, 0) < reader.get(keyword, 0):
            yield f"{keyword} {reader[keyword]} refuses smaller ones"
    for keyword in _AT_MOST:
        if keyword in reader and not (keyword in writer and writer[keyword] <= reader[keyword]):
            yield f"{keyword} {reader[keyword]} refuses larger ones"
    yield from _ranges(writer, reader)


def _ranges(writer: _Node, reader: _Node) -> Iterator[str]:
    infinity = float("inf")
    low = max((writer.get("minimum", -infinity), False), (writer.get("exclusiveMinimum", -infinity), True))
    if low < max((reader.get("minimum", -infinity), False), (reader.get("exclusiveMinimum", -infinity), True)):
        yield "smaller numbers are not accepted"
    high = min((writer.get("maximum", infinity), True), (writer.get("exclusiveMaximum", infinity), False))
    if high > min((reader.get("maximum", infinity), True), (reader.get("exclusiveMaximum", infinity), False)):
        yield "larger numbers are not accepted"


def _type_fits(writer: _Node, reader: _Node) -> bool:
    written, accepted = writer.get("type"), reader.get("type")
    return accepted in (None, written) or (accepted == "number" and written == "integer")


def _kind(node: _Node) -> str:
    return str(node.get("type", "a value of any type"))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _same_default(written: Schema, read: Schema) -> bool:
    """A default of the writer is kept. New fields inside an object's default are the reader's own affair."""
    if not isinstance(written, dict) or "default" not in written:
        return True
    return isinstance(read, dict) and "default" in read and _contains(read["default"], written["default"])


def _contains(new: Any, old: Any) -> bool:
    if isinstance(new, dict) and isinstance(old, dict):
        return all(key in new and _contains(new[key], value) for key, value in old.items())
    return _canonical(new) == _canonical(old)


def _alternatives(schema: Schema) -> Iterator[_Node]:
    """The flat schemas of which one must hold: `anyOf` and lists of types taken apart, `const` as an `enum`."""
    if isinstance(schema, bool):
        yield from [{}] if schema else []
    elif "anyOf" in schema:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        for branch in schema["anyOf"]:
            yield from _alternatives(_both(rest, branch))
    elif isinstance(schema.get("type"), list):
        for kind in schema["type"]:
            yield from _alternatives({**schema, "type": kind})
    elif "const" in schema:
        rest = {key: value for key, value in schema.items() if key != "const"}
        yield _both(rest, {"enum": [schema["const"]]})
    else:
        yield schema


def _both(one: _Node, other: Schema) -> _Node:
    """A schema that demands both. Where the two restrict the same thing the result is marked as not comparable."""
    if isinstance(other, bool):
        return one if other else {"not": {}}
    overlap = one.keys() & other.keys() - _ANNOTATIONS
    if overlap or (_SCOPED & one.keys() and _SCOPED & other.keys()):
        return {"allOf": [one, other]}
    return {**other, **one}


def _inlined(schema: Schema, root: Schema, trail: tuple[str, ...]) -> Schema:
    """`schema` with its local references replaced by what they mean. A recursive or foreign one stays, as a finding."""
    if isinstance(schema, bool):
        return schema
    target = schema.get("$ref")
    if isinstance(target, str) and target not in trail and target.startswith("#/"):
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        found = _inlined(_pointed(root, target), root, (*trail, target))
        return _both(_children_inlined(rest, root, trail), found)
    return _children_inlined(schema, root, trail)


def _children_inlined(schema: _Node, root: Schema, trail: tuple[str, ...]) -> _Node:
    result: _Node = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: _inlined(child, root, trail) for name, child in value.items()}
        elif key == "anyOf":
            result[key] = [_inlined(child, root, trail) for child in value]
        elif key in ("items", "additionalProperties"):
            result[key] = _inlined(value, root, trail)
        elif key != "$defs":
            result[key] = value
    return result


def _pointed(root: Schema, pointer: str) -> Schema:
    node: Any = root
    for part in pointer[2:].split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node  # type: ignore[no-any-return]
