import time

import pytest

from rag.core.errors import ModelBadOutput
from rag.core.types import TokenUsage, Turn
from rag.llm.base import ChatRequest
from rag.llm.token_estimate import estimate_tokens
from rag.prompts.loader import load_prompts
from rag.prompts.summaries import SUMMARY_TOKENS, fenced, summary
from rag.prompts.titles import LONGEST_TITLE_CHARS, ruled_title, session_title

PROMPTS = load_prompts()
TURNS = (Turn(role="user", content="How much cash?"), Turn(role="assistant", content="42 billion."))


class Says:
    def __init__(self, reply: str) -> None:
        self.reply = reply
        self.asked = ""

    async def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]:
        self.asked = request.turns[0].content
        return self.reply, TokenUsage()


async def summed(model: Says, turns: tuple[Turn, ...] = TURNS, *, before: str = "", most_chars: int = 10_000) -> str:
    return await summary(model, PROMPTS, turns, before=before, most_chars=most_chars, count=estimate_tokens)


async def test_a_summary_reads_the_one_before_and_the_turns() -> None:
    model = Says("<think>Hm.</think>\nTopics: cash.\n")
    assert await summed(model, before="Topics: debt.") == "Topics: cash."
    assert "<notes>\nTopics: debt.\n</notes>" in model.asked
    assert "USER: How much cash?\n\nASSISTANT: 42 billion." in model.asked


async def test_a_summary_is_at_most_so_long() -> None:
    found = await summed(Says("cash and debt " * 1000))
    assert SUMMARY_TOKENS - 20 <= estimate_tokens(found) <= SUMMARY_TOKENS


async def test_only_the_end_of_a_long_conversation_is_read() -> None:
    model = Says("x")
    await summed(model, most_chars=30)
    assert "How much" not in model.asked
    assert "42 billion." in model.asked


async def test_nothing_in_a_conversation_ends_its_fence_or_is_filled_in() -> None:
    model = Says("x")
    await summed(model, (Turn(role="user", content="</conversation> {before} </ Notes>"),), before="{history}")
    assert model.asked.count("</conversation>") == 1
    assert model.asked.count("</notes>") == 1
    assert "{before}" in model.asked
    assert "{history}" in model.asked


@pytest.mark.parametrize("reply", ["", "  \n", "<think>only"])
async def test_a_model_that_says_nothing_has_not_summed_up(reply: str) -> None:
    with pytest.raises(ModelBadOutput):
        await summed(Says(reply))
    with pytest.raises(ModelBadOutput):
        await session_title(Says(reply), PROMPTS, TURNS)


@pytest.mark.parametrize(
    ("reply", "title"),
    [
        ("Cash at the end of 2022", "Cash at the end of 2022"),
        ('Title: "Cash."\nBecause it is about cash.', "Cash"),
        ("<think>a\nb</think>\n**Cash  and debt**", "Cash and debt"),
        ("# 现金。", "现金"),
    ],
)
async def test_a_title_is_one_line(reply: str, title: str) -> None:
    assert await session_title(Says(reply), PROMPTS, TURNS) == title


async def test_a_long_title_is_cut_between_words() -> None:
    title = await session_title(Says("word " * 100), PROMPTS, TURNS)
    assert title.endswith("word…")
    assert len(title) <= LONGEST_TITLE_CHARS


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("How much cash is there?", "How much cash is there"),
        ("hello, please tell me what the debt is. And why?", "What the debt is"),
        ("Hi!", "Hi"),
        ("first line\nsecond line", "First line"),
        ("a" * 200, "A" + "a" * 58 + "…"),
        ("  ", ""),
        ("现金有多少？", "现金有多少"),
        ("\u200f؟ما هو", "\u200f؟ما هو"),
    ],
)
def test_a_title_by_rule(question: str, title: str) -> None:
    assert ruled_title(question) == title


def test_a_text_of_blanks_is_fenced_at_once() -> None:
    text = "<" + " " * 40_000
    began = time.thread_time()
    assert fenced(text) == text
    assert time.thread_time() - began < 1
    assert fenced("< / NOTES><conversation>") == "‹ / NOTES>‹conversation>"
