"""Topics, producers and transactions, as Kafka keeps them. `tests/simulation/test_contract.py` compares this with a real broker."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from confluent_kafka import KafkaError

from stream.worker.ledger import Commit
from stream.worker.partitions import Commits, TopicPartition
from tests.simulation.group import SimGroup, Token
from tests.simulation.network import Network, refusal

CONTENT = "content"
CLEANUP_S = 1.0
"""Seconds between two looks of the coordinator for transactions that are older than their timeout."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A record on its way out of a producer."""

    topic: str
    key: bytes | None
    value: bytes


@dataclass(slots=True)
class Entry:
    """A record in a log."""

    sent: Sent
    transaction: Transaction | None


@dataclass(slots=True, eq=False)
class Transaction:
    """What one transactional id has under way, or had."""

    producer: str
    number: int
    state: str = "open"
    entries: list[Entry] = field(default_factory=list)
    offsets: Commits = field(default_factory=dict)


@dataclass(slots=True)
class _ProducerState:
    timeout_s: float
    epoch: int = -1
    number: int = 0
    """The newest transaction that this epoch has begun. A request of an older one that arrives late is nothing any more."""
    transaction: Transaction | None = None
    completing: asyncio.Future[None] | None = None
    last: str | None = None
    """How the last transaction of this epoch ended: asked again, the coordinator says the same."""


@dataclass(frozen=True, slots=True)
class InputEntry:
    """A record of the content topic."""

    offset: int
    key: bytes | None
    value: bytes | None


class SimBrokers:
    """Runs at the brokers: every method is the effect of a request.

    `on_visible` hears of records that a reader with read_committed sees from now on, with the commits that became effective with
    them; `on_commit` of commits without a transaction.
    """

    def __init__(
        self,
        network: Network,
        *,
        on_visible: Callable[[Sequence[Sent], Commits], None] = lambda _records, _commits: None,
        on_commit: Callable[[Commits], None] = lambda _commits: None,
    ) -> None:
        self.network = network
        self.trace = network.trace
        self._loop = network.loop
        self._on_visible = on_visible
        self.logs: dict[str, list[Entry]] = {}
        self.inputs: dict[TopicPartition, list[InputEntry]] = {}
        self.group = SimGroup(network, lambda: self.inputs, on_commit)
        self._producers: dict[str, _ProducerState] = {}
        self._numbers = 0
        self._seen: set[tuple[object, ...]] = set()
        self.on_input: list[Callable[[], None]] = []

    def new_producer(self) -> int:
        """A producer's id, for what is not transactional."""
        self._numbers += 1
        return self._numbers

    # Topics.

    def add_input(self, name: TopicPartition, entries: Iterable[InputEntry]) -> None:
        self.inputs.setdefault(name, []).extend(entries)
        for tell in self.on_input:
            tell()

    def input_from(self, name: TopicPartition, position: int) -> InputEntry | None:
        """The first record at or after `position`."""
        log = self.inputs[name]
        index = bisect_left(log, position, key=lambda entry: entry.offset)
        return log[index] if index < len(log) else None

    def end_of_input(self, name: TopicPartition) -> int:
        """The offset of the next record."""
        log = self.inputs[name]
        return log[-1].offset + 1 if log else 0

    def append(self, producer: int, sequence: int, records: Sequence[Sent]) -> None:
        """Records of an idempotent producer, outside of transactions. A batch that came before is not taken again."""
        if (producer, sequence) in self._seen:
            return
        self._seen.add((producer, sequence))
        for sent in records:
            self.logs.setdefault(sent.topic, []).append(Entry(sent, None))
        self.trace("brokers", "%d records of producer %d", len(records), producer)
        self._on_visible(records, {})

    def read(self, topic: str, *, committed: bool) -> list[Sent]:
        """What a reader gets: with read_committed nothing beyond the first record whose transaction is open."""
        found = []
        for entry in self.logs.get(topic, ()):
            state = "committed" if entry.transaction is None else entry.transaction.state
            if committed and state == "open":
                break
            if not committed or state == "committed":
                found.append(entry.sent)
        return found

    # Transactions.

    def init_producer(self, name: str, timeout_s: float) -> int:
        """A new epoch for this transactional id: the holder of an older one is fenced, its open transaction aborted."""
        state = self._producers.setdefault(name, _ProducerState(timeout_s))
        state.epoch += 1
        state.timeout_s = timeout_s
        state.last = None
        state.number = 0
        if state.transaction is not None:
            self._decide(state, committed=False)
        return state.epoch

    def append_in_transaction(
        self, name: str, epoch: int, number: int, sequence: int, records: Sequence[Sent]
    ) -> asyncio.Future[None] | None:
        """The first batch opens the transaction. Waits while the one before is being completed."""
        state = self._fenced(name, epoch)
        if state.completing is not None:
            again = partial(self.append_in_transaction, name, epoch, number, sequence, records)
            return self._after(state.completing, again)
        if (name, epoch, sequence) in self._seen or number < state.number:
            return None
        self._seen.add((name, epoch, sequence))
        transaction = self._open(name, number, state)
        for sent in records:
            entry = Entry(sent, transaction)
            transaction.entries.append(entry)
            self.logs.setdefault(sent.topic, []).append(entry)
        return None

    def add_offsets(
        self, name: str, epoch: int, number: int, token: Token, commits: Mapping[TopicPartition, Commit]
    ) -> asyncio.Future[None] | None:
        """Commits that become effective with the transaction. The group's coordinator looks at the token here, once."""
        state = self._fenced(name, epoch)
        if state.completing is not None:
            return self._after(state.completing, partial(self.add_offsets, name, epoch, number, token, commits))
        if number < state.number:
            return None
        transaction = self._open(name, number, state)
        fresh = {tp: commit for tp, commit in commits.items() if tp not in transaction.offsets}
        self.group.prepare(token, fresh)
        transaction.offsets.update(commits)
        return None

    def end_transaction(self, name: str, epoch: int, number: int, *, commit: bool) -> None:
        """Decide. The answer comes when the decision is safe; markers follow. Asked again, the answer is the same."""
        state = self._fenced(name, epoch)
        if state.transaction is not None and number == state.number:
            self._decide(state, committed=commit)
        elif number == state.number and state.last == "aborted" and commit:
            raise refusal(KafkaError.INVALID_TXN_STATE, fatal=True)

    def _fenced(self, name: str, epoch: int) -> _ProducerState:
        state = self._producers[name]
        if epoch != state.epoch:
            raise refusal(KafkaError._FENCED, fatal=True)
        return state

    def _open(self, name: str, number: int, state: _ProducerState) -> Transaction:
        if state.transaction is None:
            state.last, state.number = None, number
            state.transaction = Transaction(name, number)
            later = state.timeout_s + CLEANUP_S * self.network.random.random()
            self.network.brokers.main.call_later(later, self._time_out, state, state.transaction)
        return state.transaction

    def _time_out(self, state: _ProducerState, transaction: Transaction) -> None:
        if state.transaction is transaction:
            self.trace("brokers", "transaction of %s times out", transaction.producer)
            state.epoch += 1
            self._decide(state, committed=False)

    def _decide(self, state: _ProducerState, *, committed: bool) -> None:
        transaction = state.transaction
        assert transaction is not None
        transaction.state = state.last = "committed" if committed else "aborted"
        state.transaction = None
        state.completing = self._loop.create_future()
        if committed:
            told = {number: commit.position for (_, number), commit in transaction.offsets.items()}
            self.trace("brokers", "%s commits %d records, %s", transaction.producer, len(transaction.entries), told)
            self._on_visible([entry.sent for entry in transaction.entries], transaction.offsets)
        else:
            self.trace("brokers", "%s aborts %d records", transaction.producer, len(transaction.entries))
        self.network.brokers.main.call_later(self.network.delay(), self._mark, state, transaction, committed)

    def _mark(self, state: _ProducerState, transaction: Transaction, committed: bool) -> None:
        self.group.settle(transaction.offsets, committed=committed)
        completing, state.completing = state.completing, None
        if completing is not None:
            completing.set_result(None)

    def _after(
        self, before: asyncio.Future[None], again: Callable[[], asyncio.Future[None] | None]
    ) -> asyncio.Future[None]:
        answer: asyncio.Future[None] = self._loop.create_future()

        def go_on(_done: object) -> None:
            try:
                more = again()
            except Exception as error:
                answer.set_exception(error)
            else:
                if more is None:
                    answer.set_result(None)
                else:
                    more.add_done_callback(lambda done: _hand_on(done, answer))

        before.add_done_callback(go_on)
        return answer


def _hand_on(done: asyncio.Future[None], answer: asyncio.Future[None]) -> None:
    error = done.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(None)
