"""Calls of models of either kind: asynchronous ones are awaited, synchronous ones run off the loop.

Which kind a method is, is read off the method itself, once per model. A plain function that hands out something
asynchronous after all, as some decorators make, is run in a thread and its result awaited here.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

from rag.core.blocking import Lane, iterate, run_in
from rag.core.errors import LimitExceeded, ModelOverloaded, ModelTimeout
from rag.llm.deadlines import Deadlines, Watch

Kind = Literal["generator", "coroutine", "plain"]
_kinds: WeakKeyDictionary[object, dict[str, Kind]] = WeakKeyDictionary()


def kind_of(model: object, method: str) -> Kind:
    """Whether `model.method` is an async generator function, a coroutine function or a plain one."""
    try:
        known = _kinds.setdefault(model, {})
    except TypeError:  # Neither hashed nor referred to weakly.
        known = {}
    if method not in known:
        known[method] = _read_off(getattr(model, method))
    return known[method]


async def call(model: object, method: str, *arguments: Any, deadlines: Deadlines, **named: Any) -> Any:
    """The result of `model.method(*arguments, **named)`.

    Raises:
        ModelTimeout: a synchronous method took longer than `deadlines.answer_s`; its thread is left to itself.
        ModelOverloaded: no thread can be had for a synchronous model.
    """
    function = getattr(model, method)
    if kind_of(model, method) != "plain":
        return await function(*arguments, **named)
    work = functools.partial(function, *arguments, **named)
    try:
        async with asyncio.timeout(deadlines.answer_s) as limit:
            result = await _in_thread(model, work)
    except TimeoutError as error:
        if not limit.expired():
            raise
        name = name_of(model)
        raise ModelTimeout(
            f"The model {name!r} did not finish within {deadlines.answer_s:g} s. Try again, or choose another model.",
            model=name,
        ) from error
    return await result if inspect.isawaitable(result) else result


def stream(model: object, method: str, *arguments: Any, deadlines: Deadlines) -> AsyncIterator[Any]:
    """The items of `model.method(*arguments)`; to be closed when it is left early.

    An async generator function's own iterator is handed out as it is. Synchronous models have the deadlines kept here
    that asynchronous ones keep themselves.

    Raises, while it is iterated:
        ModelTimeout: a synchronous model missed a deadline.
        ModelOverloaded: no thread can be had for a synchronous model.
    """
    function = getattr(model, method)
    if kind_of(model, method) == "generator":
        source: AsyncIterator[Any] = function(*arguments)
        return source
    if kind_of(model, method) == "coroutine":
        return _awaited(functools.partial(function, *arguments))
    return _threaded(model, functools.partial(function, *arguments), deadlines)


def name_of(model: object) -> str:
    """`<model>@<provider>`, wherever the role keeps it."""
    info = getattr(model, "info", None)
    return str(info.name if info is not None else getattr(model, "name", ""))


def lane_of(model: object) -> Lane:
    """Models in this process compute, and have few threads; those elsewhere wait, and have many."""
    here = getattr(getattr(model, "info", model), "local", False)
    return Lane.MODEL if here else Lane.REMOTE


def _read_off(function: Any) -> Kind:
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    if inspect.isasyncgenfunction(function):
        return "generator"
    return "coroutine" if inspect.iscoroutinefunction(function) else "plain"


async def _in_thread(model: object, work: Callable[[], Any]) -> Any:
    if lane_of(model) is Lane.MODEL:
        return await run_in(Lane.MODEL, work)
    # A thread of its own: one that never comes back is lost to nobody else.
    with _overloaded(model):
        async with aclosing(iterate(lambda: iter((work(),)), lane=Lane.REMOTE)) as results:
            return await anext(results)


@contextmanager
def _overloaded(model: object) -> Iterator[None]:
    """Says of threads that ran out what is said of busy models."""
    try:
        yield
    except LimitExceeded as error:
        if "lane" not in error.facts:
            raise
        raise ModelOverloaded(error.message, model=name_of(model)) from error


async def _awaited(open_stream: Callable[[], Any]) -> AsyncGenerator[Any, None]:
    source = await open_stream()
    try:
        async for item in source:
            yield item
    finally:
        await _close(source)


class _Asynchronous:
    """An async iterator on its way back from the thread in which a plain function made it."""

    def __init__(self, source: AsyncIterator[Any]) -> None:
        self.source = source


async def _threaded(model: object, open_stream: Callable[[], Any], deadlines: Deadlines) -> AsyncGenerator[Any, None]:
    def make() -> Iterator[Any]:
        opened = open_stream()
        return iter([_Asynchronous(opened)]) if hasattr(opened, "__aiter__") else iter(opened)

    watch = Watch(deadlines, model=name_of(model))
    items = iterate(make, lane=lane_of(model))
    source: AsyncIterator[Any] | None = None
    try:
        with _overloaded(model):
            while True:
                try:
                    item = await (watch.next(items) if source is None else anext(source))
                except StopAsyncIteration:
                    break
                if isinstance(item, _Asynchronous):
                    source = aiter(item.source)
                    continue
                watch.started = True
                yield item
    finally:
        watch.close()
        await _close(source)
        await items.aclose()


async def _close(source: Any) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
