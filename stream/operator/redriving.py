"""Dead letters back to the content topic, so that no run sends what an earlier one with the same filter has sent.

A batch is one Kafka transaction: the re-sent records, and the position behind them in the dead-letter topic, committed for the
group of the filter. So a run can be killed anywhere, and the next one goes on where the last transaction ended. Two runs
with one filter share a transactional id: the later one fences the earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.deadletters import DeadLetter
from stream.clock import Clock
from stream.errors import DeliveryError
from stream.operator.letters import Found, RedriveReport, Selection, Stopped
from stream.worker.reading import ATTEMPT_HEADER, REDRIVE_OF_HEADER

_POLL_S = 0.2
_CALL_S = 30.0
_MAX_LETTERS = 500
_MAX_BYTES = 8 * 1024 * 1024
_MAX_PASSED = 5000
"""What closes a batch: letters to send, their bytes, or positions passed on the way to them."""
_ATTEMPTS = 5
_REFUSALS = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD})
"""What Kafka says about one record and will say again: the others go without it."""


class _RefusedError(Exception):
    """Kafka will never take these letters of a batch: by id, with what it said."""

    def __init__(self, letters: dict[str, str]) -> None:
        super().__init__(f"{len(letters)} records were refused")
        self.letters = letters


@dataclass(slots=True)
class _Batch:
    letters: list[DeadLetter] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)
    bytes: int = 0
    passed: int = 0


class Redriver:
    """Sends letters back, a transaction at a time. The producer's transactions must be initialised.

    `partitions` is the content topic's count: a record goes to the partition that it came from, so that its key keeps its order with
    later events whatever partitioner the platform's producers use; from another topic's letter, by its key.
    """

    def __init__(
        self,
        producer: Producer,
        consumer: Consumer,
        *,
        dead_letters: str,
        content: str,
        partitions: int,
        rate: float | None,
        clock: Clock,
        report: RedriveReport,
    ) -> None:
        self._producer = producer
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._content = content
        self._partitions = partitions
        self._rate = rate
        self._size = _MAX_LETTERS if rate is None else max(1, min(_MAX_LETTERS, int(rate)))
        self._clock = clock
        self._report = report

    def run(
        self, found: Iterable[Found], selection: Selection, stopped: Stopped, on_passed: Callable[[int], object]
    ) -> None:
        """Send what `selection` takes, in order. `on_passed` gets how many positions lie behind since the last call.

        With a rate the records of about one second become visible together. Once `stopped`, the batch under way is finished if it
        is being written and dropped if not. Raises `DeliveryError`, with everything before the batch sent and remembered.
        """
        began, batch = self._clock.monotonic(), _Batch()
        for one in found:
            letter = selection.take(one)
            batch.positions[one.partition] = one.offset + 1
            batch.passed += 1
            if letter is not None:
                batch.letters.append(letter)
                batch.bytes += len(letter.value or b"")
            if selection.full or self._is_full(batch):
                if not self._flush(batch, began, stopped):
                    return
                on_passed(batch.passed)
                batch = _Batch()
            if selection.full:
                return
        if batch.passed and self._flush(batch, began, stopped):
            on_passed(batch.passed)

    def _is_full(self, batch: _Batch) -> bool:
        return len(batch.letters) >= self._size or batch.bytes >= _MAX_BYTES or batch.passed >= _MAX_PASSED

    def _flush(self, batch: _Batch, began: float, stopped: Stopped) -> bool:
        """Write the batch when the rate allows it. False when it was stopped before."""
        due = began if self._rate is None else began + self._report.letters / self._rate
        while not stopped():
            left = due - self._clock.monotonic()
            if left <= 0:
                self._write(batch)
                return True
            self._producer.poll(min(left, _POLL_S))
        return False

    def _write(self, batch: _Batch) -> None:
        tries, one_by_one = 0, False
        while True:
            try:
                self._transaction(batch, one_by_one=one_by_one)
            except _RefusedError as problem:
                self._abort()
                # Kafka refuses what travels together: one record's size costs its neighbours until each goes alone.
                if one_by_one:
                    self._report.refused += problem.letters.items()
                    batch.letters = [letter for letter in batch.letters if letter.id not in problem.letters]
                one_by_one = True
            except KafkaException as problem:
                error: KafkaError = problem.args[0]
                tries += 1
                if error.fatal() or not _may_be_tried_again(error) or tries == _ATTEMPTS:
                    raise _given_up(self._content, error) from None
                self._abort()
            else:
                self._report.sent.update((letter.reason, letter.tenant) for letter in batch.letters)
                return

    def _transaction(self, batch: _Batch, *, one_by_one: bool) -> None:
        """All of the batch, or nothing. Raises `_RefusedError`, or `KafkaException`: nothing is visible then."""
        refused: dict[str, str] = {}
        self._producer.begin_transaction()
        try:
            for letter in batch.letters:
                self._produce(letter, refused)
                if one_by_one:
                    self._arrive()
        finally:
            # After a refusal the next record finds the transaction in a wrong state: what counts is the refusal.
            self._arrive()
            if refused:
                raise _RefusedError(refused)
        positions = [TopicPartition(self._dead_letters, number, next_) for number, next_ in batch.positions.items()]
        group = self._consumer.consumer_group_metadata()
        _patiently(lambda: self._producer.send_offsets_to_transaction(positions, group, _CALL_S))
        _patiently(lambda: self._producer.commit_transaction(_CALL_S))

    def _arrive(self) -> None:
        """Wait for every record's answer. The producer's `delivery.timeout.ms` bounds it."""
        while self._producer.flush(_POLL_S):
            pass

    def _abort(self) -> None:
        try:
            _patiently(lambda: self._producer.abort_transaction(_CALL_S))
        except KafkaException as problem:
            raise _given_up(self._content, problem.args[0]) from None

    def _produce(self, letter: DeadLetter, refused: dict[str, str]) -> None:
        source = letter.source
        same = source.topic == self._content and source.partition < self._partitions

        def answered(error: KafkaError | None, _message: object) -> None:
            if error is not None and error.code() in _REFUSALS:
                refused[letter.id] = error.str()

        while True:
            try:
                self._producer.produce(
                    self._content,
                    letter.value,
                    letter.key,
                    partition=source.partition if same else -1,
                    headers=headers_of(letter),
                    on_delivery=answered,
                )
            except BufferError:
                self._producer.poll(_POLL_S)
                continue
            except KafkaException as problem:
                if problem.args[0].code() not in _REFUSALS:
                    raise
                refused[letter.id] = problem.args[0].str()
            return


def headers_of(letter: DeadLetter) -> list[tuple[str, bytes | None]]:
    """The original headers, in order, and behind them which attempt this is and of which letter."""
    ours = (ATTEMPT_HEADER, REDRIVE_OF_HEADER)
    kept = [(header.name, header.value) for header in letter.headers if header.name not in ours]
    return [*kept, (ATTEMPT_HEADER, str(letter.attempt + 1).encode()), (REDRIVE_OF_HEADER, letter.id.encode())]


def _may_be_tried_again(error: KafkaError) -> bool:
    """Whether a new transaction may succeed. A wrong state is a transaction that has failed already, in the background."""
    return bool(error.txn_requires_abort() or error.retriable() or error.code() == KafkaError._STATE)


def _patiently(call: Callable[[], object]) -> None:
    """A transactional call that timed out has to be made again, with the same arguments, until it says yes or no."""
    for _ in range(_ATTEMPTS):
        try:
            call()
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
            last = error
        else:
            return
    raise last


def _given_up(topic: str, error: KafkaError) -> DeliveryError:
    if error.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
        return DeliveryError(topic, "another redrive with the same filter has begun; it goes on from here")
    return DeliveryError(topic, f"{error.str()}; what was sent before is remembered")
