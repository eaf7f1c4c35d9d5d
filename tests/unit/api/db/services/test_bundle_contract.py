"""Bundles of asynchronous and of synchronous models, and of some that look like neither, pass one contract."""

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from api.db.services.llm_service import LLMBundle
from api.db.services.records import ModelCall
from api.db.services.usage_ledger import CallContext, UsageLedger
from rag.core import blocking
from rag.core.blocking import Lane
from rag.core.clock import SystemClock
from rag.core.errors import ModelOverloaded, ModelTimeout
from rag.core.stream_threads import StreamThreads
from rag.llm import dispatch
from rag.llm.base import Capabilities, ChatRequest, Delta, Embedded, ReplySchema
from rag.llm.deadlines import Deadlines
from rag.llm.retry import RetryPolicy
from rag.llm.structured import ask_json
from rag.testing.bundle_suite import BundleSuite, Models, asking
from rag.testing.role_models import AsyncModels, Script, SyncModels

CONTEXT = CallContext(
    tenant_id="t",
    purpose="answer",
    dialog_id="d",
    conversation_id="c",
    message_id="m",
    key_id="k",
    arm="fallback=on",
)


class Sink:
    def __init__(self) -> None:
        self.calls: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        self.calls.append(call)


async def no_wait(_: float) -> None:
    return None


def bundled(models: Any, ledger: UsageLedger | None = None, **arguments: Any) -> LLMBundle:
    return LLMBundle(
        context=CONTEXT,
        ledger=ledger or UsageLedger(None),
        clock=SystemClock(),
        policy=RetryPolicy(sleep=no_wait),
        chat=models,
        embedder=models,
        reranker=models,
        describer=models,
        transcriber=models,
        speaker=models,
        **arguments,
    )


class OfBundles(BundleSuite):
    @pytest.fixture
    def sink(self) -> Sink:
        return Sink()

    @pytest.fixture
    def ledger(self, sink: Sink) -> UsageLedger:
        return UsageLedger(sink)

    @pytest.fixture
    def bundle(self, models: Models, ledger: UsageLedger) -> LLMBundle:
        return bundled(models, ledger)

    @pytest.fixture
    def rows(self, ledger: UsageLedger, sink: Sink) -> Callable[[], Awaitable[list[ModelCall]]]:
        async def written() -> list[ModelCall]:
            await ledger.settle()
            return sink.calls

        return written


class TestAsynchronous(OfBundles):
    @pytest.fixture
    def models(self) -> Models:
        return AsyncModels("model@Testing")


class TestSynchronous(OfBundles):
    @pytest.fixture
    def models(self) -> Models:
        return SyncModels("model@Testing")


class TestPartial(OfBundles):
    """Methods bound in advance."""

    @pytest.fixture(params=[AsyncModels, SyncModels])
    def models(self, request: pytest.FixtureRequest) -> Models:
        models: Models = request.param("model@Testing")
        for method in ("stream", "encode", "encode_query", "rerank", "describe", "transcribe", "speak"):
            setattr(models, method, functools.partial(getattr(models, method)))
        return models


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator whose result looks synchronous, whatever it decorates."""

    @functools.wraps(function)
    def inner(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return inner


class TestDecorated(OfBundles):
    """Methods behind a plain decorator: what they hand out decides."""

    @pytest.fixture(params=[AsyncModels, SyncModels])
    def models(self, request: pytest.FixtureRequest) -> Models:
        models: Models = request.param("model@Testing")
        for method in ("stream", "encode", "encode_query", "rerank", "describe", "transcribe", "speak"):
            setattr(models, method, plain(getattr(models, method)))
        return models


class Called:
    """A callable object with an asynchronous call."""

    async def __call__(self, text: str) -> str:
        return text


class Other:
    """Methods of all kinds."""

    name = "other@Testing"
    called = Called()

    async def opened(self, request: ChatRequest) -> AsyncIterator[Delta]:
        async def pieces() -> AsyncIterator[Delta]:
            yield Delta(text="opened first")

        return pieces()

    def listed(self, request: ChatRequest) -> list[Delta]:
        return [Delta(text="a list")]

    async def generated(self, request: ChatRequest) -> AsyncIterator[Delta]:
        yield Delta(text="a generator")

    def stuck(self, request: ChatRequest) -> Iterator[Delta]:
        yield Delta(text="one")
        time.sleep(0.5)
        yield Delta(text="two")


@pytest.mark.parametrize(
    ("method", "kind"),
    [("opened", "coroutine"), ("listed", "plain"), ("generated", "generator"), ("called", "coroutine")],
)
def test_the_kind_is_read_off_the_method(method: str, kind: str) -> None:
    assert dispatch.kind_of(Other(), method) == kind


def test_the_kind_is_read_once_per_model(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    original = dispatch._read_off
    monkeypatch.setattr(dispatch, "_read_off", lambda function: read.append(function) or original(function))
    one, two = Other(), Other()
    for model in (one, one, two, one):
        assert dispatch.kind_of(model, "listed") == "plain"
    assert len(read) == 2


@pytest.mark.parametrize("method", ["opened", "listed", "generated"])
async def test_whatever_opens_a_stream(method: str) -> None:
    stream = dispatch.stream(Other(), method, asking(), deadlines=Deadlines())
    assert len([delta async for delta in stream]) == 1


async def test_an_asynchronous_callable_object_is_awaited() -> None:
    assert await dispatch.call(Other(), "called", "said", deadlines=Deadlines()) == "said"


async def test_synchronous_models_have_deadlines() -> None:
    """An iterator that never comes back is given up, in words; its reader does not wait for ever."""
    models = SyncModels("model@Testing", Script(wait_s=0.4))
    strict = Deadlines(first_token_s=0.1, next_token_s=0.1, answer_s=0.2)
    bundle = bundled(models, deadlines=strict)
    with pytest.raises(ModelTimeout, match=r"sent nothing within 0\.1 s"):
        await bundle.chat(asking())
    with pytest.raises(ModelTimeout, match=r"did not finish within 0\.2 s"):
        await bundle.encode(["a"])
    stream = dispatch.stream(Other(), "stuck", asking(), deadlines=strict)
    assert (await anext(stream)).text == "one"
    with pytest.raises(ModelTimeout, match="sent nothing for"):
        await anext(stream)


async def test_no_thread_left_for_a_synchronous_model_is_an_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may be tried again, or elsewhere."""
    none_left = StreamThreads("remote-model", at_once=1, limit=0)
    monkeypatch.setattr("rag.core.blocking.stream_threads", lambda lane: none_left)
    spare = AsyncModels("spare@Testing")
    bundle = bundled(SyncModels("model@Testing"))
    with pytest.raises(ModelOverloaded, match="streams are under way"):
        await bundle.chat(asking())
    bundle = bundled(SyncModels("model@Testing"), fallbacks=[spare])
    assert (await bundle.chat(asking()))[0] == "The answer is 42."


async def test_calls_that_never_come_back_leave_room_for_others() -> None:
    """Sixty threads are lost to a model that hangs; the next call does not wait for them."""
    release = threading.Event()

    class Hanging(SyncModels):
        def encode(self, texts: Sequence[str]) -> Embedded:
            release.wait(10)
            return super().encode(texts)

    bundle = bundled(Hanging("model@Testing"), deadlines=Deadlines(answer_s=0.2))
    calls = [bundle.encode([str(number)]) for number in range(60)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in errors} == {ModelTimeout}
    assert (await bundled(SyncModels("model@Testing")).encode(["a"])).tokens == 11
    assert blocking.stream_threads(Lane.REMOTE).abandoned >= 180  # Three attempts each.
    release.set()
    async with asyncio.timeout(5):
        while blocking.stream_threads(Lane.REMOTE).abandoned:
            await asyncio.sleep(0.01)


async def test_a_model_in_this_process_computes_in_its_own_few_threads() -> None:
    models = SyncModels("model@Testing")
    models.info = replace(models.info, local=True)
    assert dispatch.lane_of(models) is Lane.MODEL
    assert dispatch.lane_of(SyncModels("model@Testing")) is Lane.REMOTE
    assert (await bundled(models).encode(["a"])).tokens == 11
    assert (await bundled(models).chat(asking()))[0] == "The answer is 42."


@pytest.mark.parametrize("native", [False, True])
async def test_json_is_asked_of_a_bundle(native: bool) -> None:
    said = [Delta(text='{"age": '), Delta(text="7}"), Delta(finish="stop")]
    models = AsyncModels("model@Testing", Script(deltas=said), capabilities=Capabilities(json_schema=native))
    schema = ReplySchema(name="age", schema={"type": "object", "required": ["age"]})
    assert await ask_json(bundled(models), asking(), schema) == {"age": 7}
