from collections.abc import AsyncIterator

import pytest

from api.db.services.spoken import clauses, spoken
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ... --- \n", []),
        ("Yes.", ["Yes."]),
        ("It cost 3.5 million. Nobody knew.", ["It cost 3.5 million.", "Nobody knew."]),
        ("Well, it was opened in 1932, as the plate says.", ["Well, it was opened in 1932,", "as the plate says."]),
        ("First line\nsecond line", ["First line", "second line"]),
        ("它于1932年开放。它很长。", ["它于1932年开放。", "它很长。"]),
    ],
)
def test_clauses(text: str, expected: list[str]) -> None:
    assert list(clauses(text)) == expected


async def test_clauses_are_said_in_order_without_marks() -> None:
    voice = Voice()
    sound = b"".join([piece async for piece in spoken(voice, "It was opened in 1932 [ID:0]. It is long [ID:1][ID:2].")])
    assert len(voice.said) == 2
    assert "ID" not in sound.decode()
    assert sound.startswith(b"<It was opened in 1932")


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
