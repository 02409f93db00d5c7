"""Every kind of fault: what it needs for itself, how long it lasts, and what it does.

`worker -9` kills happen at random moments and at points that are observed from outside (a log line, a metric, a link that holds
back the commit): nothing in the worker knows of them. Each function injects its fault, holds it and heals it, and returns whether
the fault met the point that its name tells (True where it has none).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.arena import Arena, Slot

POINT_S = 8.0
"""Seconds to wait for a point; then the fault comes anyway."""

OPEN_S = 0.25
"""Seconds in which a worker surely has begun a transaction, or is in the middle of one: its interval is 100 ms."""

Act = Callable[[Arena, Slot, float], bool]


@dataclass(frozen=True, slots=True)
class Kind:
    """`needs` are the things that no other fault may touch meanwhile: of one of the base slots (`worker`, `kafka`, `guard`), or there
    once for all. `seconds` bound the time that the fault is in force."""

    name: str
    act: Act
    needs: tuple[str, ...]
    seconds: tuple[float, float] = (0.0, 0.0)


def kill(_arena: Arena, slot: Slot, _seconds: float) -> bool:
    slot.kill()
    slot.start()
    return True


def kill_for_a_while(arena: Arena, slot: Slot, seconds: float) -> bool:
    slot.kill()
    arena.hold(seconds)
    slot.start()
    return True


def kill_in_transaction(arena: Arena, slot: Slot, _seconds: float) -> bool:
    """Its link falls silent: the transaction that is open stays open, and the worker dies with it."""
    ready = arena.until(slot.settled, POINT_S)
    slot.kafka.silence()
    arena.hold(OPEN_S)
    slot.kill()
    slot.kafka.heal()
    slot.start()
    return ready


def kill_before_the_commit_is_heard(arena: Arena, slot: Slot, _seconds: float) -> bool:
    """The broker does what it was asked, and the worker dies before it hears of it."""
    ready = arena.until(slot.settled, POINT_S)
    slot.kafka.silence(requests=False)
    arena.hold(OPEN_S)
    slot.kill()
    slot.kafka.heal()
    slot.start()
    return ready


def kill_beyond_watermark(arena: Arena, slot: Slot, _seconds: float) -> bool:
    met = arena.until(slot.beyond_watermark, POINT_S)
    slot.kill()
    slot.start()
    return met


def kill_while_draining(arena: Arena, slot: Slot, seconds: float) -> bool:
    arena.until(slot.settled, POINT_S)
    logged = slot.log_from_here()
    # Its requests to the guard take longer now, so that there is something to drain.
    slot.guard.delay(0.5)
    arena.hold(2 * OPEN_S)
    slot.ask_to_end()
    draining = arena.until(slot.draining, POINT_S)
    arena.hold(seconds)
    met = draining and not logged("worker.drained")
    slot.kill()
    slot.guard.heal()
    slot.start()
    return met


def kill_at_assignment(arena: Arena, slot: Slot, _seconds: float) -> bool:
    slot.kill()
    logged = slot.log_from_here()
    slot.start()
    met = arena.until(lambda: logged("consumer.assigned"), 2 * POINT_S)
    slot.kill()
    slot.start()
    return met


def kill_at_revocation(arena: Arena, slot: Slot, seconds: float) -> bool:
    """Another worker comes, and one of those that give it partitions dies as it does."""
    arena.until(slot.settled, POINT_S)
    logged = slot.log_from_here()
    arena.extra.start()
    met = arena.until(lambda: logged("consumer.revoked"), 2 * POINT_S)
    slot.kill()
    slot.start()
    arena.hold(seconds)
    arena.extra.terminate()
    return met


def zombie(arena: Arena, slot: Slot, seconds: float) -> bool:
    """Stopped for longer than its session, then it goes on as if nothing had happened."""
    slot.worker.pause()
    arena.hold(seconds)
    slot.worker.resume()
    return True


def zombie_in_transaction(arena: Arena, slot: Slot, seconds: float) -> bool:
    """As `zombie`, stopped while a commit was on its way."""
    ready = arena.until(slot.settled, POINT_S)
    slot.kafka.silence(requests=False)
    arena.hold(OPEN_S)
    slot.worker.pause()
    slot.kafka.heal()
    arena.hold(seconds)
    slot.worker.resume()
    return ready


def scale_in(arena: Arena, slot: Slot, seconds: float) -> bool:
    slot.terminate()
    arena.hold(seconds)
    slot.start()
    return True


def scale_out(arena: Arena, _slot: Slot, seconds: float) -> bool:
    arena.extra.start()
    met = arena.until(arena.extra.settled, 2 * POINT_S)
    arena.hold(seconds)
    arena.extra.terminate()
    return met


def broker_kill(arena: Arena, _slot: Slot, seconds: float) -> bool:
    arena.broker.kill()
    arena.hold(seconds)
    arena.bring_back(arena.broker)
    return True


def broker_restart(arena: Arena, _slot: Slot, seconds: float) -> bool:
    arena.broker.stop()
    arena.hold(seconds)
    arena.bring_back(arena.broker)
    return True


def broker_pause(arena: Arena, _slot: Slot, seconds: float) -> bool:
    arena.broker.pause()
    arena.hold(seconds)
    arena.broker.resume()
    return True


def triton_kill(arena: Arena, _slot: Slot, seconds: float) -> bool:
    arena.triton.kill()
    arena.hold(seconds)
    arena.bring_back(arena.triton)
    return True


def triton_pause(arena: Arena, _slot: Slot, seconds: float) -> bool:
    arena.triton.pause()
    arena.hold(seconds)
    arena.triton.resume()
    return True


def store_gone(arena: Arena, _slot: Slot, seconds: float) -> bool:
    arena.store_gone(True)
    arena.hold(seconds)
    arena.store_gone(False)
    return True


def kafka_cut(arena: Arena, slot: Slot, seconds: float) -> bool:
    slot.kafka.cut()
    arena.hold(seconds)
    slot.kafka.heal()
    return True


def kafka_reset(arena: Arena, slot: Slot, seconds: float) -> bool:
    for _ in range(3):
        slot.kafka.reset()
        arena.hold(seconds / 3)
    return True


def kafka_slow(arena: Arena, slot: Slot, seconds: float) -> bool:
    slot.kafka.delay(seconds / 15)
    arena.hold(seconds)
    slot.kafka.heal()
    return True


def kafka_silent(arena: Arena, slot: Slot, seconds: float) -> bool:
    slot.kafka.silence()
    arena.hold(seconds)
    slot.kafka.heal()
    return True


def kafka_answers_lost(arena: Arena, slot: Slot, seconds: float) -> bool:
    """The broker hears and does everything; its answers never arrive."""
    slot.kafka.silence(requests=False)
    arena.hold(seconds)
    slot.kafka.reset()
    slot.kafka.heal()
    return True


def guard_cut(arena: Arena, slot: Slot, seconds: float) -> bool:
    slot.guard.cut()
    arena.hold(seconds)
    slot.guard.heal()
    return True


def guard_slow(arena: Arena, slot: Slot, seconds: float) -> bool:
    slot.guard.delay(seconds / 10)
    arena.hold(seconds)
    slot.guard.heal()
    return True


def guard_silent(arena: Arena, slot: Slot, seconds: float) -> bool:
    slot.guard.silence()
    arena.hold(seconds)
    slot.guard.reset()
    slot.guard.heal()
    return True


WORKER, KAFKA, GUARD = "worker", "kafka", "guard"
OF_A_SLOT = frozenset({WORKER, KAFKA, GUARD})

KINDS = (
    Kind("worker kill -9", kill, (WORKER,)),
    Kind("worker kill -9, gone a while", kill_for_a_while, (WORKER,), (1, 8)),
    Kind("kill -9 in a transaction", kill_in_transaction, (WORKER, KAFKA)),
    Kind("kill -9 before the commit is heard", kill_before_the_commit_is_heard, (WORKER, KAFKA)),
    Kind("kill -9 beyond the watermark", kill_beyond_watermark, (WORKER,)),
    Kind("kill -9 while draining", kill_while_draining, (WORKER, GUARD), (0, 0.3)),
    Kind("kill -9 at assignment", kill_at_assignment, (WORKER,)),
    Kind("kill -9 at revocation", kill_at_revocation, (WORKER, "extra"), (0, 2)),
    Kind("worker stopped, a zombie", zombie, (WORKER,), (6.5, 9)),
    Kind("zombie with a commit under way", zombie_in_transaction, (WORKER, KAFKA), (6.5, 9)),
    Kind("worker stopped for a moment", zombie, (WORKER,), (0.5, 5)),
    Kind("worker scaled in", scale_in, (WORKER,), (0, 4)),
    Kind("worker scaled out", scale_out, ("extra",), (1, 5)),
    Kind("Kafka link cut", kafka_cut, (KAFKA,), (0.5, 9)),
    Kind("Kafka link reset", kafka_reset, (KAFKA,), (0.3, 3)),
    Kind("Kafka link slow", kafka_slow, (KAFKA,), (1, 5)),
    Kind("Kafka link silent", kafka_silent, (KAFKA,), (0.5, 9)),
    Kind("Kafka's answers lost", kafka_answers_lost, (KAFKA,), (0.2, 4)),
    Kind("guard link cut", guard_cut, (GUARD,), (0.5, 5)),
    Kind("guard link slow", guard_slow, (GUARD,), (1, 5)),
    Kind("guard link silent", guard_silent, (GUARD,), (0.5, 6)),
    Kind("broker kill -9", broker_kill, ("broker",), (0, 2)),
    Kind("broker restarted", broker_restart, ("broker",), (0, 1)),
    Kind("broker stopped for a moment", broker_pause, ("broker",), (0.5, 7)),
    Kind("Triton kill -9", triton_kill, ("triton",), (0, 2)),
    Kind("Triton stopped for a moment", triton_pause, ("triton",), (0.5, 6)),
    Kind("store gone", store_gone, ("store",), (0.5, 4)),
)
