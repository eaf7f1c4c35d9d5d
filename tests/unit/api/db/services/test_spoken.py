from collections.abc import AsyncIterator

import pytest

from api.db.services.spoken import spoken
from rag.core.errors import ModelTimeout


class Voice:
    def __init__(self, fails_at: str = "") -> None:
        self.said: list[str] = []
        self.closed = 0
        self._fails_at = fails_at

    async def tts(self, text: str) -> AsyncIterator[bytes]:
        if text == self._fails_at:
            raise ModelTimeout("late")
        self.said.append(text)
        try:
            for part in (b"<", text.encode(), b">"):
                yield part
        finally:
            self.closed += 1


async def said(text: str) -> list[str]:
    voice = Voice()
    sound = b"".join([piece async for piece in spoken(voice, text)])
    assert sound.decode() == "".join(f"<{clause}>" for clause in voice.said)
    return voice.said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ... --- \n", []),
        ("Yes.", ["Yes."]),
        ("It cost 3.5 million. Nobody knew.", ["It cost 3.5 million.", "Nobody knew."]),
        (
            "It was opened in 1932 [ID:0]. It is **very** long [ID:1][ID:2].",
            ["It was opened in 1932.", "It is very long."],
        ),
        ("First line\nsecond line", ["First line", "second line"]),
    ],
)
async def test_clauses_are_said_in_order_without_marks(text: str, expected: list[str]) -> None:
    assert await said(text) == expected


async def test_a_long_text_is_said_to_its_end() -> None:
    sentences = [f"This is sentence {number}." for number in range(2000)]
    assert await said(" ".join(sentences)) == sentences


async def test_what_was_said_comes_before_an_error() -> None:
    sound = spoken(Voice(fails_at="Two."), "One. Two. Three.")
    heard = [await anext(sound) for _ in range(3)]
    assert b"".join(heard) == b"<One.>"
    with pytest.raises(ModelTimeout):
        await anext(sound)


async def test_who_leaves_ends_the_model() -> None:
    voice = Voice()
    sound = spoken(voice, "One. Two.")
    await anext(sound)
    await sound.aclose()
    assert (voice.said, voice.closed) == (["One."], 1)
