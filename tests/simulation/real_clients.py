"""The contract's Kafka, for real: Apache Kafka, and the clients that the worker uses, with the worker's properties."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from stream.devkit.kafka import KafkaBroker
from stream.settings import KafkaSettings
from stream.worker.partitions import Commits
from tests.simulation.contract import PARTITIONS, SESSION_S, WAIT_S
from tests.simulation.group import Token
from tests.stream.worker.writing import stored
from tests.support.services import fresh_topics

_TOKEN = b"CGMDv2:"
_OFFSET_COMMIT, _VERSION = 8, 7


class RealKafka:
    """Topics and a group of its own on a broker that others use, too."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self.content = fresh_topics(broker, "content", partitions=PARTITIONS)["content"]
        self.outcomes = fresh_topics(broker, "outcomes", partitions=1)["outcomes"]
        self._group = f"group-{self.content}"
        self._settings = KafkaSettings(bootstrap_servers=broker.bootstrap, group_id=self._group)

    def producer(self, transactional_id: str | None, timeout_s: float) -> Producer:
        if transactional_id is None:
            return Producer({**self._settings.producer(linger_ms=0), "log_level": 0})
        own = f"{transactional_id}-{self._group}"
        return Producer({**self._settings.transactional_producer(own, int(timeout_s * 1000)), "log_level": 0})

    def consumer(self, *, stable: bool) -> Consumer:
        isolation = "read_committed" if stable else "read_uncommitted"
        quick = {"session.timeout.ms": int(SESSION_S * 1000), "heartbeat.interval.ms": 200, "log_level": 0}
        # Where nothing is committed, the scenarios begin at the start; the worker asks for it by number.
        start = {"auto.offset.reset": "earliest"}
        return Consumer({**self._settings.consumer(), **quick, **start, "isolation.level": isolation})

    async def wait(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(call, *arguments, **options)

    def token(self, metadata: bytes) -> Token:
        generation, rest = metadata[len(_TOKEN) : len(_TOKEN) + 4], metadata[len(_TOKEN) + 4 :]
        _group, member, _instance = rest.split(b"\0", 2)
        return Token(int.from_bytes(generation, "little", signed=True), member.decode())

    def metadata(self, token: Token) -> bytes:
        """As librdkafka writes it: the 1 says that there is no static membership."""
        generation = token.generation.to_bytes(4, "little", signed=True)
        return b"%b%b%b\0%b\0\1" % (_TOKEN, generation, self._group.encode(), token.member.encode())

    async def arrive(self, count: int) -> None:
        producer = self.producer(None, WAIT_S)
        for number in range(PARTITIONS):
            for _ in range(count):
                producer.produce(self.content, b"", partition=number)
        assert await self.wait(producer.flush, WAIT_S) == 0

    async def read(self, *, committed: bool) -> list[str]:
        isolation = "read_committed" if committed else "read_uncommitted"
        found = await self.wait(stored, self._broker, self.outcomes, isolation)
        return [message.value().decode() for message in found]

    async def commit_as(self, token: Token, commits: Commits) -> None:
        """OffsetCommit, byte for byte. Raises for the first partition that is refused."""
        answer = await self.wait(_ask, self._broker.port, _offset_commit(self._group, token, commits))
        for code in _codes(answer):
            if code != KafkaError.NO_ERROR:
                raise KafkaException(KafkaError(code))


def _offset_commit(group: str, token: Token, commits: Commits) -> bytes:
    """https://kafka.apache.org/protocol: with no instance id, and no leader's epoch."""
    parts = [struct.pack(">hhih", _OFFSET_COMMIT, _VERSION, 1, -1), _string(group)]
    parts += [struct.pack(">i", token.generation), _string(token.member), struct.pack(">hi", -1, len(commits))]
    for (topic, number), commit in commits.items():
        parts += [_string(topic), struct.pack(">iiqi", 1, number, commit.position, -1), _metadata(commit.metadata)]
    return b"".join(parts)


def _metadata(text: str) -> bytes:
    """With the terminator that confluent-kafka writes, and needs: it reads on behind metadata that end without one."""
    return _string(f"{text}\0" if text else "")


def _codes(answer: bytes) -> list[int]:
    codes = []
    (topics,), at = struct.unpack_from(">i", answer, 8), 12
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", answer, at)
        _one, _number, code = struct.unpack_from(">iih", answer, at + 2 + length)
        codes.append(code)
        at += 2 + length + 10
    return codes


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


def _ask(port: int, request: bytes) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection,
        connection.makefile("rb") as answers,
    ):
        connection.sendall(struct.pack(">i", len(request)) + request)
        (length,) = struct.unpack(">i", answers.read(4))
        return answers.read(length)
