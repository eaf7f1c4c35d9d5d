"""Answers said aloud: what is spoken, when, and what does not wait for it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import pytest
from structlog.testing import capture_logs

from api.db.services.dialog_speech import MOST_CHARS, Clauses, Speak, with_speech
from rag.core.errors import ModelTimeout
from rag.core.events import Cited, DialogEvent, Done, Failed, Spoken, Token
from rag.core.types import Reference

DONE = Done(answer="", reference=Reference())


def clauses(*pieces: str) -> list[str]:
    cut = Clauses()
    return [clause for piece in pieces for clause in cut.feed(piece)] + cut.rest()


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (["It rains. It ", "snows, too"], ["It rains.", "It snows, too"]),
        (["About 3.5 percent", " of it."], ["About 3.5 percent of it."]),
        (["Cash rose [ID", ":0]. Debt fell [ID:1][ID:2]."], ["Cash rose.", "Debt fell."]),
        (["See **this**:\n```py\nprint(1)\n", "```\nDone"], ["See this :", "Done"]),
        (["# Cash\n- one\n- two\n"], ["Cash", "one", "two"]),
        (["| a | b |\n|---|---|\n"], ["a b"]),
        (["现金增加了。债务下降"], ["现金增加了。", "债务下降"]),
        (["  \n\n --- \n"], []),
        (["See https://example.org/x?y=1 there"], ["See there"]),
    ],
)
def test_what_is_said_of_a_text(pieces: list[str], said: list[str]) -> None:
    assert clauses(*pieces) == said
    assert clauses(*"".join(pieces)) == said


def test_a_long_clause_is_said_before_it_ends() -> None:
    first, *more = clauses(*["word "] * 300)
    assert len(first) <= 405
    assert "".join([first, *more]).count("word") == 300


def test_a_comma_ends_a_clause_that_is_long_enough() -> None:
    text = "After the bridge over the river had been opened, "
    assert clauses(text + "it was painted.") == [text.strip(), "it was painted."]


def test_an_endless_answer_is_not_said_to_its_end() -> None:
    assert sum(len(clause) for clause in clauses(*["It goes on. "] * 2000)) == MOST_CHARS


async def answer(*events: DialogEvent, closed: Callable[[], None] = lambda: None) -> AsyncGenerator[DialogEvent, None]:
    try:
        for event in events:
            await asyncio.sleep(0)
            yield event
    finally:
        closed()


def voice(said: list[str], *, gate: asyncio.Event | None = None, fails: bool = False) -> Speak:
    async def speak(text: str) -> AsyncIterator[bytes]:
        said.append(text)
        if gate is not None:
            await gate.wait()
        if fails:
            raise ModelTimeout("The speaker is silent.", started=False)
        yield b"<"
        yield text.encode() + b">"

    return speak


def audio(events: Sequence[DialogEvent]) -> bytes:
    return b"".join(event.audio for event in events if isinstance(event, Spoken))


async def test_speech_comes_in_order() -> None:
    said: list[str] = []
    events = [
        event
        async for event in with_speech(
            answer(Token(text="One. "), Token(text="Two. "), Token(text="Three"), DONE), voice(said)
        )
    ]
    assert DONE in events
    assert " ".join(said) == "One. Two. Three"
    assert audio(events) == b"".join(b"<" + text.encode() + b">" for text in said)


async def test_text_does_not_wait_for_speech() -> None:
    gate = asyncio.Event()
    said: list[str] = []
    cited = Cited(answer="One. Two.", reference=Reference())
    source = with_speech(answer(Token(text="One. "), Token(text="Two."), cited, DONE), voice(said, gate=gate))
    seen = [await anext(source) for _ in range(4)]
    assert [type(event) for event in seen] == [Token, Token, Cited, Done]
    gate.set()
    rest = [event async for event in source]
    assert audio(rest)
    assert {type(event) for event in rest} == {Spoken}


async def test_a_speaker_that_fails_leaves_the_answer_as_it_is() -> None:
    said: list[str] = []
    source = with_speech(answer(Token(text="One. "), Token(text="Two."), DONE), voice(said, fails=True))
    assert [type(event) for event in [each async for each in source]] == [Token, Token, Done]
    assert len(said) == 1


async def test_a_slow_speaker_is_waited_for_only_so_long() -> None:
    source = with_speech(answer(Token(text="One."), DONE), voice([], gate=asyncio.Event()), rest_s=0.05)
    async with asyncio.timeout(2):
        assert [type(event) for event in [each async for each in source]] == [Token, Done]


async def test_an_answer_that_fails_is_not_waited_for() -> None:
    failed = Failed(code="model_timeout", message="Too slow.")
    source = with_speech(answer(Token(text="One. "), failed), voice([], gate=asyncio.Event()))
    async with asyncio.timeout(2):
        assert [type(event) for event in [each async for each in source]] == [Token, Failed]


async def test_leaving_ends_the_answer_and_the_speech() -> None:
    closed = asyncio.Event()
    before = asyncio.all_tasks()
    source = with_speech(answer(*[Token(text="On. ")] * 5000, closed=closed.set), voice([], gate=asyncio.Event()))
    await anext(source)
    await source.aclose()
    assert closed.is_set()
    assert asyncio.all_tasks() == before


async def test_a_reader_that_is_slow_holds_the_answer_back() -> None:
    made = 0

    async def endless() -> AsyncGenerator[DialogEvent, None]:
        nonlocal made
        while True:
            made += 1
            yield Token(text="x")
            await asyncio.sleep(0)

    source = with_speech(endless(), voice([]))
    await anext(source)
    await asyncio.sleep(0.05)
    assert made < 300
    await source.aclose()


async def test_what_breaks_in_the_answer_breaks_here_too() -> None:
    async def broken() -> AsyncGenerator[DialogEvent, None]:
        yield Token(text="One. ")
        raise LookupError("a defect")

    source = with_speech(broken(), voice([]))
    with pytest.raises(LookupError, match="a defect"):
        [event async for event in source]


async def test_a_defect_of_the_speaker_is_logged_and_leaves_the_answer_as_it_is() -> None:
    async def speak(text: str) -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError(f"a defect at {text}")

    with capture_logs() as logged:
        source = with_speech(answer(Token(text="One. "), Token(text="Two."), DONE), speak)
        assert [type(event) for event in [each async for each in source]] == [Token, Token, Done]
    (entry,) = [each for each in logged if each["event"] == "speech_broke"]
    assert (entry["log_level"], str(entry["exc_info"])) == ("error", "a defect at One.")


async def test_a_defect_of_the_speaker_is_logged_when_the_reader_leaves() -> None:
    broke = asyncio.Event()

    async def speak(text: str) -> AsyncIterator[bytes]:
        broke.set()
        raise LookupError("a defect")
        yield b""

    with capture_logs() as logged:
        source = with_speech(answer(*[Token(text="On. ")] * 5000), speak)
        await anext(source)
        await broke.wait()
        await source.aclose()
    assert [each["event"] for each in logged] == ["speech_broke"]
