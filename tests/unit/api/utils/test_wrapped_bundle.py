"""Synchronous code in threads, through the wrapper, a bundle and our own lane, to a provider on a real socket."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import pytest
from pydantic import SecretStr

from api.db.services.llm_service import LLMBundle
from api.db.services.records import ModelCall
from api.db.services.usage_ledger import CallContext, UsageLedger
from api.utils.api_utils import SyncLLMWrapper
from rag.core.clock import SystemClock
from rag.core.errors import ModelRefused, ModelTimeout
from rag.core.owner_loop import OwnerLoop, stop_background_loop
from rag.core.types import Turn
from rag.llm.base import ChatRequest, ModelInfo, SyncBundle
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.openai_lane import OpenAiLane
from rag.llm.retry import RetryPolicy
from rag.llm.upstream import UpstreamPool
from rag.testing.upstream import FaultyUpstream, Plan

REQUEST = ChatRequest(turns=(Turn(role="user", content="Hello?"),))


class Sink:
    def __init__(self) -> None:
        self.calls: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        self.calls.append(call)


class Provider:
    """An upstream, and a bundle for it; all on one loop."""

    def __init__(self) -> None:
        self.sink = Sink()
        self.ledger = UsageLedger(self.sink)
        self._stack = AsyncExitStack()

    async def open(self) -> LLMBundle:
        self.upstream = await self._stack.enter_async_context(FaultyUpstream().serving())
        pool = UpstreamPool()
        await pool.open()
        self._stack.push_async_callback(pool.close)
        lane = OpenAiLane(
            ModelInfo(name="mock@OpenAI", context_tokens=8192, max_output_tokens=1024),
            Endpoint(base_url=self.upstream.url, api_key=SecretStr("sk-1"), model="mock"),
            pool=pool,
            deadlines=Deadlines(),
        )
        return LLMBundle(
            context=CallContext(tenant_id="t", purpose="keywords"),
            ledger=self.ledger,
            clock=SystemClock(),
            policy=RetryPolicy(),
            chat=lane,
        )

    async def close(self) -> list[ModelCall]:
        await self.ledger.settle()
        await self._stack.aclose()
        return self.sink.calls


def work(models: SyncBundle) -> list[str]:
    """What enrichment does with each chunk."""
    text, usage = models.chat(REQUEST)
    assert usage.total_tokens > 0
    streamed = "".join(delta.text for delta in models.chat_streamly(REQUEST))
    left = models.chat_streamly(REQUEST)
    first = next(iter(left)).text
    left.close()  # type: ignore[attr-defined]
    return [text, streamed, first]


def check(answers: list[list[str]], rows: list[ModelCall]) -> None:
    for text, streamed, first in answers:
        assert (text, streamed) == ("Hello, world.", "Hello, world.")
        assert first.startswith("Hello")
    assert len(rows) == 3 * len(answers)
    assert {(row.tenant_id, row.purpose, row.provider) for row in rows} == {("t", "keywords", "OpenAI")}
    assert {row.outcome for row in rows} <= {"ok", "cancelled"}


async def test_threads_beside_the_loop() -> None:
    provider = Provider()
    models = SyncLLMWrapper(await provider.open())
    provider.upstream.will(Plan(wait_s=0.01))
    with ThreadPoolExecutor(12) as pool:
        loop = asyncio.get_running_loop()
        answers = await asyncio.gather(*(loop.run_in_executor(pool, work, models) for _ in range(24)))
    check(list(answers), await provider.close())


def test_threads_of_a_process_without_a_loop() -> None:
    provider, owner = Provider(), OwnerLoop()
    models = SyncLLMWrapper(owner.call(provider.open), owner=owner)
    try:
        provider.upstream.will(Plan(wait_s=0.01))
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: work(models), range(24)))
        provider.upstream.will(Plan(fault="status", status=401))
        with pytest.raises(ModelRefused):
            models.chat(REQUEST)
        provider.upstream.will(Plan(fault="hang_before"))
        with pytest.raises(ModelTimeout):
            models.within(0.1).chat(REQUEST)
        rows = owner.call(provider.close)
    finally:
        stop_background_loop()
    assert [row.outcome for row in rows[-2:]] == ["model_refused", "cancelled"]
    check(answers, rows[:-2])
