"""The check of an answer's marks never fails the answer, and nothing of it that takes long runs on the loop."""

import threading

import pytest

from api.db.services import dialog_citing
from api.db.services.dialog_citing import checked, with_marks
from api.db.services.llm_service import LLMBundle
from rag.core.errors import NotFound
from rag.core.events import Done
from rag.core.types import CitedChunk
from rag.nlp.citation import MOST_CHARS, Repaired, cited_indices, repair_marks
from tests.unit.api.db.services.talk import CASH as TALK_CASH
from tests.unit.api.db.services.talk import Talk, all_of, chatter, only
from tests.unit.api.db.services.world import World

CASH = "Cash at Acme was 42 billion dollars in the spring of the year."


def chunk(index: int, content: str) -> CitedChunk:
    return CitedChunk(
        index=index, chunk_id=f"c{index}", document_id="d", document_name="d.pdf", dataset_id="k", content=content,
        positions=(), similarity=0.5, vector_similarity=0.5, term_similarity=0.5,
    )  # fmt: skip


FELL = "In total, corporate debt went down to 17 billion dollars."


def unloosed(answer: str) -> Repaired:
    return Repaired(text=answer, marked=True, originals={})


def no_model() -> LLMBundle:
    raise NotFound("model", "none")


async def test_a_mark_in_code_that_crosses_the_limit_is_none() -> None:
    answer = f"{CASH} [ID:0]\n" + "y" * (MOST_CHARS - 100) + "\n`a[ID:77] " + "x" * 200 + "` and so on."
    assert await checked(no_model, [chunk(0, CASH)], unloosed(answer)) == answer


async def test_a_mark_that_names_no_source_is_left_alone() -> None:
    answer = f"{CASH} [ID:0][ID:7]"
    assert await checked(no_model, [chunk(0, CASH)], unloosed(answer)) == answer


async def test_no_mark_is_put_into_code_that_crosses_the_limit() -> None:
    answer = "y" * (MOST_CHARS - 100) + f"\n`a {CASH} {'x' * 200}` and so on.\n"
    marked = await with_marks(no_model, [chunk(0, CASH)], answer)
    assert marked == answer


async def test_sentences_are_weighed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set[str]()

    def telling(text: str) -> int:
        threads.add(threading.current_thread().name)
        return len(text)

    monkeypatch.setattr(dialog_citing, "telling", telling)
    assert cited_indices(await with_marks(no_model, [chunk(0, CASH)], CASH)) == (0,)
    assert threads
    assert threading.current_thread().name not in threads


async def test_what_may_be_text_becomes_a_mark_only_where_the_source_says_so() -> None:
    chunks = [chunk(0, CASH), chunk(1, "Rain fell on the hills of the north.")]
    text = f"{CASH} ref0\nThe gasket of the pump is part REF1 (ID: 1).\nAnd his badge (ID:1) opens doors."
    expected = text.replace("ref0", "[ID:0]")
    assert await checked(no_model, chunks, repair_marks(text, 2)) == expected


async def test_behind_what_is_looked_at_it_stays_text() -> None:
    text = "y" * MOST_CHARS + "\nThe gasket of the pump is part REF0.\n"
    assert await checked(no_model, [chunk(0, CASH)], repair_marks(text, 1)) == text
    assert await checked(no_model, [chunk(0, CASH)], repair_marks(f"{CASH} [ID:0]\n{text}", 1)) == (
        f"{CASH} [ID:0]\n{text}"
    )


@pytest.mark.parametrize("words", ["part REF1", "part [ID:99]"])
async def test_an_answer_whose_marks_were_none_gets_marks(world: World, words: str) -> None:
    talk = Talk(world, chatter(f"{FELL}\nThe gasket of the pump is {words}."))
    answer = only(await all_of(talk.ask("Q?")), Done).answer
    assert answer == f"{FELL} [ID:1]\nThe gasket of the pump is {words.removesuffix(' [ID:99]')}."


async def test_a_quotation_keeps_what_a_model_may_write_for_a_mark(world: World) -> None:
    talk = Talk(world, chatter(f"{TALK_CASH} [ID:0]\n\nThe debt is part REF1 (ID:1). [ID:1]", local=True))
    answer = only(await all_of(talk.ask("Q?")), Done).answer
    assert answer.startswith(f"{TALK_CASH} [ID:0]\n\nThe debt is part REF1 (ID:1).")
