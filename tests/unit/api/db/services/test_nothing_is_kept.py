"""Nothing of a request stays on anything that two requests can reach: the graph of objects is searched for it."""

import asyncio
import gc
import random
from collections import deque
from collections.abc import Iterable, Sequence
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest

from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import ModelCall
from rag.core.blocking import Lane, stream_threads
from rag.core.errors import RagError
from rag.core.ids import new_id
from rag.core.settings import load_settings
from rag.core.types import Turn
from rag.llm.base import ChatRequest, Delta
from rag.llm.registry import Registry
from rag.llm.retry import RetryPolicy
from rag.testing.models import FixedModels
from rag.testing.role_models import AsyncModels, Script, SyncModels
from rag.testing.upstream import FaultyUpstream, Plan

OPAQUE = (type, ModuleType, BuiltinFunctionType, CodeType, FrameType, asyncio.AbstractEventLoop)
"""What is shared by all of a process, and leads everywhere."""


def referents(thing: object) -> Iterable[object]:
    if isinstance(thing, FunctionType):  # Not its globals: they lead to this test.
        return [thing.__closure__, thing.__defaults__, thing.__kwdefaults__, thing.__dict__]
    return gc.get_referents(thing)


def holders(roots: Sequence[object], marker: str) -> list[str]:
    """The paths from `roots` to strings and bytes that contain `marker`."""
    raw = marker.encode()
    found: list[str] = []
    seen: set[int] = set()
    queue: deque[tuple[object, str]] = deque((root, type(root).__name__) for root in roots)
    kept: list[object] = []  # Ids are only good while their objects live.
    while queue:
        thing, path = queue.popleft()
        if id(thing) in seen or isinstance(thing, OPAQUE):
            continue
        seen.add(id(thing))
        kept.append(thing)
        if isinstance(thing, str):
            if marker in thing:
                found.append(path)
        elif isinstance(thing, bytes | bytearray):
            if raw in thing:
                found.append(path)
        else:
            queue.extend((below, f"{path} > {type(below).__name__}") for below in referents(thing))
    return found


class Counting:
    """A usage sink that keeps a number."""

    def __init__(self) -> None:
        self.rows = 0

    async def record(self, call: ModelCall) -> None:
        self.rows += 1


async def no_wait(_: float) -> None:
    return None


async def talk(catalogue: ModelCatalogue, model: str, marker: str, number: int) -> None:
    """One call, with the marker in everything that is of a request; some are left, cancelled or fail."""
    bundle = catalogue.bundle_chat(
        model,
        tenant_id=f"tenant {marker}",
        dialog_id=f"dialog {marker}",
        conversation_id=f"session {marker}",
        message_id=f"message {marker}",
    )
    turns = (Turn(role="system", content=f"system {marker}"), Turn(role="user", content=f"question {marker} {number}"))
    stream = bundle.chat_streamly(ChatRequest(turns=turns))
    try:
        async with asyncio.timeout(0.05 if number % 7 == 3 else 20):
            async for _ in stream:
                if number % 5 == 2:
                    break
    except (RagError, TimeoutError):
        return
    finally:
        await stream.aclose()  # type: ignore[attr-defined]


async def all_talk(catalogue: ModelCatalogue, model: str, marker: str) -> None:
    numbers = list(range(60))
    random.Random(7).shuffle(numbers)
    await asyncio.gather(*(talk(catalogue, model, marker, number) for number in numbers))
    await catalogue.settle()


async def settled(roots: Sequence[object], marker: str) -> list[str]:
    """What still holds the marker, once threads and closed connections have had their time."""
    for _ in range(40):
        gc.collect()
        found = holders(roots, marker)
        if not found:
            return []
        await asyncio.sleep(0.05)
    return found


def test_the_search_finds_what_is_hidden() -> None:
    marker = new_id()

    class Hiding:
        __slots__ = ("inner",)

        def __init__(self, inner: object) -> None:
            self.inner = inner

    def closed_over() -> str:
        return marker

    for hidden in (
        {"a": [marker]},
        (f"x {marker}",),
        closed_over,
        {marker.encode()},
        Hiding(bytearray(marker, "ascii")),
    ):
        assert holders([Hiding(hidden)], marker)
    assert holders([Hiding({"a": [new_id()]})], marker) == []


@pytest.mark.parametrize("kind", [AsyncModels, SyncModels])
@pytest.mark.holds_loop("the test walks all objects of the catalogue on the loop")
async def test_models_of_either_kind_keep_nothing(kind: type[AsyncModels] | type[SyncModels]) -> None:
    marker, sink = new_id(), Counting()

    def echo(request: ChatRequest) -> Sequence[Delta]:
        return [*(Delta(text=request.turns[1].content) for _ in range(20)), Delta(finish="stop")]

    model = kind("echo@Testing", Script(deltas=echo, wait_s=0.002))
    source = FixedModels([model])
    catalogue = ModelCatalogue(load_settings(environ={}), source, usage=sink, policy=RetryPolicy(sleep=no_wait))
    await all_talk(catalogue, "echo@Testing", marker)
    assert sink.rows == 60
    assert await settled([catalogue, source, model], marker) == []


@pytest.mark.parametrize("kind", [AsyncModels, SyncModels])
@pytest.mark.holds_loop("the test walks all objects of the catalogue on the loop")
async def test_not_even_while_calls_are_under_way(kind: type[AsyncModels] | type[SyncModels]) -> None:
    """One bundle, used by many at once: what they ask is on none of the objects they share."""
    marker = new_id()
    model = kind("slow@Testing", Script(deltas=[Delta(text="word")] * 1000, wait_s=0.002))
    catalogue = ModelCatalogue(load_settings(environ={}), FixedModels([model]))
    bundle = catalogue.bundle_chat("slow@Testing")
    request = ChatRequest(turns=(Turn(role="user", content=f"question {marker}"),))
    streams = [bundle.chat_streamly(request) for _ in range(8)]
    for stream in streams:
        assert (await anext(stream)).text == "word"
    assert holders([catalogue, bundle, model], marker) == []
    assert holders(streams, marker)  # Where it is, it is found.
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.holds_loop("the test walks all objects of the catalogue on the loop")
async def test_a_provider_on_a_real_socket_keeps_nothing() -> None:
    """The registry, its models and its connections after 60 calls at once, some of them left, cancelled or cut."""
    marker, sink = new_id(), Counting()
    async with FaultyUpstream().serving() as upstream:
        words = ["word "] * 20
        faults: list[Any] = ["none", "none", "cut_midway", "none", "status", "no_finish"]
        upstream.will(*(Plan(tokens=words, wait_s=0.002, fault=faults[n % 6]) for n in range(120)))
        environ = {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": upstream.url}
        settings = load_settings(environ=environ)
        registry = Registry(settings)
        catalogue = ModelCatalogue(settings, registry, usage=sink, policy=RetryPolicy(sleep=no_wait))
        await catalogue.open()
        try:
            await all_talk(catalogue, "mock@OpenAI", marker)
            assert sink.rows == 60
            assert any(marker in str(seen.body) for seen in upstream.requests)
            assert await settled([catalogue, registry], marker) == []
        finally:
            await catalogue.close()


@pytest.mark.parametrize("kind", [AsyncModels, SyncModels])
@pytest.mark.holds_loop("the test counts all objects of the process on the loop")
async def test_calls_leave_no_objects_behind(kind: type[AsyncModels] | type[SyncModels]) -> None:
    """A fifth of them cancelled; the second half finds as many objects as the first has left."""
    sink = Counting()
    model = kind("echo@Testing", Script(deltas=[*[Delta(text="word ")] * 5, Delta(finish="stop")]))
    catalogue = ModelCatalogue(load_settings(environ={}), FixedModels([model]), usage=sink)

    async def call(number: int) -> None:
        request = ChatRequest(turns=(Turn(role="user", content=f"question {number}"),))
        calling = asyncio.ensure_future(catalogue.bundle_chat("echo@Testing", tenant_id=str(number)).chat(request))
        if number % 5 == 0:
            await asyncio.sleep(0)
            calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)

    counts: list[int] = []
    for half in range(2):
        for start in range(0, 500, 50):
            await asyncio.gather(*(call(half * 500 + start + number) for number in range(50)))
        await catalogue.settle()
        async with asyncio.timeout(10):
            while stream_threads(Lane.REMOTE).running:
                await asyncio.sleep(0.01)
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert sink.rows == 1000
    assert counts[1] - counts[0] < 100
