"""Questions far longer than anybody asks: as much of them is read as is searched for, and not on the loop."""

import threading
from collections.abc import Sequence

import pytest

from api.db.services import dialog_search
from api.db.services.dialog_brief import brief_of_dialog
from api.db.services.dialog_question import SearchPlan
from api.db.services.dialog_search import found_for
from api.db.services.dialog_service import AskOptions
from api.db.services.retrieval_service import LONGEST_QUESTION_CHARS
from rag.core.events import Done
from rag.core.types import ChunkText, Turn
from tests.unit.api.db.services.talk import CASH, DEBT, Talk, all_of, chatter, only
from tests.unit.api.db.services.world import ANN, World

LONG = "Acme " * 20_000


async def test_quotations_are_chosen_by_the_part_that_is_searched_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def worth_reading(question: str, passages: Sequence[ChunkText], keep: int) -> list[int]:
        read.append(len(question))
        return list(range(keep))

    monkeypatch.setattr(dialog_search, "worth_reading", worth_reading)
    chat = chatter("42", local=True)
    made = Talk(world, chat, contents=[CASH, DEBT] * 8)
    assert only(await all_of(made.ask(LONG)), Done)
    assert read == [LONGEST_QUESTION_CHARS]
    grounding = chat.requests[-1].grounding
    assert grounding is not None
    assert grounding.question == LONG[:LONGEST_QUESTION_CHARS]


async def test_the_names_of_things_in_many_long_wordings_are_looked_for_beside_the_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[int] = []

    def search_text(question: str) -> str:
        where.append(threading.get_ident())
        return question

    monkeypatch.setattr(dialog_search, "search_text", search_text)
    made = Talk(world, chatter("42", local=True))
    brief = brief_of_dialog(made.dialog(), AskOptions())
    turns = (Turn(role="user", content="cash"),)
    asking = made.dialogs._asking(ANN, brief, turns, message_id="m", session_id="")
    plan = SearchPlan(question=LONG, queries=tuple(f"{number} {LONG}" for number in range(6)))
    await found_for(asking, made.dialogs._means.sources, asking.bundle(), plan)
    assert len(where) == 7
    assert threading.get_ident() not in where
