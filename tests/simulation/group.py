"""The coordinator of one consumer group: the classic protocol with cooperative assignment, and the group's commits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaError

from stream.worker.ledger import Commit
from stream.worker.partitions import Commits, TopicPartition
from tests.simulation.network import Network, refusal

METADATA_LIMIT = 4096
"""`offset.metadata.max.bytes` of a broker."""

REBALANCE_S = 60.0
"""How long a rebalance waits for members that are alive and have not joined again."""


@dataclass(frozen=True, slots=True)
class Token:
    """A place in the group: what `consumer_group_metadata` gives."""

    generation: int
    member: str


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to a join: the place, and all that it owns in this generation."""

    token: Token
    partitions: frozenset[TopicPartition]


@dataclass(slots=True)
class _Member:
    name: str
    session_s: float
    expires: float = 0.0
    claims: tuple[int, frozenset[TopicPartition]] = (-1, frozenset())
    joining: asyncio.Future[Joined] | None = None
    assigned: frozenset[TopicPartition] = field(default_factory=frozenset)


class SimGroup:
    """Runs at the brokers: every method is the effect of a request."""

    def __init__(
        self,
        network: Network,
        partitions: Callable[[], Iterable[TopicPartition]],
        on_commit: Callable[[Commits], None] = lambda _commits: None,
    ) -> None:
        self._network = network
        self._loop = network.loop
        self._partitions = partitions
        self._on_commit = on_commit
        self.generation = 0
        self.state = "empty"
        self._members: dict[str, _Member] = {}
        self._names = 0
        self._round = 0
        self.committed: Commits = {}
        self._pending: dict[TopicPartition, int] = {}
        self._waiting: list[tuple[frozenset[TopicPartition], asyncio.Future[dict[TopicPartition, Commit | None]]]] = []

    # Membership.

    def join(
        self, member: str, session_s: float, claims: tuple[int, frozenset[TopicPartition]]
    ) -> asyncio.Future[Joined]:
        """Take part in the next generation. `claims` is what this member owns, and since which generation."""
        if not member:
            self._names += 1
            member = f"member-{self._names}"
            self._members[member] = _Member(member, session_s)
            self._network.brokers.main.call_later(session_s, self._watch, member)
        if member not in self._members:
            raise refusal(KafkaError.UNKNOWN_MEMBER_ID)
        me = self._members[member]
        answer: asyncio.Future[Joined] = self._loop.create_future()
        me.claims, me.joining = claims, answer
        self._rebalance()
        return answer

    def heartbeat(self, token: Token) -> None:
        self._known(token)
        self._members[token.member].expires = self._loop.time() + self._members[token.member].session_s
        if self.state == "preparing":
            raise refusal(KafkaError.REBALANCE_IN_PROGRESS)

    def leave(self, member: str) -> None:
        if member in self._members:
            self._remove(member)

    def _known(self, token: Token) -> None:
        if token.member not in self._members:
            raise refusal(KafkaError.UNKNOWN_MEMBER_ID, abort=True)
        if token.generation != self.generation:
            raise refusal(KafkaError.ILLEGAL_GENERATION, abort=True)

    def _watch(self, name: str) -> None:
        member = self._members.get(name)
        if member is None:
            return
        now = self._loop.time()
        if member.joining is None and member.expires <= now:
            self._network.trace("group", "%s expires", name)
            self._remove(name)
        else:
            self._network.brokers.main.call_later(max(member.expires - now, 0.1), self._watch, name)

    def _remove(self, name: str) -> None:
        member = self._members.pop(name)
        if member.joining is not None and not member.joining.done():
            member.joining.set_exception(refusal(KafkaError.UNKNOWN_MEMBER_ID))
        if self._members:
            self._rebalance()
        else:
            self.state = "empty"

    def _rebalance(self) -> None:
        if self.state != "preparing":
            self.state = "preparing"
            self._round += 1
            self._network.brokers.main.call_later(REBALANCE_S, self._out_of_patience, self._round)
        if all(member.joining is not None for member in self._members.values()):
            self._complete()

    def _out_of_patience(self, of_round: int) -> None:
        if self.state == "preparing" and self._round == of_round:
            for name in [name for name, member in self._members.items() if member.joining is None]:
                self._network.trace("group", "%s did not join again in time", name)
                self._members.pop(name)
            self._complete()

    def _complete(self) -> None:
        if not self._members:
            self.state = "empty"
            return
        self.generation += 1
        assignment = self._assignment()
        self.state = "completing"
        self._network.brokers.main.call_later(self._network.delay(), self._stable, self.generation)
        told = {name: sorted(number for _, number in got) for name, got in assignment.items()}
        self._network.trace("group", "generation %d: %s", self.generation, told)
        for name, member in self._members.items():
            member.assigned = assignment[name]
            member.expires = self._loop.time() + member.session_s
            assert member.joining is not None
            member.joining.set_result(Joined(Token(self.generation, name), member.assigned))
            member.joining = None

    def _stable(self, generation: int) -> None:
        if self.state == "completing" and self.generation == generation:
            self.state = "stable"

    def _assignment(self) -> dict[str, frozenset[TopicPartition]]:
        """Sticky and cooperative: a partition that changes hands is given to nobody in this generation."""
        members = sorted(self._members.values(), key=lambda member: member.name)
        owner: dict[TopicPartition, _Member] = {}
        for member in sorted(members, key=lambda member: member.claims[0]):
            for name in sorted(member.claims[1]):
                owner[name] = member
        partitions = sorted(self._partitions())
        least, more = divmod(len(partitions), len(members))
        kept: dict[str, list[TopicPartition]] = {member.name: [] for member in members}
        moving: list[TopicPartition] = []
        free: list[TopicPartition] = []
        for name in self._network.random.sample(partitions, len(partitions)):
            holder = owner.get(name)
            if holder is None:
                free.append(name)
            elif len(kept[holder.name]) < least:
                kept[holder.name].append(name)
            elif len(kept[holder.name]) == least and more:
                kept[holder.name].append(name)
                more -= 1
            else:
                moving.append(name)
        for name in free:
            needy = min(members, key=lambda member: len(kept[member.name]))
            kept[needy.name].append(name)
        return {member: frozenset(got) for member, got in kept.items()}

    # Commits.

    def commit(self, token: Token, commits: Mapping[TopicPartition, Commit]) -> None:
        """A member's own commit, outside of transactions."""
        self._may_commit(token, transactional=False)
        self._fit(commits)
        self.committed.update(commits)
        self._on_commit(dict(commits))

    def prepare(self, token: Token, commits: Mapping[TopicPartition, Commit]) -> None:
        """Commits of a transaction that is not decided: whoever asks for these partitions waits from now on."""
        self._may_commit(token, transactional=True)
        self._fit(commits)
        for name in commits:
            self._pending[name] = self._pending.get(name, 0) + 1

    def settle(self, commits: Mapping[TopicPartition, Commit], *, committed: bool) -> None:
        """The transaction of `prepare` is over, and its marker written."""
        for name in commits:
            self._pending[name] -= 1
            if not self._pending[name]:
                del self._pending[name]
        if committed:
            self.committed.update(commits)
        waiting, self._waiting = self._waiting, []
        for names, answer in waiting:
            self._answer(names, answer)

    def fetch(
        self, names: Iterable[TopicPartition], *, stable: bool
    ) -> asyncio.Future[dict[TopicPartition, Commit | None]]:
        """What is committed. With `stable` (read_committed) not before every transaction with commits for it is over."""
        answer: asyncio.Future[dict[TopicPartition, Commit | None]] = self._loop.create_future()
        wanted = frozenset(names)
        if stable:
            self._answer(wanted, answer)
        else:
            answer.set_result({name: self.committed.get(name) for name in sorted(wanted)})
        return answer

    def _answer(
        self, names: frozenset[TopicPartition], answer: asyncio.Future[dict[TopicPartition, Commit | None]]
    ) -> None:
        if any(name in self._pending for name in names):
            self._waiting.append((names, answer))
        else:
            answer.set_result({name: self.committed.get(name) for name in sorted(names)})

    def _may_commit(self, token: Token, *, transactional: bool) -> None:
        if token.generation < 0 and not self._members:
            return  # whatever the member is called: so do tools commit, and clients that assign partitions themselves
        if token.generation >= 0 or token.member:
            self._known(token)
        elif not transactional and self._members:
            raise refusal(KafkaError.UNKNOWN_MEMBER_ID)
        # A transaction without generation and member is taken as it comes: that is what makes the token matter.
        if not transactional and self.state == "completing":
            raise refusal(KafkaError.REBALANCE_IN_PROGRESS)

    @staticmethod
    def _fit(commits: Mapping[TopicPartition, Commit]) -> None:
        # Characters, for all that the setting says; and confluent-kafka sends a terminator with them.
        if any(len(commit.metadata) >= METADATA_LIMIT for commit in commits.values()):
            raise refusal(KafkaError.OFFSET_METADATA_TOO_LARGE, abort=True)
