"""Places on the guard, given out first come, first served."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from types import TracebackType

from stream.guard.limiter import ConcurrencyLimit


class Places:
    """As many places as the limit allows now. `async with places:` waits for one and gives it back.

    First come, first served: nobody overtakes, so nobody starves. Cancelling whoever waits costs no place, also when the place
    came in the same turn of the loop. When the limit shrinks, nobody loses a place; the next ones are given out when enough have
    come back. A limit that grows is noticed when a place comes back.
    """

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self._limit = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = 0

    @property
    def taken(self) -> int:
        """Places given out."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    async def __aenter__(self) -> None:
        if not self._waiting and self._taken < self._limit.limit:
            self._taken += 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._give_back()
            else:
                with contextlib.suppress(ValueError):  # passed over already, by somebody who gave a place back
                    self._waiting.remove(mine)
            raise

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._give_back()

    def _give_back(self) -> None:
        self._taken -= 1
        self._give_out()

    def _give_out(self) -> None:
        while self._waiting and self._taken < self._limit.limit:
            first = self._waiting.popleft()
            if not first.done():
                self._taken += 1
                first.set_result(None)
