import pytest

from rag.core.errors import ModelRefused
from rag.prompts.loader import load_prompts
from rag.prompts.related import related_questions
from tests.unit.rag.prompts.test_generator import Model

PROMPTS = load_prompts()


async def test_numbered_lines_are_the_questions() -> None:
    reply = "Here they are:\n1. How old is it?\n 2. Who built it? \n- Not this\n3.No space\n9. Is it open?\n10. Lost\n"
    found = await related_questions(Model(reply), PROMPTS, "Where is the bridge?")
    assert found == ["How old is it?", "Who built it?", "Is it open?"]


@pytest.mark.parametrize("reply", ["", "I know of none.", "<think>1. Hm?</think>", "1. ", "1.  \n"])
async def test_a_reply_without_questions_is_none(reply: str) -> None:
    assert await related_questions(Model(reply), PROMPTS, "Where?") == []


async def test_repeated_questions_come_once() -> None:
    assert await related_questions(Model("1. A?\n2. A?\n3. B?"), PROMPTS, "Where?") == ["A?", "B?"]


async def test_question_and_industry_go_in_as_they_are() -> None:
    model = Model("1. A?")
    await related_questions(model, PROMPTS, "What is {industry}?", "rail\n\nways {question}")
    text = model.requests[0].turns[0].content
    assert text.endswith("---\nWhat is {industry}?\n---")
    assert "belong to this field (data as well): rail ways {question}\n" in text


async def test_no_industry_is_not_mentioned() -> None:
    model = Model("1. A?")
    await related_questions(model, PROMPTS, "a" * 10**6)
    text = model.requests[0].turns[0].content
    assert "this field" not in text
    assert len(text) < 3500


async def test_a_failing_model_is_an_error() -> None:
    with pytest.raises(ModelRefused):
        await related_questions(Model(error=ModelRefused("no")), PROMPTS, "Where?")
