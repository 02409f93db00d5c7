"""Bugs made on purpose. Each breaks one thing that a promise rests on; the simulation must find every one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from stream.worker.coordinator import Coordinator
from stream.worker.lanes import KeyLanes, Slot
from stream.worker.ledger import Commit, PartitionLedger
from stream.worker.partitions import OwnedPartition, TopicPartition
from stream.worker.records import Outcome
from stream.worker.writer import Writer, _Ready
from tests.simulation.worker import Parts, SimBacklog


@dataclass(frozen=True)
class Mutation:
    """What is broken, and how: edits of the source that the simulation compiles, and methods that are replaced."""

    what: str
    parts: Parts = field(default_factory=Parts)
    replaced: tuple[tuple[type, str, Any], ...] = ()

    @contextlib.contextmanager
    def applied(self) -> Iterator[Parts]:
        with contextlib.ExitStack() as stack:
            for owner, name, value in self.replaced:
                stack.enter_context(patch.object(owner, name, value))
            yield self.parts


_commit = PartitionLedger.commit


def _commit_past_gaps(self: PartitionLedger, adding: Sequence[int] = ()) -> Commit | None:
    commit = _commit(self, adding)
    if commit is None or not commit.metadata:
        return commit
    assert self._begun_to is not None
    return Commit(self._begun_to, "")


def _a_lane_for_each(self: KeyLanes[Any], key: bytes | None) -> Slot[Any]:
    return Slot(None)


def _keep_what_was_given_up(self: Coordinator, partition: TopicPartition) -> None:
    owned = self._owned.pop(partition, None)
    if owned is not None:
        owned.drained.set()


def _close_without_giving_back(self: Coordinator, partition: TopicPartition) -> None:
    owned = self._owned.pop(partition, None)
    if owned is not None:
        owned.closed = True
        owned.drained.set()
        for task in owned.tasks:
            task.cancel()


class _Uncounted(SimBacklog):
    """Lets a mutation be found by what it writes, not by how it counts."""

    def take(self, events: int) -> None:
        return

    def give_back(self, events: int) -> None:
        return


async def _complete_on_abort(self: Writer, taken: list[Any], error: Exception) -> None:
    self._settle(taken)


async def _drop_on_abort(self: Writer, taken: list[Any], error: Exception) -> None:
    self._signal()


async def _put_back_at_the_end(self: Writer, taken: list[Any], error: Exception) -> None:
    self._ready.extend(ready for ready in taken if not ready.partition.closed)
    self._signal()


def _take_what_is_closed_too(self: Writer) -> list[Any]:
    taken = []
    while not self._failed and self._ready and len(taken) < self._max_batch:
        taken.append(self._ready.popleft())
    self._signal()
    return taken


def _go_on_after_a_failure(self: Writer, error: BaseException) -> None:
    self._on_failure(error)


def _fall_over_what_is_remembered(self: PartitionLedger, offset: int) -> bool:
    if self._position is not None and self._begun_to is not None and self._begun_to <= offset < self._position:
        raise ValueError("negative shift count")
    return _begin(self, offset)


_begin = PartitionLedger.begin


def _wait_for_nobody(self: Writer, partition: OwnedPartition, outcome: Outcome) -> None:
    self._queue(_Ready(partition, outcome))


_PUT_BACK = "_put_back"
_TOKEN_AT_ONCE = (
    "self._loop.call_soon_threadsafe(self._books.joined, self._consumer.consumer_group_metadata())",
    "self._books.joined(self._consumer.consumer_group_metadata())",
)

MUTATIONS = {
    "commits-before-dead-letters": Mutation(
        "at least once: an offset is committed before its dead letter is acknowledged",
        Parts(
            sink_edits=(
                (
                    "_Acknowledgements(self._loop, len(records))",
                    "_Acknowledgements(self._loop, sum(r.topic != self._topics.dead_letters for r in records))",
                ),
                (
                    "await _produce(self._producer, record, waiting.acknowledged)",
                    "await _produce(self._producer, record, "
                    "None if record.topic == self._topics.dead_letters else waiting.acknowledged)",
                ),
                ("await waiting.all\n", "await (waiting.all if waiting._missing else asyncio.sleep(0))\n"),
            )
        ),
    ),
    "commits-past-gaps": Mutation(
        "the position passes an unfinished offset",
        replaced=((PartitionLedger, "commit", _commit_past_gaps),),
    ),
    "out-of-key-order": Mutation(
        "an outcome leaves as soon as it is there", replaced=((KeyLanes, "enter", _a_lane_for_each),)
    ),
    "keeps-revoked": Mutation(
        "what finishes for a partition that was given up is still written",
        Parts(backlog=_Uncounted),
        replaced=((Coordinator, "_close", _keep_what_was_given_up),),
    ),
    "writes-closed": Mutation(
        "what was ready when its partition was given up is still written",
        Parts(backlog=_Uncounted),
        replaced=((Writer, "_take", _take_what_is_closed_too),),
    ),
    "forgets-metadata": Mutation(
        "the new owner does not look at the set of completed offsets",
        Parts(consumer_edits=(('Commit(answer.offset, answer.metadata or "")', 'Commit(answer.offset, "")'),)),
    ),
    "token-overtakes-books": Mutation(
        "the writer has the new generation's token before the books have given up what went with the old one",
        Parts(consumer_edits=(_TOKEN_AT_ONCE,)),
    ),
    "reads-unstable-commits": Mutation(
        "the new owner does not wait for the transactions of the old one", Parts(reads_stable=False)
    ),
    "stale-token-on-revoke": Mutation(
        "the drain of a revocation uses the token of the generation before",
        Parts(
            consumer_edits=(
                (
                    "        self._tell_membership()\n        complete = self._in_loop(",
                    "        complete = self._in_loop(",
                ),
            )
        ),
    ),
    "keeps-lost": Mutation(
        "a partition that was lost is not taken out of the books",
        Parts(
            consumer_edits=(
                (
                    "        self._assigned.difference_update(names)\n"
                    "        self._loop.call_soon_threadsafe(self._books.release, names)",
                    "        self._assigned.difference_update(names)",
                ),
            )
        ),
    ),
    "completes-on-abort": Mutation(
        "an aborted batch counts as written", replaced=((Writer, _PUT_BACK, _complete_on_abort),)
    ),
    "drops-on-abort": Mutation("an aborted batch is forgotten", replaced=((Writer, _PUT_BACK, _drop_on_abort),)),
    "aborted-goes-last": Mutation(
        "an aborted batch is written again behind later ones",
        replaced=((Writer, _PUT_BACK, _put_back_at_the_end),),
    ),
    "offsets-outside": Mutation(
        "offsets are not part of the transaction",
        Parts(
            sink_edits=(
                (
                    "self._patiently(lambda: self._producer.send_offsets_to_transaction(offsets, membership, _CALL_S))",
                    "offsets, membership = [], None",
                ),
            )
        ),
    ),
    "goes-on-after-failure": Mutation(
        "the writer writes later outcomes after it has failed with earlier ones",
        replaced=((Writer, "_fail", _go_on_after_a_failure),),
    ),
    "leaks-backlog": Mutation(
        "what is dropped with a partition still counts as in flight",
        replaced=((Coordinator, "_close", _close_without_giving_back),),
    ),
    "window-counts-remembered": Mutation(
        "a new owner waits because of what the old one had completed, and never reads the gap before it",
        replaced=((PartitionLedger, "reach", PartitionLedger.span),),
    ),
    "falls-over-remembered": Mutation(
        "the books cannot take an offset that the position has run over",
        replaced=((PartitionLedger, "begin", _fall_over_what_is_remembered),),
    ),
    "ignores-full-windows": Mutation(
        "reading goes on while the window of a partition is full",
        Parts(consumer_edits=(("full = self._full & self._assigned\n", "full = frozenset()\n"),)),
    ),
    "leaves-lost-places": Mutation(
        "a client that has lost its place in a partition is left there",
        Parts(consumer_edits=(("                self._put_back(name)\n", "                pass\n"),)),
    ),
    "puts-back-at-the-end": Mutation(
        "a client that has lost its place is put at the end of the log",
        Parts(
            consumer_edits=(
                (
                    "        self._consumer.incremental_assign([KafkaPartition(*name, self._next[name])])\n",
                    "        self._consumer.incremental_assign([KafkaPartition(*name, high)])\n",
                ),
            )
        ),
    ),
    "gives-up-too-late": Mutation(
        "a revocation that the loop was too busy for is carried out when its partition has been assigned anew",
        Parts(consumer_edits=(("if too_late.is_set():", "if False:"),)),
    ),
    "overtakes-what-is-refused": Mutation(
        "at least once: a key's next outcome does not wait until the one before is safe",
        replaced=((Writer, "add", _wait_for_nobody),),
    ),
}
