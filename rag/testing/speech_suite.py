"""What models of speech do: inherit the suites and give them a `transcriber` and a `speaker` fixture."""

import inspect
from typing import Any

import pytest

from rag.core.errors import InvalidInput
from rag.llm.base import Speaker, Transcribed, Transcriber


async def transcribed(transcriber: Transcriber, audio: bytes, file_name: str) -> Transcribed:
    result = transcriber.transcribe(audio, file_name=file_name)
    found = await result if inspect.isawaitable(result) else result
    assert isinstance(found, Transcribed)
    return found


async def spoken(speaker: Speaker, text: str) -> list[bytes]:
    stream: Any = speaker.speak(text)
    if inspect.isasyncgenfunction(speaker.speak):
        return [piece async for piece in stream]
    return list(stream)


class TranscriberSuite:
    """The contract of `rag.llm.base.Transcriber`."""

    async def test_words_come_back(self, transcriber: Transcriber) -> None:
        found = await transcribed(transcriber, b"hello there", "a recording.MP3")
        assert "hello there" in found.text
        assert found.text == found.text.strip()
        assert found.seconds >= 0

    @pytest.mark.parametrize(("audio", "name"), [(b"", "a.mp3"), (b"x", "a.exe"), (b"x", ""), (b"x", "../../mp3")])
    async def test_what_is_no_audio_is_refused(self, transcriber: Transcriber, audio: bytes, name: str) -> None:
        with pytest.raises(InvalidInput):
            await transcribed(transcriber, audio, name)


class SpeakerSuite:
    """The contract of `rag.llm.base.Speaker`."""

    async def test_a_text_is_spoken(self, speaker: Speaker) -> None:
        pieces = await spoken(speaker, "Good morning, how are you?")
        assert all(isinstance(piece, bytes) and piece for piece in pieces)
        assert pieces[0].startswith((b"ID3", b"\xff"))

    async def test_a_longer_text_is_a_longer_file(self, speaker: Speaker) -> None:
        short = sum(map(len, await spoken(speaker, "Hi.")))
        assert sum(map(len, await spoken(speaker, "Good morning. " * 1000))) > short

    async def test_nothing_cannot_be_spoken(self, speaker: Speaker) -> None:
        with pytest.raises(InvalidInput):
            await spoken(speaker, "  \n")
