import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import numpy as np
import pytest

from api.db.services.llm_service import LLMBundle
from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import ModelCall
from api.db.services.usage_ledger import CallContext, UsageLedger
from rag.core.clock import SystemClock
from rag.core.errors import ModelOverloaded, NotFound
from rag.core.settings import load_settings
from rag.core.types import TokenUsage, Turn
from rag.llm.base import ChatRequest, Delta, Embedded, ModelInfo, Reranked
from rag.llm.retry import RetryPolicy
from rag.testing.hash_embedder import HashEmbedder
from rag.testing.models import FixedModels
from rag.testing.scripted_chat import ScriptedChat

REQUEST = ChatRequest(turns=(Turn(role="user", content="hello there"),))


class Sink:
    def __init__(self) -> None:
        self.calls: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        await asyncio.sleep(0)
        self.calls.append(call)


class SyncChat:
    """The scripted model's twin with a plain generator."""

    info = ModelInfo(name="sync@Testing", context_tokens=100, max_output_tokens=10)

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.closed = threading.Event()

    def stream(self, request: ChatRequest) -> Iterator[Delta]:
        try:
            for word in ("The", " answer", " is", " 42", " [ID:0]."):
                self.threads.add(threading.get_ident())
                yield Delta(text=word)
            yield Delta(usage=TokenUsage(prompt_tokens=4, completion_tokens=5, estimated=True), finish="stop")
        finally:
            self.closed.set()

    def count_tokens(self, text: str) -> int:
        return len(text.split())


class AsyncEmbedder(HashEmbedder):
    async def encode(self, texts: Sequence[str]) -> Embedded:  # type: ignore[override]
        return HashEmbedder.encode(self, texts)

    async def encode_query(self, text: str) -> Embedded:  # type: ignore[override]
        return HashEmbedder.encode(self, [text])


async def no_wait(_: float) -> None:
    return None


@pytest.fixture
def sink() -> Sink:
    return Sink()


def catalogue(sink: Sink, *chats: object, embedders: Sequence[HashEmbedder] = (), **environ: str) -> ModelCatalogue:
    return ModelCatalogue(
        load_settings(environ=environ),
        FixedModels(chats, embedders),  # type: ignore[arg-type]
        usage=sink,
        policy=RetryPolicy(sleep=no_wait),
    )


@pytest.mark.parametrize("model", [ScriptedChat(name="model@Testing"), SyncChat()])
async def test_both_kinds_of_model_give_the_same(sink: Sink, model: ScriptedChat | SyncChat) -> None:
    models = catalogue(sink, model)
    bundle = models.bundle_chat(
        model.info.name, tenant_id="t", dialog_id="d", conversation_id="c", message_id="m", purpose="answer"
    )
    text, usage = await bundle.chat(REQUEST)
    assert text == "The answer is 42 [ID:0]."
    assert usage == TokenUsage(prompt_tokens=4, completion_tokens=5, estimated=True)
    await models.settle()
    (call,) = sink.calls
    assert (call.tenant_id, call.dialog_id, call.conversation_id, call.message_id) == ("t", "d", "c", "m")
    assert (call.prompt_tokens, call.completion_tokens, call.estimated) == (4, 5, True)
    assert (call.outcome, call.attempts, call.purpose) == ("ok", 1, "answer")
    assert call.first_token_ms is not None
    assert 0 <= call.first_token_ms <= call.duration_ms


async def test_a_synchronous_model_runs_off_the_loop(sink: Sink) -> None:
    model = SyncChat()
    await catalogue(sink, model).bundle_chat("sync").chat(REQUEST)
    assert threading.get_ident() not in model.threads


@pytest.mark.parametrize("model", [ScriptedChat(name="model@Testing"), SyncChat()])
async def test_leaving_early_closes_the_model_and_is_recorded(sink: Sink, model: ScriptedChat | SyncChat) -> None:
    models = catalogue(sink, model)
    stream = models.bundle_chat(model.info.name).chat_streamly(REQUEST)
    assert (await anext(stream)).text == "The"
    await stream.aclose()  # type: ignore[attr-defined]
    await models.settle()
    assert sink.calls[0].outcome == "cancelled"
    assert sink.calls[0].estimated
    if isinstance(model, SyncChat):
        assert await asyncio.to_thread(model.closed.wait, 2)
    else:
        assert model.closed == 1


async def test_cancelling_is_recorded(sink: Sink) -> None:
    models = catalogue(sink, ScriptedChat(name="model@Testing", wait_s=10))
    task = asyncio.ensure_future(models.bundle_chat("model").chat(REQUEST))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await models.settle()
    assert sink.calls[0].outcome == "cancelled"


async def test_failures_are_tried_again_and_recorded(sink: Sink) -> None:
    model = ScriptedChat(name="model@Testing", fail=ModelOverloaded("busy"))
    models = catalogue(sink, model)
    with pytest.raises(ModelOverloaded):
        await models.bundle_chat("model").chat(REQUEST)
    await models.settle()
    assert len(model.requests) == 3
    assert (sink.calls[0].outcome, sink.calls[0].attempts) == ("model_overloaded", 3)


async def test_nothing_is_tried_again_after_text(sink: Sink) -> None:
    model = ScriptedChat(name="model@Testing", fail=ModelOverloaded("busy"), fail_after=1)
    with pytest.raises(ModelOverloaded):
        await catalogue(sink, model).bundle_chat("model").chat(REQUEST)
    assert len(model.requests) == 1


async def test_a_cut_off_reply_and_missing_usage(sink: Sink) -> None:
    class CutOff(ScriptedChat):
        async def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
            yield Delta(text="half an")
            yield Delta(finish="cut_off")

    models = catalogue(sink, CutOff(name="model@Testing"))
    deltas = [delta async for delta in models.bundle_chat("model").chat_streamly(REQUEST)]
    assert deltas[-1].usage == TokenUsage(prompt_tokens=4, completion_tokens=3, estimated=True)
    await models.settle()
    assert sink.calls[0].outcome == "cut_off"


@pytest.mark.parametrize("embedder", [HashEmbedder(name="e@Testing"), AsyncEmbedder(name="e@Testing")])
async def test_both_kinds_of_embedder_give_the_same(sink: Sink, embedder: HashEmbedder) -> None:
    models = catalogue(sink, embedders=[embedder])
    bundle = models.bundle_embed("e", tenant_id="t")
    assert bundle.dim == 384
    assert bundle.name == "e@Testing"
    rows = (await bundle.encode(["one word", "two"])).vectors
    assert np.array_equal(rows[1], (await bundle.encode_query("two")).vectors[0])
    await models.settle()
    assert [(call.purpose, call.prompt_tokens, call.first_token_ms) for call in sink.calls] == [
        ("embed", 3, None),
        ("embed", 1, None),
    ]


async def test_the_default_is_the_built_in_model_without_a_key(sink: Sink) -> None:
    models = catalogue(sink)
    assert models.default_chat() == "extractive@Builtin"
    assert models.default_embedding() == "minilm@Builtin"
    assert models.bundle_chat().name == "extractive@Builtin"
    assert models.exists("minilm@Builtin", "embedding")
    assert not models.exists("minilm@Builtin", "chat")
    assert models.resolve("extractive", "chat") == "extractive@Builtin"
    assert models.dim_of("minilm@Builtin") == 384
    with pytest.raises(NotFound):
        models.bundle_chat("nobody@Nowhere")


def test_the_default_follows_key_and_settings() -> None:
    class WithKey(FixedModels):
        providers = ("OpenAI",)

    with_key = ModelCatalogue(load_settings(environ={"PARLEY_MODELS__OPENAI_CHAT": "gpt-4o"}), WithKey())
    assert with_key.default_chat() == "gpt-4o@OpenAI"
    named = ModelCatalogue(load_settings(environ={"PARLEY_MODELS__CHAT": "my@Own"}), WithKey())
    assert named.default_chat() == "my@Own"


async def test_warm_open_and_close_reach_the_models(sink: Sink) -> None:
    source = FixedModels()
    models = ModelCatalogue(load_settings(environ={}), source, usage=sink)
    await models.open()
    await models.warm()
    await models.bundle_embed().encode(["x"])
    await models.close()
    assert source.warmed == 1
    assert len(sink.calls) == 1


class Guessing:
    """Embedder and reranker that guesses what it has read, except in words of one letter."""

    name = "guess@Testing"
    dim = 2

    def encode(self, texts: Sequence[str]) -> Embedded:
        guessed = any(len(text) > 1 for text in texts)
        return Embedded(vectors=np.ones((len(texts), 2), dtype=np.float32), tokens=9, estimated=guessed)

    def encode_query(self, text: str) -> Embedded:
        return self.encode([text])

    def rerank(self, question: str, passages: Sequence[str]) -> Reranked:
        return Reranked(scores=np.ones(len(passages), dtype=np.float32), tokens=7, estimated=len(question) > 1)


async def test_tokens_that_a_model_guessed_are_marked(sink: Sink) -> None:
    ledger = UsageLedger(sink)
    bundle = LLMBundle(
        context=CallContext(tenant_id="t", purpose="test"),
        ledger=ledger,
        clock=SystemClock(),
        policy=RetryPolicy(sleep=no_wait),
        embedder=Guessing(),
        reranker=Guessing(),
    )
    found = [await bundle.encode(["word"]), await bundle.encode(["w"])]
    found += [await bundle.encode_queries(["w", "word", "x"]), await bundle.encode_queries(["w", "x"])]
    scored = [await bundle.similarity("word", ["p"]), await bundle.similarity("w", ["p"])]
    await ledger.settle()
    expected = [(9, True), (9, False), (27, True), (18, False), (7, True), (7, False)]
    assert [(call.prompt_tokens, call.estimated) for call in sink.calls] == expected
    assert [(each.tokens, each.estimated) for each in [*found, *scored]] == expected


async def test_one_question_that_nobody_counted_makes_the_row_an_estimate(sink: Sink) -> None:
    class Forgetful(Guessing):
        def encode(self, texts: Sequence[str]) -> Embedded:
            tokens = 0 if "uncounted question" in texts else 5
            return Embedded(vectors=np.ones((len(texts), 2), dtype=np.float32), tokens=tokens)

    ledger = UsageLedger(sink)
    bundle = LLMBundle(
        context=CallContext(tenant_id="t", purpose="test"),
        ledger=ledger,
        clock=SystemClock(),
        policy=RetryPolicy(sleep=no_wait),
        embedder=Forgetful(),
    )
    found = await bundle.encode_queries(["counted", "uncounted question", ""])
    await ledger.settle()
    (call,) = sink.calls
    assert call.prompt_tokens == found.tokens > 10
    assert call.estimated
    assert found.estimated
