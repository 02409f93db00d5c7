"""What is judged while everything breaks: every kind of event that the service must answer, at a bounded rate."""

from __future__ import annotations

import io
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer
from PIL import Image

PICTURES = "pictures"
"""The folder of the store that holds them, and that a fault takes away."""

ANSWERS = {
    # What the scripted guard is told to say, how often, and what a decided verdict must then say of the request.
    "safe": (52, "safe"),
    "unsafe": (16, "unsafe"),
    "ood": (12, "unsafe"),
    "tolerant": (4, "safe"),
    "no_scores": (3, "unsafe"),
    "garbage": (4, None),
    "contradiction": (2, None),
    "empty": (1, None),
    "unknown_id": (1, None),
    "error": (2, None),
    "cut_off": (3, None),
}
UNREADABLE = (b"{nope", b"\xff\xfe\xfd", None, b"[]", b'{"id": "x"}', b"\x00" * 70_000)
UNREADABLE_SHARE, PICTURE_SHARE, CONVERSATION_SHARE, NO_KEY_SHARE, HOT_SHARE = 0.04, 0.08, 0.1, 0.05, 0.3
REPEATED_SHARE = 0.1
"""Events whose content others have too, under ids and keys of their own: what a cache answers."""
HOT_KEYS, KEYS = 5, 400
TAIL_SHARE, TAIL_MS, MEDIAN_MS, SPREAD = 0.01, 3000, 20, 0.8

Sent = tuple[bytes | None, bytes | None]
"""Value and key."""


def put_pictures(folder: Path, count: int = 8) -> list[str]:
    """Some small pictures below `folder`; their names, and one of a picture that is not there."""
    (folder / PICTURES).mkdir(parents=True)
    names = [f"{PICTURES}/{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), (number * 30, 90, 30)).save(buffer, "PNG")
        (folder / name).write_bytes(buffer.getvalue())
    return [*names, f"{PICTURES}/absent.png"]


@dataclass
class Workload:
    """Events without end, the same ones for the same seed. `expected` says how a decided verdict on each must be."""

    seed: int
    pictures: Sequence[str]
    expected: dict[str, str | None] = field(default_factory=dict)

    def events(self) -> Iterator[Sent]:
        rng = random.Random(self.seed)
        names = list(ANSWERS)
        weights = [weight for weight, _ in ANSWERS.values()]
        number = 0
        while True:
            number += 1
            (answer,) = rng.choices(names, weights)
            key = self._key(rng)
            if rng.random() < UNREADABLE_SHARE:
                yield rng.choice(UNREADABLE), key
                continue
            event_id = f"e{number}"
            self.expected[event_id] = ANSWERS[answer][1]
            yield self._content(rng, event_id, answer), key

    def _key(self, rng: random.Random) -> bytes | None:
        if rng.random() < NO_KEY_SHARE:
            return None
        if rng.random() < HOT_SHARE:
            return b"hot-%d" % rng.randrange(HOT_KEYS)
        return b"key-%d" % rng.randrange(KEYS)

    def _content(self, rng: random.Random, event_id: str, answer: str) -> bytes:
        delay = TAIL_MS if rng.random() < TAIL_SHARE else min(1500, rng.lognormvariate(0, SPREAD) * MEDIAN_MS)
        text = event_id
        if rng.random() < REPEATED_SHARE:
            delay, text = MEDIAN_MS, "once more"
        order = {"error": "[[error]]", "cut_off": "[[say=cut_off]] [[finish=length]]"}.get(answer, f"[[say={answer}]]")
        document: dict[str, object] = {
            "id": event_id,
            "tenant": rng.choice(["default", "forum", "market"]),
            "user_text": f"{order} [[delay={delay:.0f}]] {text}",
            "author": f"author-{rng.randrange(97)}",
            "occurred_at": "2026-01-01T00:00:00Z",
        }
        if rng.random() < CONVERSATION_SHARE:
            document |= {"kind": "conversation", "agent_text": "As you say."}
        if rng.random() < PICTURE_SHARE:
            document["images"] = [{"uri": f"media://chaos/{rng.choice(self.pictures)}"}]
        return json.dumps(document).encode()


class Feeder:
    """Writes a workload to a topic in a thread of its own, at `rate` events a second, outages of the broker not counted.

    `stop` returns when Kafka has acknowledged all that was written; `sent` then says how many, `refused` which were given up (some of
    those may be there all the same). A client that has not been answered for `patience_s` is replaced: after a broker's restart one
    (librdkafka 2.16) never connected again, and the rest of a run's faults met no events.
    """

    def __init__(
        self,
        properties: dict[str, str | int | bool],
        topic: str,
        workload: Workload,
        rate: float,
        *,
        patience_s: float = 45.0,
    ) -> None:
        self._properties: dict[str, str | int | bool] = {
            **properties,
            "enable.idempotence": True,
            "linger.ms": 5,
            # Asked again soon for the leader of a partition: see `KafkaSettings.common`.
            "topic.metadata.refresh.interval.ms": 5_000,
            "delivery.timeout.ms": 140_000,
        }
        self._producer = Producer(self._properties)
        self._patience_s = patience_s
        self._heard = time.monotonic()
        self.replaced = 0
        self._topic = topic
        self._events = workload.events()
        self._rate = rate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self.sent = 0
        self.refused: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 150.0) -> None:
        """Raises `TimeoutError` when Kafka does not acknowledge everything in time."""
        self._stopping.set()
        self._thread.join(timeout)
        if self._thread.is_alive() or self._producer.flush(timeout):
            raise TimeoutError("Kafka has not acknowledged the workload")

    def _run(self) -> None:
        due, before = 0.0, time.monotonic()
        while not self._stopping.wait(0.02):
            now = time.monotonic()
            # After an outage of the machine or the broker the rate goes on; it does not catch up.
            due = min(due + (now - before) * self._rate, self._rate)
            before = now
            while due >= 1 and self._produce():
                due -= 1
            self._producer.poll(0)
            self._replace_a_silent_client(now)

    def _replace_a_silent_client(self, now: float) -> None:
        if not len(self._producer):
            self._heard = now
        if now - self._heard < self._patience_s:
            return
        self._producer.purge()
        self._producer.flush(5)
        self._producer, self._heard = Producer(self._properties), now
        self.replaced += 1

    def _answered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self._heard = time.monotonic()
        else:
            self.refused.append(error.str())

    def _produce(self) -> bool:
        # Far more than a second's worth: after a broker's restart librdkafka (2.16) can believe for ever that a partition has no
        # leader, and what waits for that one must not hold the others up.
        if len(self._producer) > 20_000:
            return False
        value, key = next(self._events)
        self._producer.produce(
            self._topic,
            value,
            key,
            on_delivery=self._answered,
        )
        self.sent += 1
        return True
