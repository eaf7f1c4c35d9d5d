"""Parts that are closed one after another, with one limit of time for all."""

import asyncio
import math
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()


class Closing:
    """The end of something with several parts. The limit that ends first holds, however often it is closed."""

    def __init__(self) -> None:
        self._until = math.inf

    async def within(self, limit_s: float, *parts: Callable[[], Awaitable[object]]) -> None:
        """Await each of `parts` in turn, for `limit_s` seconds in all. Those that come after that are begun as well, so
        that they give up what they have, but not waited for."""
        self._until = min(self._until, asyncio.get_running_loop().time() + limit_s)
        late = 0
        for part in parts:
            try:
                async with asyncio.timeout_at(self._until):
                    await part()
            except TimeoutError:
                late += 1
        if late:
            log.warning("not_closed_in_time", parts=late, limit_s=limit_s)
