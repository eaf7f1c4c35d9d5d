"""A model's reply as events: what is taken out of it on the way."""

from collections.abc import AsyncIterator, Sequence

import pytest

from api.db.services.dialog_reply import Said, reply_events
from api.db.services.model_catalogue import ModelCatalogue
from rag.core.events import DialogEvent, Reasoning, Token
from rag.core.settings import Settings
from rag.core.types import Turn
from rag.llm.base import ChatRequest, Delta
from rag.nlp.citation import MarkFilter
from rag.testing.models import FixedModels
from rag.testing.scripted_chat import ScriptedChat


class Says(ScriptedChat):
    """Gives exactly these pieces."""

    def __init__(self, *deltas: Delta) -> None:
        super().__init__()
        self._deltas = deltas

    async def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        for delta in self._deltas:
            yield delta


async def events_of(deltas: Sequence[Delta], marks: MarkFilter | None) -> list[DialogEvent]:
    model = Says(*deltas)
    bundle = ModelCatalogue(Settings(), FixedModels([model])).bundle_chat(model.info.name)
    request = ChatRequest(turns=(Turn(role="user", content="Q?"),))
    return [event async for event in reply_events(bundle, request, Said(), kit=None, marks=marks, empty="")]


@pytest.mark.parametrize(
    "thoughts",
    [
        ["It says so [ID:0]. And more [ID:1] here"],
        ["It says so [", "ID:0]. And more", " [ID", ":1] here"],
        list("It says so [ID:0]. And more [ID:1] here"),
        ["It says so. ", "And more here [ID:12]"],
    ],
)
async def test_thoughts_have_no_marks_where_the_answer_has_none(thoughts: list[str]) -> None:
    deltas = [*(Delta(reasoning=each) for each in thoughts), Delta(text="It was [ID:0] 42."), Delta(finish="stop")]
    events = await events_of(deltas, MarkFilter())
    assert "".join(each.text for each in events if isinstance(each, Reasoning)) == "It says so. And more here"
    assert "".join(each.text for each in events if isinstance(each, Token)) == "It was 42."
    kinds = [type(each) for each in events]
    assert kinds.index(Token) > max(place for place, kind in enumerate(kinds) if kind is Reasoning)


async def test_what_looks_like_the_start_of_a_mark_is_not_lost_with_the_thoughts() -> None:
    events = await events_of([Delta(reasoning="See [ID"), Delta(text="42."), Delta(finish="stop")], MarkFilter())
    assert "".join(each.text for each in events if isinstance(each, Reasoning)) == "See [ID"
    alone = await events_of([Delta(reasoning="See [ID"), Delta(finish="stop")], MarkFilter())
    assert "".join(each.text for each in alone if isinstance(each, Reasoning)) == "See [ID"


async def test_thoughts_keep_their_marks_where_answers_have_some() -> None:
    events = await events_of([Delta(reasoning="So [ID:0]."), Delta(text="42."), Delta(finish="stop")], None)
    assert [each for each in events if isinstance(each, Reasoning)] == [Reasoning(text="So [ID:0].")]
