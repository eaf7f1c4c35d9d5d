"""The check of an answer's marks never fails the answer, and nothing of it that takes long runs on the loop."""

import threading

import pytest

from api.db.services import dialog_citing
from api.db.services.dialog_citing import checked, with_marks
from api.db.services.llm_service import LLMBundle
from rag.core.errors import NotFound
from rag.core.types import CitedChunk
from rag.nlp.citation import MOST_CHARS, cited_indices

CASH = "Cash at Acme was 42 billion dollars in the spring of the year."


def chunk(index: int, content: str) -> CitedChunk:
    return CitedChunk(
        index=index, chunk_id=f"c{index}", document_id="d", document_name="d.pdf", dataset_id="k", content=content,
        positions=(), similarity=0.5, vector_similarity=0.5, term_similarity=0.5,
    )  # fmt: skip


def no_model() -> LLMBundle:
    raise NotFound("model", "none")


async def test_a_mark_in_code_that_crosses_the_limit_is_none() -> None:
    answer = f"{CASH} [ID:0]\n" + "y" * (MOST_CHARS - 100) + "\n`a[ID:77] " + "x" * 200 + "` and so on."
    assert await checked(no_model, [chunk(0, CASH)], answer) == answer


async def test_a_mark_that_names_no_source_is_left_alone() -> None:
    answer = f"{CASH} [ID:0][ID:7]"
    assert await checked(no_model, [chunk(0, CASH)], answer) == answer


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
