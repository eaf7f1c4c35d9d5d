"""Parts that are closed one after another, with one limit of time for all."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()


async def close_within(limit_s: float, *parts: Callable[[], Awaitable[object]]) -> None:
    """Await each of `parts` in turn, for `limit_s` seconds in all. Those that come after that are begun as well, so
    that they give up what they have, but not waited for."""
    until = asyncio.get_running_loop().time() + limit_s
    late = 0
    for part in parts:
        try:
            async with asyncio.timeout_at(until):
                await part()
        except TimeoutError:
            late += 1
    if late:
        log.warning("not_closed_in_time", parts=late, limit_s=limit_s)
