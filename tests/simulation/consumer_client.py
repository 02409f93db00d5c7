"""A Kafka consumer of the simulation: what librdkafka does behind `confluent_kafka.Consumer`, each blocking call a coroutine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from confluent_kafka import OFFSET_INVALID, OFFSET_STORED, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from stream.worker.ledger import Commit
from stream.worker.partitions import TopicPartition
from tests.simulation.brokers import InputEntry, SimBrokers
from tests.simulation.group import Joined, Token
from tests.simulation.loop import current_thread
from tests.simulation.network import LostError, code_of, refusal

Callback = Callable[["SimConsumer", list[KafkaPartition]], "Awaitable[None] | None"]


class SimMessage:
    """A record as `poll` gives it; without one, that the client has lost its place in a partition."""

    __slots__ = ("_entry", "_name", "fetch")

    def __init__(self, name: TopicPartition, entry: InputEntry | None, fetch: _Fetch) -> None:
        self._name = name
        self._entry = entry
        self.fetch = fetch

    def error(self) -> KafkaError | None:
        return KafkaError(KafkaError._AUTO_OFFSET_RESET) if self._entry is None else None

    def topic(self) -> str:
        return self._name[0]

    def partition(self) -> int:
        return self._name[1]

    def offset(self) -> int:
        assert self._entry is not None
        return self._entry.offset

    def key(self) -> bytes | None:
        assert self._entry is not None
        return self._entry.key

    def value(self) -> bytes | None:
        assert self._entry is not None
        return self._entry.value

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 0, -1


@dataclass(slots=True, eq=False)
class _Fetch:
    """One assignment of one partition."""

    position: int | None
    paused: bool = False


@dataclass(slots=True)
class _Callback:
    kind: str
    partitions: list[TopicPartition]
    done: asyncio.Future[None]


class SimConsumer:
    """One member of the group, cooperative. The classic protocol runs on a thread of its own, as librdkafka's does: it heartbeats
    while the application is busy, and waits for it to answer assignments and revocations inside `poll`, `consume` or `close`."""

    def __init__(self, brokers: SimBrokers, *, session_s: float, heartbeat_s: float, stable: bool = True) -> None:
        self._brokers = brokers
        self._network = brokers.network
        self._loop = brokers.network.loop
        self._session_s = session_s
        self._heartbeat_s = heartbeat_s
        self._stable = stable
        self._process = current_thread().process
        self._background = self._process.thread("rdkafka-consumer")
        self._who = self._process.name
        self._member = ""
        self._generation = -1
        self._owned: dict[TopicPartition, _Fetch] = {}
        self._callbacks: deque[_Callback] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._disturbed: asyncio.Future[None] | None = None
        self._rejoin = self._lost = self._joining = self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._on_assign: Callback | None = None
        self._on_revoke: Callback | None = None
        self._on_lost: Callback | None = None

    # What the application calls.

    async def subscribe(
        self,
        _topics: Sequence[str],
        on_assign: Callback | None = None,
        on_revoke: Callback | None = None,
        on_lost: Callback | None = None,
    ) -> None:
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost
        self._brokers.on_input.append(self._wake)
        self._tasks = [self._background.spawn(self._membership()), self._background.spawn(self._heartbeats())]

    async def poll(self, timeout: float) -> SimMessage | None:
        await asyncio.sleep(0)
        until = self._loop.time() + timeout
        while True:
            if self._callbacks:
                await self._serve()
                continue
            message = self._next()
            if message is not None:
                return message
            left = until - self._loop.time()
            if left <= 0:
                return None
            await self._wait(left)

    async def consume(self, count: int, timeout: float) -> list[SimMessage]:
        """Only what is there; what was taken of a partition that is given up meanwhile is thrown away."""
        assert timeout == 0
        await asyncio.sleep(0)
        taken: list[SimMessage] = []
        while len(taken) < count:
            if self._callbacks:
                await self._serve()
                await asyncio.sleep(0)
                taken = [m for m in taken if self._owned.get((m.topic(), m.partition())) is m.fetch]
                continue
            message = self._next()
            if message is None:
                break
            taken.append(message)
        return taken

    async def commit(self, *, offsets: Sequence[KafkaPartition], asynchronous: bool) -> list[KafkaPartition]:
        assert not asynchronous
        commits = {(part.topic, part.partition): Commit(part.offset, part.metadata or "") for part in offsets}
        token = self._token()
        try:
            await self._network.request(lambda: self._brokers.group.commit(token, commits), may_be_lost=True)
        except LostError:
            raise refusal(KafkaError.REQUEST_TIMED_OUT, retriable=True) from None
        return list(offsets)

    async def committed(self, partitions: Sequence[KafkaPartition], timeout: float) -> list[KafkaPartition]:
        names = [(part.topic, part.partition) for part in partitions]
        try:
            async with asyncio.timeout(timeout):
                found = await self._fetch_committed(names)
        except TimeoutError:
            raise refusal(KafkaError._TIMED_OUT, retriable=True) from None
        return [
            KafkaPartition(topic, number, OFFSET_INVALID)
            if (commit := found[topic, number]) is None
            else KafkaPartition(topic, number, commit.position, metadata=commit.metadata)
            for topic, number in names
        ]

    async def get_watermark_offsets(self, partition: KafkaPartition, timeout: float) -> tuple[int, int]:
        """Every simulated partition begins at 0."""
        name = partition.topic, partition.partition
        return 0, await self._network.request(lambda: self._brokers.end_of_input(name))

    async def incremental_assign(self, partitions: Sequence[KafkaPartition]) -> None:
        await asyncio.sleep(0)
        stored: dict[TopicPartition, _Fetch] = {}
        for part in partitions:
            name = part.topic, part.partition
            self._owned[name] = fetch = _Fetch(None if part.offset == OFFSET_STORED else part.offset)
            if fetch.position is None:
                stored[name] = fetch
        if stored:
            self._background.spawn(self._look_up(stored))

    async def incremental_unassign(self, partitions: Sequence[KafkaPartition]) -> None:
        await asyncio.sleep(0)
        for part in partitions:
            del self._owned[part.topic, part.partition]

    async def pause(self, partitions: Sequence[KafkaPartition]) -> None:
        await self._set_paused(partitions, True)

    async def resume(self, partitions: Sequence[KafkaPartition]) -> None:
        await self._set_paused(partitions, False)

    async def assignment(self) -> list[KafkaPartition]:
        return [KafkaPartition(*name) for name in self._owned]

    async def consumer_group_metadata(self) -> Token:
        await asyncio.sleep(0)
        return self._token()

    async def memberid(self) -> str:
        return self._member

    async def close(self) -> None:
        """Give up what is owned, with the callback for it, and leave the group."""
        if self._closing or not self._process.alive:
            return
        self._closing = True
        if self._tasks:
            self._tasks[0].cancel()
        if self._owned:
            kind = "lost" if self._lost else "revoke"
            self._callbacks.clear()
            self._callbacks.append(_Callback(kind, sorted(self._owned), self._loop.create_future()))
            await self._serve()
        for task in self._tasks:
            task.cancel()
        if self._member:
            await self._network.request(lambda: self._brokers.group.leave(self._member))

    def peek(self) -> list[TopicPartition]:
        return sorted(self._owned)

    # Fetching.

    def _next(self) -> SimMessage | None:
        ready = []
        for name, fetch in self._owned.items():
            if fetch.position is not None and not fetch.paused:
                entry = self._brokers.input_from(name, fetch.position)
                if entry is not None:
                    ready.append((name, fetch, entry))
        if not ready:
            return None
        name, fetch, entry = ready[int(self._network.random.random() * len(ready))]
        if self._network.weather.strays and self._network.random.random() < self._network.weather.strays:
            self._network.trace(self._who, "loses its place in %s", name[1])
            fetch.position = None  # nothing more comes until the partition is assigned anew
            return SimMessage(name, None, fetch)
        fetch.position = entry.offset + 1
        return SimMessage(name, entry, fetch)

    async def _look_up(self, stored: dict[TopicPartition, _Fetch]) -> None:
        """All in one request: a transaction that is under way for one of them holds up the others."""
        commits = await self._fetch_committed(stored)
        for name, fetch in stored.items():
            commit = commits[name]
            fetch.position = 0 if commit is None else commit.position
        self._wake()

    async def _fetch_committed(self, names: Iterable[TopicPartition]) -> dict[TopicPartition, Commit | None]:
        wanted = list(names)
        while True:
            try:
                found: dict[TopicPartition, Commit | None] = await self._network.request(
                    lambda: self._brokers.group.fetch(wanted, stable=self._stable), may_be_lost=True
                )
            except LostError:
                continue
            return found

    async def _set_paused(self, partitions: Sequence[KafkaPartition], paused: bool) -> None:
        for part in partitions:
            fetch = self._owned.get((part.topic, part.partition))
            if fetch is not None:
                fetch.paused = paused

    async def _wait(self, seconds: float) -> None:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The group.

    def _token(self) -> Token:
        return Token(self._generation, self._member)

    async def _serve(self) -> None:
        callback = self._callbacks.popleft()
        parts = [KafkaPartition(*name) for name in callback.partitions]
        self._network.trace(self._who, "%s %s", callback.kind, [number for _, number in callback.partitions])
        if callback.kind == "assign":
            assert self._on_assign is not None
            answered = self._on_assign(self, parts)
            if answered is not None:
                await answered
        else:
            handler = self._on_lost if callback.kind == "lost" else self._on_revoke
            assert handler is not None
            answered = handler(self, parts)
            if answered is not None:
                await answered
            for name in callback.partitions:
                self._owned.pop(name, None)
        if not callback.done.done():
            callback.done.set_result(None)

    async def _ask(self, kind: str, partitions: Iterable[TopicPartition]) -> None:
        callback = _Callback(kind, sorted(partitions), self._loop.create_future())
        self._callbacks.append(callback)
        self._wake()
        await callback.done

    async def _membership(self) -> None:
        while True:
            self._rejoin = False
            answer = await self._join()
            if answer is None:
                await self._lose()
                continue
            self._member, self._generation = answer.token.member, answer.token.generation
            revoked = self._owned.keys() - answer.partitions
            added = answer.partitions - self._owned.keys()
            if revoked:
                await self._ask("revoke", revoked)
            if added or not revoked:
                await self._ask("assign", added)
            if not revoked and not (self._rejoin or self._lost):
                self._disturbed = self._loop.create_future()
                await self._disturbed
                self._disturbed = None
            if self._lost:
                await self._lose()

    async def _join(self) -> Joined | None:
        self._joining = True
        claims = self._generation, frozenset(self._owned)
        try:
            joined: Joined = await self._network.request(
                lambda: self._brokers.group.join(self._member, self._session_s, claims)
            )
        except KafkaException:
            self._member = ""
            return None
        finally:
            self._joining = False
        return joined

    async def _lose(self) -> None:
        """The group has gone on without this member."""
        if self._owned:
            await self._ask("lost", list(self._owned))
        self._lost = False

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            token = self._token()
            if self._joining or not self._member or self._generation < 0:
                continue
            try:
                await self._network.request(partial(self._brokers.group.heartbeat, token), may_be_lost=True)
            except LostError:
                continue
            except KafkaException as error:
                if self._token() == token and not self._joining:
                    self._disturb(code_of(error))

    def _disturb(self, code: int) -> None:
        if code == KafkaError.REBALANCE_IN_PROGRESS:
            self._rejoin = True
        else:
            # As librdkafka does: the id goes with an unknown member, the generation with an illegal one; never both.
            if code == KafkaError.UNKNOWN_MEMBER_ID:
                self._member = ""
            else:
                self._generation = -1
            self._lost = True
            self._network.trace(self._who, "is not in the group any more")
        if self._disturbed is not None and not self._disturbed.done():
            self._disturbed.set_result(None)
