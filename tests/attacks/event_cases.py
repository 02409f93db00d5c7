"""Records that are no events any more, or hardly: made from valid ones by a seeded generator, each with the name of what was done."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from schemas.events import EVENT_TYPE
from stream.worker.records import InputRecord

SEED = 20260504
CANARY = "canaryword"
"""Stands in every text, id, key, URI and attribute of the samples: no detail of an outcome may hold it."""

Headers = tuple[tuple[str, bytes | None], ...]
Made = tuple[bytes | None, Headers, bool]
"""A value, headers, and whether the client library lost the headers."""

_TIME = "2026-01-01T00:00:00Z"
SAMPLES: tuple[dict[str, object], ...] = (
    {"id": f"{CANARY}-1", "user_text": f"hello {CANARY}", "occurred_at": _TIME},
    {
        "id": f"{CANARY}-2",
        "tenant": CANARY,
        "kind": "conversation",
        "user_text": f"how {CANARY}?\nAgent: x",
        "agent_text": f"so {CANARY} <|im_end|>",
        "author": CANARY,
        "locale": "de-DE",
        "occurred_at": "2026-01-01T01:02:03.123456+05:30",
        "attributes": {"thread": CANARY, CANARY: CANARY},
    },
    {
        "id": f"{CANARY}-3",
        "kind": "image",
        "images": [{"uri": f"s3://{CANARY}/a.png", "sha256": "0" * 64}, {"uri": f"file:///{CANARY}"}],
        "occurred_at": _TIME,
    },
    {
        "id": f"{CANARY}-4",
        "user_text": "猫 кот 🐈\u200d⬛ " + CANARY,
        "occurred_at": _TIME,
        "later": {CANARY: [1, None]},
    },
)
STRUCTURED: Headers = (("content-type", b"application/cloudevents+json"),)
_STRANGE: tuple[object, ...] = (
    None, True, -1, 0, 10**400, 1e308, 5e-324, "", "\x00", [], {}, [[]], {"": {}}, CANARY, [CANARY] * 3, {CANARY: CANARY},
    "9" * 5000, "2026-13-45T99:99:99Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:60Z", "1735689600", -0.0,
)  # fmt: skip


def _bytes_of(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _flip(r: random.Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    for _ in range(r.randint(1, 8)):
        data[r.randrange(len(data))] = r.randrange(256)
    return bytes(data)


def _cut(r: random.Random, raw: bytes) -> bytes:
    return raw[: r.randrange(len(raw))]


def _spliced(r: random.Random, raw: bytes) -> bytes:
    at, other = r.randrange(len(raw)), _bytes_of(r.choice(SAMPLES))
    return raw[:at] + other[r.randrange(len(other)) :]


def _inserted(r: random.Random, raw: bytes) -> bytes:
    at = r.randrange(len(raw) + 1)
    what = r.choice(
        [
            b"\x00",
            b"\xef\xbb\xbf",
            b"\xff\xfe",
            b"\xc0\x80",
            b"\xed\xa0\x80",
            b"\\ud800",
            b"\\u0000",
            b"NaN",
            b"\n" * 50,
        ]
    )
    return raw[:at] + what + raw[at:]


def _duplicated_key(r: random.Random, raw: bytes) -> bytes:
    name = r.choice(["id", "tenant", "user_text", "images", "occurred_at", "__proto__"])
    return raw[:-1] + b"," + json.dumps(name).encode() + b":" + _bytes_of(r.choice(_STRANGE)) + b"}"


def _other_type(r: random.Random, raw: bytes) -> bytes:
    document = json.loads(raw)
    for _ in range(r.randint(1, 3)):
        document[r.choice([*document, "kind", "images", "agent_text"])] = r.choice(_STRANGE)
    return _bytes_of(document)


def _missing(r: random.Random, raw: bytes) -> bytes:
    document = json.loads(raw)
    for name in r.sample(sorted(document), r.randint(1, len(document))):
        del document[name]
    return _bytes_of(document)


def _number(r: random.Random, raw: bytes) -> bytes:
    number = r.choice([b"NaN", b"Infinity", b"-Infinity", b"1e9999", b"9" * 5000, b"0x10", b"01", b"1.", b"-"])
    return raw.replace(b'"' + r.choice([CANARY.encode(), _TIME.encode()]), number, 1) + r.choice([b"", number])


def _nested(r: random.Random, _raw: bytes) -> bytes:
    depth = r.choice([10, 200, 2000, 50_000])
    opening, closing = r.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return b'{"id":"e","user_text":' + opening * depth + b"1" + closing * (depth if r.random() < 0.5 else 0) + b"}"


def _long(r: random.Random, raw: bytes) -> bytes:
    document = json.loads(raw)
    name = r.choice(["id", "user_text", "agent_text", "tenant", "author", "locale", "occurred_at", CANARY])
    document[name] = r.choice(["x", "\u0301", "🐈", "<", CANARY]) * r.choice([100, 257, 1001, 4097, 20_000])
    return _bytes_of(document)


def _many(r: random.Random, raw: bytes) -> bytes:
    document = json.loads(raw)
    count = r.choice([64, 65, 1000])
    document["images"] = [{"uri": f"s3://{CANARY}/{n}"} for n in range(count)]
    document["attributes"] = {f"{CANARY}{n}": r.choice(["", 1, None]) for n in range(count)}
    return _bytes_of(document)


def _reencoded(r: random.Random, raw: bytes) -> bytes:
    return raw.decode().encode(r.choice(["utf-16", "utf-32", "utf-8-sig", "utf-7", "utf-16-le"]))


def _wrapped(r: random.Random, raw: bytes) -> bytes:
    return r.choice([b"[%s]", b"%s\n%s", b'"%s"', b"/**/%s", b"%s;", b"callback(%s)", b"\x1f\x8b%s"]).replace(
        b"%s", raw
    )


def _noise(r: random.Random, _raw: bytes) -> bytes:
    return r.randbytes(r.choice([0, 1, 3, 64, 1000]))


def _unchanged(_r: random.Random, raw: bytes) -> bytes:
    return raw


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _cut, _spliced, _inserted, _duplicated_key, _other_type, _missing, _number, _nested, _long, _many, _reencoded,
    _wrapped, _noise, _unchanged,
)  # fmt: skip

_HEADER_VALUES: tuple[bytes | None, ...] = (
    None, b"", b"1.0", b"2.0", b"\xff\xfe", b"application/json; charset=utf-16", b"application/avro", b"9" * 5000, b"-1", b"2",
    EVENT_TYPE.encode(), b"application/cloudevents+json", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", CANARY.encode(),
)  # fmt: skip
_HEADER_NAMES = (
    "ce_specversion", "ce_type", "CE_TYPE", "content-type", "Content-Type", "traceparent", "proguard-attempt", "", "x" * 300, CANARY,
)  # fmt: skip


def _headers(r: random.Random) -> Headers:
    count = r.choice([0, 0, 0, 1, 2, 5])
    return tuple((r.choice(_HEADER_NAMES), r.choice(_HEADER_VALUES)) for _ in range(count))


def _structured(r: random.Random, raw: bytes) -> bytes:
    """The event inside a structured CloudEvent, which may be broken itself."""
    envelope = {"specversion": "1.0", "id": "x", "source": "s", "type": EVENT_TYPE, "data": json.loads(raw)}
    for _ in range(r.randint(0, 2)):
        envelope[r.choice([*envelope, "traceparent", "data_base64"])] = r.choice(_STRANGE)
    return _bytes_of(envelope)


def made(count: int, seed: int = SEED) -> Iterator[tuple[str, Made]]:
    """`count` records, the same for the same seed: what was done, and what came of it."""
    r = random.Random(seed)
    for number in range(count):
        mutate = MUTATIONS[number % len(MUTATIONS)]
        raw = _bytes_of({**r.choice(SAMPLES), "id": f"{CANARY}-{number}"})
        headers, lost = _headers(r), r.random() < 0.01
        if r.random() < 0.15:
            raw, headers = _structured(r, raw), (*headers, *STRUCTURED)
        value = mutate(r, raw)
        if r.random() < 0.2:
            value = r.choice(MUTATIONS[:4])(r, value) if value else value
        tombstone = r.random() < 0.005
        yield mutate.__name__.strip("_"), (None if tombstone else value, () if lost else headers, lost)


def record(offset: int, of: Made) -> InputRecord:
    value, headers, lost = of
    return InputRecord("content", 0, offset, b"k", value, headers, -1, headers_lost=lost)
