"""Made-up stories of a worker: records come, are judged, written and aborted in any order, and partitions go and come back."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.worker.ledger import Commit
from stream.worker.records import InputRecord
from tests.stream.worker.coordinating import Batch, Desk, Place, place, remembered, settle
from tests.stream.worker.parts import TOPIC, record

PARTITIONS = 2
Shape = tuple[int, bytes | None]
Step = tuple[str, int]


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Shape], list[Step]]:
    """Records (partition, key), and an order in which they are accepted, judged, written, and partitions move."""
    shapes = st.tuples(st.integers(0, PARTITIONS - 1), st.sampled_from([None, b"a", b"b"]))
    records = draw(st.lists(shapes, min_size=1, max_size=25))
    finishes = draw(st.permutations(range(len(records))))
    steps: list[Step] = [("accept", n) for n in range(len(records))]
    for n in finishes:
        steps.insert(draw(st.integers(steps.index(("accept", n)) + 1, len(steps))), ("finish", n))
    for _ in range(draw(st.integers(0, 4))):
        steps.insert(draw(st.integers(0, len(steps))), ("acknowledge", draw(st.integers(1, 6))))
    for _ in range(draw(st.integers(0, 3))):
        steps.insert(draw(st.integers(0, len(steps))), ("move", draw(st.integers(0, PARTITIONS - 1))))
    return records, steps


class Story:
    """The group's side: what is written, and what is committed, either with the writes or when a partition moves."""

    def __init__(self, shape: Sequence[Shape], random: Random, *, transactions: bool) -> None:
        self.transactions = transactions
        self.desk = Desk(parallel=1, max_batch=3) if transactions else Desk()
        self.records = [record(n, partition=partition, key=key) for n, (partition, key) in enumerate(shape)]
        self.random = random
        self.committed: dict[tuple[str, int], Commit | None] = {(TOPIC, n): None for n in range(PARTITIONS)}
        self.came: set[Place] = set()
        self.written: list[InputRecord] = []

    async def tell(self, steps: Sequence[Step]) -> None:
        self.desk.books.assign(self.committed)
        for step, number in steps:
            if step == "accept":
                self.came.add(place(self.records[number]))
                await self.desk.accept(self.records[number])
            elif step == "finish":
                await self._finish(self.records[number])
            elif step == "acknowledge":
                await self._acknowledge(number)
            else:
                await self._move((TOPIC, number))
            self._check()
        for of in self.records:
            await self._finish(of)
        while self.desk.sink.open:
            await self._acknowledge(1)
        self._check()
        await self._check_the_end()
        await self.desk.books.aclose()

    async def _finish(self, of: InputRecord) -> None:
        judging = self.desk.judge.open.get(place(of))
        if judging is not None and not judging.done():
            await self.desk.finish(of)

    async def _acknowledge(self, count: int) -> None:
        for _ in range(min(count, len(self.desk.sink.open))):
            batch = self.random.choice(self.desk.sink.open)
            self._land(batch)
            batch.answer.set_result(None)
            await settle()

    def _land(self, batch: Batch) -> None:
        """Kafka has it now. A transaction of a partition that moved on is refused by the broker: the tests of the sinks."""
        for name, commit in batch.commits.items():
            covered = {at for at in batch.places() if at[0] == name[1]}
            before = {place(of) for of in self.written}
            assert self._claimed(name, commit) <= before | covered
            if self.transactions:
                self.committed[name] = commit
        self.written += [outcome.record for outcome in batch.outcomes]

    def _claimed(self, name: tuple[str, int], commit: Commit) -> set[Place]:
        """What a commit says is done, of what came at all."""
        beyond = remembered(commit)
        return {at for at in self.came if at[0] == name[1] and (at[1] < commit.position or at[1] in beyond)}

    async def _move(self, name: tuple[str, int]) -> None:
        """Taken away after a drain in vain, and assigned anew: its records come again from the commit on."""
        if self.transactions:
            # The transaction under way ends first: the new owner's question for the commits waits for it.
            while self.desk.sink.open:
                await self._acknowledge(1)
        left = await self.desk.books.give_up([name], 0)
        if not self.transactions:
            self.committed.update(left)
        self.desk.books.assign({name: self.committed[name]})
        await settle()
        commit = self.committed[name]
        start = 0 if commit is None else commit.position
        again = [of for of in self.records if place(of) in self.came and of.partition == name[1] and of.offset >= start]
        for of in again:
            await self.desk.accept(of)
            if self.random.random() < 0.5:
                await self._finish(of)
            await self._acknowledge(self.random.randint(0, 1))

    def _check(self) -> None:
        written = {place(of) for of in self.written}
        for name, commit in self.desk.books.commits().items():
            assert self._claimed(name, commit) <= written
        assert self.desk.faults == []

    async def _check_the_end(self) -> None:
        places = [place(of) for of in self.written]
        assert set(places) == self.came
        assert (self.desk.backlog.count, self.desk.books.held()) == (0, 0)
        assert await self.desk.books.drain(self.desk.books.owned(), 0)
        lanes: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
        for of in self.written:
            if of.key is not None:
                lanes[of.partition, of.key].append(of.offset)
        if self.transactions:
            assert len(places) == len(set(places))
            assert all(offsets == sorted(offsets) for offsets in lanes.values())


@pytest.mark.parametrize("transactions", [False, True])
@given(story=stories(), random=st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_nothing_is_lost_or_claimed_too_early_and_in_transactions_nothing_repeated_or_reordered(
    transactions: bool, story: tuple[list[Shape], list[Step]], random: Random
) -> None:
    shape, steps = story

    async def play() -> None:
        await Story(shape, random, transactions=transactions).tell(steps)

    asyncio.run(play())
