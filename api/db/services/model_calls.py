"""What one call of one model took, and its usage row."""

import asyncio
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from api.db.services.records import ModelCall
from api.db.services.usage_ledger import BudgetGate, CallContext, UsageLedger
from rag.core.clock import Clock
from rag.core.errors import RagError
from rag.core.types import TokenUsage
from rag.llm import retry
from rag.llm.base import ChatModel, ChatRequest, Delta
from rag.llm.dispatch import name_of

PICTURE_TOKENS = 800
"""About what providers count for a picture of a screen's size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """Where calls are noted, and who may forbid them."""

    context: CallContext
    ledger: UsageLedger
    clock: Clock
    budget: BudgetGate | None = None

    async def check(self, model: object) -> None:
        """Return if `model` may be called.

        Raises:
            LimitExceeded: a budget is spent.
        """
        if self.budget is not None:
            await self.budget.check(replace(self.context, model=name_of(model)))


class CallMeter:
    """Measures what happens inside its `with` block, and leaves one usage row, whatever the end.

    `usage` is set to what the provider said, or to an estimate marked so. A call that failed before anything came is
    noted with no tokens.
    """

    def __init__(self, books: Books, model: object) -> None:
        self._books = books
        self._name = name_of(model)
        self._began_at = books.clock.monotonic()
        self.attempts = retry.Attempts()
        self.usage: TokenUsage | None = None
        self.first_ms: float | None = None
        self.finish: str | None = None
        self.tool_calls = 0

    @property
    def began(self) -> bool:
        """Whether anything of the reply has come."""
        return self.first_ms is not None or self.usage is not None or self.finish is not None

    def total(self) -> TokenUsage:
        """The tokens so far."""
        return self.usage or TokenUsage(estimated=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome = self._outcome(error)
        context, clock = self._books.context, self._books.clock
        nothing_came = not self.began and outcome not in ("ok", "cancelled")
        usage = TokenUsage(estimated=True) if nothing_came else self.total()
        self._books.ledger.add(
            ModelCall(
                tenant_id=context.tenant_id,
                model=self._name,
                provider=self._name.rpartition("@")[2],
                purpose=context.purpose,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
                cache_write_tokens=usage.cache_write_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                estimated=usage.estimated,
                tool_calls=self.tool_calls,
                duration_ms=(clock.monotonic() - self._began_at) * 1000,
                first_token_ms=self.first_ms,
                attempts=self.attempts.count,
                outcome=outcome,
                dialog_id=context.dialog_id,
                conversation_id=context.conversation_id,
                message_id=context.message_id,
                arm=context.arm,
                key_id=context.key_id,
                steps=context.steps() if context.steps is not None else None,
            )
        )

    def mark_first(self) -> None:
        """The first piece of a stream is here."""
        if self.first_ms is None:
            self.first_ms = (self._books.clock.monotonic() - self._began_at) * 1000

    def _outcome(self, error: BaseException | None) -> str:
        # Who leaves after the last piece has had the whole reply.
        if error is None or (isinstance(error, GeneratorExit) and self.finish is not None):
            return "cut_off" if self.finish == "cut_off" else "ok"
        if isinstance(error, GeneratorExit | asyncio.CancelledError):
            return "cancelled"
        return error.code if isinstance(error, RagError) else "internal"


class ChatMeter(CallMeter):
    """Measures one streamed reply."""

    def __init__(self, books: Books, model: ChatModel, request: ChatRequest) -> None:
        super().__init__(books, model)
        self._model = model
        self._request = request
        self._said: list[str] = []

    def see(self, delta: Delta) -> None:
        """Note one piece."""
        if self.first_ms is None and (delta.text or delta.reasoning or delta.fragments or delta.tool_calls):
            self.mark_first()
        if delta.text:
            self._said.append(delta.text)
        if delta.reasoning:
            self._said.append(delta.reasoning)
        if delta.tool_calls:
            self.tool_calls += len(delta.tool_calls)
            self._said.extend(call.name + call.arguments for call in delta.tool_calls)
        self.usage = delta.usage or self.usage
        self.finish = delta.finish or self.finish

    def total(self) -> TokenUsage:
        """The provider's own figures, else estimates marked so."""
        if self.usage is not None:
            return self.usage
        count = self._model.count_tokens
        turns, tools = self._request.turns, self._request.tools
        prompt = sum(count(turn.content) + PICTURE_TOKENS * len(turn.pictures) for turn in turns)
        prompt += sum(count(call.name + call.arguments) for turn in turns for call in turn.tool_calls)
        prompt += sum(count(f"{tool.name} {tool.description} {dict(tool.parameters)}") for tool in tools)
        return TokenUsage(prompt_tokens=prompt, completion_tokens=count("".join(self._said)), estimated=True)
