"""What comes after a model that fails: which errors lead on, which do not, and what the rows say."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from pydantic import SecretStr

from api.db.services.llm_service import LLMBundle
from api.db.services.records import ModelCall
from api.db.services.usage_ledger import CallContext, UsageLedger
from rag.core.clock import SystemClock
from rag.core.errors import (
    InvalidInput,
    LimitExceeded,
    ModelBadOutput,
    ModelError,
    ModelOverloaded,
    ModelRefused,
    ModelTimeout,
    RagError,
)
from rag.core.types import Picture, ToolCall, Turn
from rag.llm.base import Capabilities, ChatRequest, Delta, ModelInfo, ReplySchema, ToolSpec
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.openai_lane import OpenAiLane
from rag.llm.retry import RetryPolicy
from rag.llm.upstream import UpstreamPool
from rag.testing.role_models import ABLE, AsyncModels, Script, SyncModels
from rag.testing.upstream import FaultyUpstream, Plan

REQUEST = ChatRequest(turns=(Turn(role="user", content="What is the answer?"),))
TOOL = ToolSpec(name="look_up", description="Looks up.", parameters={"type": "object", "properties": {}})
PICTURE = Picture(media_type="image/png", data=b"x")


class Notes:
    """A usage sink, and the waits between attempts."""

    def __init__(self) -> None:
        self.calls: list[ModelCall] = []
        self.waits: list[float] = []
        self.ledger = UsageLedger(self)

    async def record(self, call: ModelCall) -> None:
        self.calls.append(call)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def rows(self) -> list[tuple[str, str, int]]:
        await self.ledger.settle()
        return [(call.model, call.outcome, call.attempts) for call in self.calls]


@pytest.fixture
def notes() -> Notes:
    return Notes()


def bundled(notes: Notes, *models: AsyncModels | SyncModels | OpenAiLane, **arguments: object) -> LLMBundle:
    """A bundle of the first model, with the others to fall back on."""
    return LLMBundle(
        context=CallContext(tenant_id="t"),
        ledger=notes.ledger,
        clock=SystemClock(),
        policy=RetryPolicy(sleep=notes.sleep, draw=lambda: 0.0),
        chat=models[0],
        fallbacks=models[1:],
        **arguments,  # type: ignore[arg-type]
    )


def failing(name: str, *errors: BaseException, **arguments: object) -> AsyncModels:
    return AsyncModels(name, Script(fails=list(errors)), **arguments)  # type: ignore[arg-type]


def busy() -> list[ModelError]:
    return [ModelOverloaded("busy") for _ in range(3)]


async def test_the_next_model_answers_and_each_leaves_its_row(notes: Notes) -> None:
    bundle = bundled(notes, failing("a@X", *busy()), failing("b@Y", ModelTimeout("late")), AsyncModels("c@Z"))
    deltas = [delta async for delta in bundle.chat_streamly(REQUEST)]
    assert "".join(delta.text for delta in deltas) == "The answer is 42."
    assert deltas[-1].model == "b@Y"
    assert await notes.rows() == [("a@X", "model_overloaded", 3), ("b@Y", "ok", 2)]
    assert notes.calls[1].provider == "Y"
    assert (notes.calls[0].prompt_tokens, notes.calls[1].prompt_tokens) == (0, 7)


async def test_models_of_either_kind_fall_back_on_each_other(notes: Notes) -> None:
    broken = SyncModels("a@X", Script(fails=busy()))  # type: ignore[arg-type]
    assert (await bundled(notes, broken, SyncModels("b@Y")).chat(REQUEST))[0] == "The answer is 42."
    assert await notes.rows() == [("a@X", "model_overloaded", 3), ("b@Y", "ok", 1)]


@pytest.mark.parametrize("error", [ModelRefused("bad key"), ModelBadOutput("a web page"), ModelError("gone")])
async def test_what_is_not_tried_again_leads_on_at_once(notes: Notes, error: ModelError) -> None:
    assert (await bundled(notes, failing("a@X", error), AsyncModels("b@Y")).chat(REQUEST))[0] == "The answer is 42."
    assert await notes.rows() == [("a@X", error.code, 1), ("b@Y", "ok", 1)]
    assert notes.waits == []


@pytest.mark.parametrize("error", [InvalidInput("no such field"), LimitExceeded("spent"), KeyError("a defect")])
async def test_what_another_model_cannot_mend_is_raised(notes: Notes, error: Exception) -> None:
    spare = AsyncModels("b@Y")
    with pytest.raises(type(error)) as caught:
        await bundled(notes, failing("a@X", error), spare).chat(REQUEST)
    assert caught.value is error
    assert spare.script.calls == 0


@pytest.mark.parametrize(
    "first",
    [Delta(text="Th"), Delta(reasoning="Hm"), Delta(tool_calls=(ToolCall(id="1", name="look_up", arguments="{}"),))],
    ids=["text", "reasoning", "tool"],
)
async def test_nothing_falls_back_after_the_first_piece(notes: Notes, first: Delta) -> None:
    broken = AsyncModels("a@X", Script(deltas=(first, Delta(text="e")), breaks=ModelOverloaded("gone")))
    spare = AsyncModels("b@Y")
    with pytest.raises(ModelOverloaded):
        await bundled(notes, broken, spare).chat(REQUEST)
    assert (broken.script.calls, spare.script.calls) == (1, 0)
    assert await notes.rows() == [("a@X", "model_overloaded", 1)]


async def test_the_last_error_is_raised_when_all_fail(notes: Notes) -> None:
    last = ModelRefused("the last")
    with pytest.raises(ModelRefused) as caught:
        await bundled(notes, failing("a@X", *busy()), failing("b@Y", last)).chat(REQUEST)
    assert caught.value is last
    assert await notes.rows() == [("a@X", "model_overloaded", 3), ("b@Y", "model_refused", 1)]


async def test_the_feature_can_be_off(notes: Notes) -> None:
    spare = AsyncModels("b@Y")
    with pytest.raises(ModelRefused):
        await bundled(notes, failing("a@X", ModelRefused("no")), spare, use_fallbacks=False).chat(REQUEST)
    assert spare.script.calls == 0


NEEDS = {
    "use tools": ChatRequest(turns=REQUEST.turns, tools=(TOOL,)),
    "look at pictures": ChatRequest(turns=(Turn(role="user", content="what", pictures=(PICTURE,)),)),
    "keep to a JSON schema": ChatRequest(turns=REQUEST.turns, reply_schema=ReplySchema(name="r", schema={})),
}


@pytest.mark.parametrize("need", NEEDS)
async def test_a_model_that_cannot_is_refused_before_the_call(notes: Notes, need: str) -> None:
    plain, spare = AsyncModels("a@X", capabilities=Capabilities()), AsyncModels("b@Y")
    with pytest.raises(InvalidInput, match=f"'a@X' cannot {need}"):
        await bundled(notes, plain, spare).chat(NEEDS[need])
    assert (plain.script.calls, spare.script.calls) == (0, 0)
    assert await notes.rows() == []


@pytest.mark.parametrize("need", NEEDS)
async def test_a_fallback_that_cannot_is_skipped(notes: Notes, need: str) -> None:
    plain, spare = AsyncModels("b@Y", capabilities=Capabilities()), AsyncModels("c@Z", capabilities=ABLE)
    await bundled(notes, failing("a@X", ModelRefused("no")), plain, spare).chat(NEEDS[need])
    assert (plain.script.calls, spare.script.calls) == (0, 1)
    notes.calls.clear()
    with pytest.raises(ModelRefused):
        await bundled(notes, failing("a@X", ModelRefused("no")), plain).chat(NEEDS[need])


async def test_cancelling_tries_nothing_else(notes: Notes) -> None:
    spare = AsyncModels("b@Y")
    bundle = bundled(notes, AsyncModels("a@X", Script(wait_s=10)), spare)
    calling = asyncio.ensure_future(bundle.chat(REQUEST))
    await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert await notes.rows() == [("a@X", "cancelled", 1)]
    assert spare.script.calls == 0


class Purse:
    """A budget for so many calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.asked: list[CallContext] = []

    async def check(self, context: CallContext) -> None:
        self.asked.append(context)
        self.left -= 1
        if self.left < 0:
            raise LimitExceeded("The day's budget is spent.")


@pytest.mark.parametrize(
    "call",
    [
        lambda bundle: bundle.chat(REQUEST),
        lambda bundle: bundle.encode(["x"]),
        lambda bundle: bundle.encode_queries(["x"]),
        lambda bundle: bundle.similarity("q", ["x"]),
        lambda bundle: bundle.describe(PICTURE),
        lambda bundle: bundle.transcribe(b"x", file_name="a.mp3"),
        lambda bundle: anext(bundle.tts("x")),
    ],
)
async def test_no_call_is_made_when_the_budget_is_spent(notes: Notes, call: object) -> None:
    models, spare, purse = AsyncModels("a@X"), AsyncModels("b@Y"), Purse(0)
    roles = dict.fromkeys(("embedder", "reranker", "describer", "transcriber", "speaker"), models)
    bundle = bundled(notes, models, spare, budget=purse, **roles)
    with pytest.raises(LimitExceeded, match="budget is spent"):
        await call(bundle)  # type: ignore[operator]
    assert (models.script.calls, spare.script.calls) == (0, 0)
    assert purse.asked == [CallContext(tenant_id="t", model="a@X")]
    assert await notes.rows() == []


async def test_each_fallback_asks_the_budget(notes: Notes) -> None:
    with pytest.raises(LimitExceeded):
        await bundled(notes, failing("a@X", ModelRefused("no")), AsyncModels("b@Y"), budget=Purse(1)).chat(REQUEST)
    assert await notes.rows() == [("a@X", "model_refused", 1)]


@asynccontextmanager
async def lanes(count: int) -> AsyncIterator[list[tuple[FaultyUpstream, OpenAiLane]]]:
    """Providers on real sockets."""
    async with AsyncExitStack() as stack:
        pool = UpstreamPool()
        await pool.open()
        stack.push_async_callback(pool.close)
        found: list[tuple[FaultyUpstream, OpenAiLane]] = []
        for number in range(count):
            upstream = await stack.enter_async_context(FaultyUpstream().serving())
            endpoint = Endpoint(base_url=upstream.url, api_key=SecretStr("sk-1"), model="mock")
            info = ModelInfo(name=f"mock@P{number}", context_tokens=8192, max_output_tokens=1024)
            deadlines = Deadlines(first_token_s=0.3, next_token_s=0.3, answer_s=2.0)
            found.append((upstream, OpenAiLane(info, endpoint, pool=pool, deadlines=deadlines)))
        yield found


@pytest.mark.parametrize(
    ("plan", "waits"),
    [
        (Plan(fault="status", status=500), [4.0, 8.0]),
        (Plan(fault="status", status=503), [4.0, 8.0]),
        (Plan(fault="status", status=429), [4.0, 8.0]),
        (Plan(fault="status", status=429, retry_after="30"), [30.0, 30.0]),
        (Plan(fault="status", status=429, retry_after="3600"), []),
        (Plan(fault="cut_before"), [4.0, 8.0]),
        (Plan(fault="hang_before"), [4.0, 8.0]),
        (Plan(fault="status", status=401), []),
        (Plan(fault="status", status=404), []),
    ],
    ids=lambda value: f"{value.fault}-{value.status}-{value.retry_after}" if isinstance(value, Plan) else None,
)
async def test_failures_of_a_real_upstream(notes: Notes, plan: Plan, waits: list[float]) -> None:
    async with lanes(2) as [(broken, first), (_, second)]:
        broken.will(plan)
        text, _ = await bundled(notes, first, second).chat(REQUEST)
        assert text == "Hello, world."
        assert len(broken.requests) == len(waits) + 1
    assert notes.waits == waits
    assert [(model, outcome) for model, outcome, _ in await notes.rows()][1:] == [("mock@P1", "ok")]
    assert notes.calls[0].attempts == len(waits) + 1


async def test_a_real_stream_that_breaks_is_not_begun_again(notes: Notes) -> None:
    async with lanes(2) as [(broken, first), (spare, second)]:
        broken.will(Plan(fault="cut_midway"))
        with pytest.raises(RagError):
            await bundled(notes, first, second).chat(REQUEST)
        assert (len(broken.requests), len(spare.requests)) == (1, 0)


async def cancelled_after_s(notes: Notes) -> float:
    """Seconds from cancelling an answer until its provider knew."""
    async with lanes(1) as [(upstream, lane)]:
        upstream.will(Plan(tokens=["word "] * 1000, wait_s=0.02))
        calling = asyncio.ensure_future(bundled(notes, lane).chat(REQUEST))
        while not upstream.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        calling.cancel()
        began = time.monotonic()
        async with asyncio.timeout(5):
            while not upstream.closed_early:
                await asyncio.sleep(0.005)
        taken_s = time.monotonic() - began
        with pytest.raises(asyncio.CancelledError):
            await calling
    return taken_s


async def test_a_cancel_reaches_the_provider_within_a_fifth_of_a_second(notes: Notes) -> None:
    """The best of three: the machine may be busy with something else."""
    assert min([await cancelled_after_s(notes) for _ in range(3)]) < 0.2
    assert [outcome for _, outcome, _ in await notes.rows()] == ["cancelled"] * 3
