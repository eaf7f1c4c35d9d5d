"""A model's reply as the dialog's events, with the tools it uses on the way."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from api.db.services.llm_service import LLMBundle
from api.db.services.tool_sources import SEARCH, progress_of
from api.db.services.toolbox import Kit
from rag.core.events import DialogEvent, Reasoning, RetrievalFinished, Token, ToolArguments, ToolFinished, ToolStarted
from rag.core.types import TokenUsage, ToolCall
from rag.llm.base import ChatRequest, Delta
from rag.llm.overflow import TurnsDropped, stream_fitting
from rag.llm.tools import ToolEnded, run_rounds
from rag.nlp.citation import MarkFilter


@dataclass(slots=True)
class Said:
    """What the model has said so far. `model` is the one that answered, which may be a fallback; `dropped` counts turns
    that its provider had no room for. `calls` are of tools that are not ours to run."""

    parts: list[str] = field(default_factory=list)
    usage: TokenUsage | None = None
    finish: str | None = None
    model: str = ""
    dropped: int = 0
    calls: tuple[ToolCall, ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.parts)


class _Held:
    """Keeps text back once the model has searched and found nothing: what is said then rests on nothing, and the
    chat's `empty_response` takes its place. Only where there is such a text, and no search before the model's."""

    def __init__(self, kit: Kit | None, empty_response: str) -> None:
        self._kit = kit if kit is not None and kit.agentic and empty_response else None
        self._empty_response = empty_response
        self._parts: list[str] = []
        self.holds = False

    def note(self, ended: ToolEnded) -> None:
        if self._kit is not None and ended.call.name == SEARCH and not ended.result.error:
            self.holds = not self._kit.sources.reference().chunks

    def pass_on(self, text: str) -> str:
        """What of the text can be shown now."""
        if self.holds or self._parts:
            self._parts.append(text)
            return "" if self.holds else self._given()
        return text

    def rest(self, said: Said) -> str:
        """What is still to be shown at the end: what was held back, or the text in its place."""
        if not self.holds:
            return self._given()
        gap = "\n\n" if said.text.strip() else ""
        said.parts.clear()
        return gap + self._empty_response

    def _given(self) -> str:
        shown = "".join(self._parts)
        self._parts.clear()
        return shown


class _Thoughts:
    """What the model thinks, on its way out; without marks where the answer has none."""

    def __init__(self, *, plain: bool) -> None:
        self._marks = MarkFilter() if plain else None

    def of(self, event: Delta | ToolStarted) -> Iterator[Reasoning]:
        """What can be shown now: all that there was, once something else than thoughts comes."""
        text = event.reasoning if isinstance(event, Delta) else ""
        if self._marks is not None:
            text = self._marks.feed(text) if text else ""
            text += self._marks.rest() if isinstance(event, ToolStarted) or event.text else ""
        if text:
            yield Reasoning(text=text)

    def rest(self) -> Iterator[Reasoning]:
        """What was held back, at the end."""
        text = self._marks.rest() if self._marks is not None else ""
        if text:
            yield Reasoning(text=text)


async def reply_events(
    bundle: LLMBundle, request: ChatRequest, said: Said, *, kit: Kit | None, marks: MarkFilter | None, empty: str
) -> AsyncGenerator[DialogEvent, None]:
    """Yield the reply to `request` by arrival and note it in `said`.

    Args:
        kit: The tools, if there are any.
        marks: Takes citation marks out of the text, where the chat shows none; thoughts have none then either.
        empty: What the chat answers when nothing is found.
    Raises:
        ModelError: the model failed.
    """
    held = _Held(kit, empty)
    thoughts = _Thoughts(plain=marks is not None)
    source = stream_fitting(bundle, request) if kit is None else run_rounds(bundle, request, kit.tools, kit.limits)
    async with aclosing(source) as events:
        async for event in events:
            if isinstance(event, Delta):
                said.usage = event.usage or said.usage
                said.finish = event.finish or said.finish
                said.model = event.model or said.model
                said.calls += event.tool_calls
                for thought in thoughts.of(event):
                    yield thought
                text = marks.feed(event.text) if marks else event.text
                if text and (text := held.pass_on(text)):
                    said.parts.append(text)
                    yield Token(text=text)
                for piece in event.fragments:
                    yield ToolArguments(index=piece.index, name=piece.name, text=piece.arguments)
            elif isinstance(event, TurnsDropped):
                said.dropped += event.count
            elif isinstance(event, ToolStarted):
                begun: list[DialogEvent] = [*thoughts.of(event), *_progress(kit, event), event]
                for each in begun:
                    yield each
            else:
                assert kit is not None
                held.note(event)
                yield _finished(event)
                if event.result.chunks or held.holds:
                    yield RetrievalFinished(reference=kit.sources.reference())
    for thought in thoughts.rest():
        yield thought
    rest = held.pass_on(marks.rest()) if marks else ""
    rest += held.rest(said)
    if rest:
        said.parts.append(rest.lstrip() if held.holds else rest)
        yield Token(text=rest)


def _progress(kit: Kit | None, event: ToolStarted) -> Iterator[Reasoning]:
    """How far a research has come."""
    if kit is not None and kit.researches:
        yield Reasoning(text=progress_of(event.name, event.arguments))


def _finished(event: ToolEnded) -> ToolFinished:
    call = event.call
    return ToolFinished(
        call_id=call.id, name=call.name, error=event.result.error, duration_ms=round(event.duration_ms, 1)
    )
