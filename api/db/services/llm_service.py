"""Calls bound to one model, each leaving one usage row."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import structlog

from api.db.services.model_calls import Books, CallMeter, ChatMeter
from api.db.services.usage_ledger import BudgetGate, CallContext, UsageLedger
from rag.core.clock import Clock
from rag.core.errors import InvalidInput, ModelBadOutput, ModelError
from rag.core.types import Matrix, Picture, TokenUsage
from rag.llm import dispatch, retry
from rag.llm.base import (
    ChatModel,
    ChatRequest,
    Delta,
    Described,
    Describer,
    Embedded,
    Embedder,
    ModelInfo,
    Reranked,
    Reranker,
    Speaker,
    Transcribed,
    Transcriber,
)
from rag.llm.deadlines import Deadlines
from rag.llm.retry import RetryPolicy
from rag.llm.token_estimate import estimate_tokens

T = TypeVar("T")
log = structlog.get_logger()


class LLMBundle:
    """The models of one use, for one tenant and purpose. Holds nothing of a request; may be used by many at once.

    Each call asks the budget first, is tried again as the policy says, and leaves a usage row. Whether a model is
    synchronous or asynchronous is read off its methods, see `rag.llm.dispatch`.

    Args:
        fallbacks: Chat models to go on with, in order, when the one before failed before its first piece; each leaves
            a row of its own. One that cannot do what the request needs is skipped.
        use_fallbacks: Whether they count; off is as if there were none.
        deadlines: For synchronous models; asynchronous ones keep their own.

    All methods raise:
        LimitExceeded: a budget is spent; the model was not called.
        ModelError: the model failed, after retries.
        TypeError: the bundle was made without a model for this.
    """

    def __init__(
        self,
        *,
        context: CallContext,
        ledger: UsageLedger,
        clock: Clock,
        policy: RetryPolicy,
        budget: BudgetGate | None = None,
        deadlines: Deadlines | None = None,
        chat: ChatModel | None = None,
        fallbacks: Sequence[ChatModel] = (),
        use_fallbacks: bool = True,
        embedder: Embedder | None = None,
        reranker: Reranker | None = None,
        describer: Describer | None = None,
        transcriber: Transcriber | None = None,
        speaker: Speaker | None = None,
    ) -> None:
        self._books = Books(context=context, ledger=ledger, clock=clock, budget=budget)
        self._policy = policy
        self._deadlines = deadlines or Deadlines()
        self._chat = chat
        self._fallbacks = tuple(fallbacks) if use_fallbacks else ()
        self._embedder = embedder
        self._reranker = reranker
        self._describer = describer
        self._transcriber = transcriber
        self._speaker = speaker

    @property
    def name(self) -> str:
        """`<model>@<provider>` of the first model there is."""
        parts = (self._chat, self._embedder, self._reranker, self._describer, self._transcriber, self._speaker)
        return next((dispatch.name_of(part) for part in parts if part is not None), "")

    @property
    def info(self) -> ModelInfo:
        """What the chat model can take."""
        return self._given(self._chat, "chat").info

    @property
    def dim(self) -> int:
        """Length of the embedding model's vectors."""
        return self._given(self._embedder, "embedding").dim

    def count_tokens(self, text: str) -> int:
        """The chat model's count for the prompt budget."""
        return self._given(self._chat, "chat").count_tokens(text)

    async def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]:
        """The whole reply, without its reasoning, and what it took.

        Raises:
            InvalidInput: as `chat_streamly`.
        """
        parts: list[str] = []
        usage = TokenUsage(estimated=True)
        async for delta in self.chat_streamly(request):
            parts.append(delta.text)
            usage = delta.usage or usage
        return "".join(parts), usage

    async def chat_streamly(self, request: ChatRequest) -> AsyncIterator[Delta]:
        """Yield the reply as it comes; the last delta carries usage (estimated where the provider says none) and the
        name of the model that answered.

        Leaving early ends the provider's request. Tried again, or elsewhere, only before the first piece.

        Raises:
            InvalidInput: the model cannot do what the request needs, or refuses its form.
            ModelError: the last model tried failed; `facts["started"]` says whether text had come.
        """
        models = self._able(request)
        for position, model in enumerate(models, 1):
            await self._books.check(model)
            meter = ChatMeter(self._books, model, request)
            source = self._opened(model, request, meter)
            try:
                with meter:
                    try:
                        async for delta in source:
                            meter.see(delta)
                            yield delta if delta.usage is None else delta._replace(model=model.info.name)
                        if meter.usage is None:
                            yield Delta(usage=meter.total(), model=model.info.name)
                    finally:
                        await retry.close(source)
                return
            except ModelError as error:
                if meter.began or error.facts.get("started") or position == len(models):
                    raise
                log.warning("model_fallback", model=model.info.name, to=models[position].info.name, code=error.code)

    async def encode(self, texts: Sequence[str]) -> Embedded:
        """Embed passages, one row per text."""
        model = self._given(self._embedder, "embedding")
        found: Embedded = await self._once(
            model, lambda: self._call(model, "encode", texts), lambda embedded: _read(embedded, texts)
        )
        return _one_each(found, found.vectors, texts, self.name)

    async def encode_query(self, text: str) -> Embedded:
        """Embed a question; one row."""
        return await self.encode_queries([text])

    async def encode_queries(self, texts: Sequence[str]) -> Embedded:
        """Embed questions as questions are embedded; one row per text, one usage row for all."""
        model = self._given(self._embedder, "embedding")
        await self._books.check(model)
        rows: list[Matrix] = []
        usage = TokenUsage()
        with CallMeter(self._books, model) as meter:
            for text in texts:

                def work(text: str = text) -> Any:
                    return self._call(model, "encode_query", text)

                found: Embedded = await retry.call(work, self._policy, meter.attempts)
                rows.append(_one_each(found, found.vectors, [text], self.name).vectors)
                meter.usage = usage = _together(usage, _read(found, [text]))
        vectors = np.concatenate(rows) if rows else np.zeros((0, model.dim), dtype=np.float32)
        return Embedded(vectors=vectors, tokens=usage.prompt_tokens, estimated=usage.estimated)

    async def similarity(self, question: str, passages: Sequence[str]) -> Reranked:
        """How well each passage answers `question`; one score per passage, 0 to 1. No passages, no call."""
        model = self._given(self._reranker, "reranking")
        if not passages:
            return Reranked(scores=np.zeros(0, dtype=np.float32), tokens=0)
        found: Reranked = await self._once(
            model,
            lambda: self._call(model, "rerank", question, passages),
            lambda reranked: _read(reranked, [question, *passages]),
        )
        return _one_each(found, found.scores, passages, self.name)

    async def describe(self, picture: Picture, prompt: str = "") -> Described:
        """What the picture shows, in words, as `prompt` asks; an empty prompt asks for everything."""
        model = self._given(self._describer, "image description")
        found: Described = await self._once(
            model, lambda: self._call(model, "describe", picture, prompt), lambda described: described.usage
        )
        return found

    async def transcribe(self, audio: bytes, *, file_name: str) -> Transcribed:
        """What is said in `audio`; the ending of `file_name` tells the format."""
        model = self._given(self._transcriber, "transcription")
        found: Transcribed = await self._once(
            model,
            lambda: self._call(model, "transcribe", audio, file_name=file_name),
            lambda said: TokenUsage(completion_tokens=estimate_tokens(said.text), estimated=True),
        )
        return found

    async def tts(self, text: str) -> AsyncIterator[bytes]:
        """Pieces of an MP3 file that says `text`. Leaving early ends the provider's request."""
        model = self._given(self._speaker, "speech")
        await self._books.check(model)
        with CallMeter(self._books, model) as meter:
            source = retry.stream(
                lambda: dispatch.stream(model, "speak", text, deadlines=self._deadlines), self._policy, meter.attempts
            )
            try:
                async for piece in source:
                    meter.mark_first()
                    meter.usage = meter.usage or TokenUsage(prompt_tokens=estimate_tokens(text), estimated=True)
                    yield piece
            finally:
                await retry.close(source)

    def _able(self, request: ChatRequest) -> list[ChatModel]:
        """The models to try, in order.

        Raises:
            InvalidInput: the chosen one cannot do what the request needs.
        """
        first = self._given(self._chat, "chat")
        lacking = _lacking(first.info, request)
        if lacking:
            raise InvalidInput(
                f"The model {first.info.name!r} cannot {lacking}. Choose one that can, or leave that out.",
                model=first.info.name,
            )
        return [first, *(model for model in self._fallbacks if not _lacking(model.info, request))]

    def _opened(self, model: ChatModel, request: ChatRequest, meter: CallMeter) -> AsyncIterator[Delta]:
        return retry.stream(
            lambda: dispatch.stream(model, "stream", request, deadlines=self._deadlines), self._policy, meter.attempts
        )

    def _call(self, model: object, method: str, *arguments: Any, **named: Any) -> Any:
        return dispatch.call(model, method, *arguments, deadlines=self._deadlines, **named)

    async def _once(self, model: object, function: Callable[[], Any], usage_of: Callable[[Any], TokenUsage]) -> Any:
        await self._books.check(model)
        with CallMeter(self._books, model) as meter:
            result = await retry.call(function, self._policy, meter.attempts)
            meter.usage = usage_of(result)
            return result

    def _given(self, part: T | None, use: str) -> T:
        if part is None:
            raise TypeError(f"{self.name!r} is no model for {use}")
        return part


def _lacking(info: ModelInfo, request: ChatRequest) -> str:
    """What the request needs and the model has not, in words; empty if nothing."""
    able = info.capabilities
    if not able.tools and (request.tools or any(turn.tool_calls for turn in request.turns)):
        return "use tools"
    if not able.vision and any(turn.pictures for turn in request.turns):
        return "look at pictures"
    if not able.json_schema and request.reply_schema is not None:
        return "keep to a JSON schema"
    return ""


def _read(result: Embedded | Reranked, texts: Sequence[str]) -> TokenUsage:
    """What a model has read: as it says, else estimated."""
    if result.tokens or not any(texts):
        return TokenUsage(prompt_tokens=result.tokens, estimated=result.estimated)
    return TokenUsage(prompt_tokens=sum(map(estimate_tokens, texts)), estimated=True)


def _together(one: TokenUsage, other: TokenUsage) -> TokenUsage:
    """What was read by both; an estimate, if one of them is."""
    tokens = one.prompt_tokens + other.prompt_tokens
    return TokenUsage(prompt_tokens=tokens, estimated=one.estimated or other.estimated)


def _one_each(result: T, rows: Any, inputs: Sequence[str], model: str) -> T:
    """`result`, once it has a row for each input.

    Raises:
        ModelBadOutput: it has more or fewer.
    """
    if len(rows) != len(inputs):
        raise ModelBadOutput(f"The model {model!r} gave {len(rows)} results for {len(inputs)} texts.", model=model)
    return result
