"""Speech to text and text to speech, at addresses that speak OpenAI's protocol."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import PurePosixPath
from typing import Any, Final

from rag.core.errors import InvalidInput, ModelBadOutput
from rag.llm.base import Transcribed
from rag.llm.upstream_call import UpstreamCall

MAX_AUDIO_BYTES: Final = 25 << 20
"""What OpenAI and Groq take."""
_AUDIO: Final = ("flac", "m4a", "mp3", "mp4", "mpeg", "mpga", "ogg", "wav", "webm")
_MOST_CHARS: Final = 4096
"""What OpenAI speaks at a time."""


class CompatibleTranscriber:
    """Transcriber, asynchronous: `POST /audio/transcriptions`."""

    def __init__(self, call: UpstreamCall) -> None:
        self.name = call.name
        self._call = call

    async def transcribe(self, audio: bytes, *, file_name: str) -> Transcribed:
        """The words of `audio`.

        Raises:
            InvalidInput: the audio is empty, too large, or of an unknown ending.
            ModelError: the call failed.
        """
        # Imported here, see `rag.llm.upstream`.
        import aiohttp

        ending = PurePosixPath(file_name).suffix.lstrip(".").lower()
        if ending not in _AUDIO:
            raise InvalidInput(f"Audio of the ending {ending!r} is not taken; use one of {', '.join(_AUDIO)}.")
        if not audio or len(audio) > MAX_AUDIO_BYTES:
            raise InvalidInput(f"Audio must have 1 to {MAX_AUDIO_BYTES} bytes.")
        form = aiohttp.FormData()
        form.add_field("model", self._call.endpoint.model)
        form.add_field("response_format", "json")
        # The name of the user's file is nobody's business.
        form.add_field("file", audio, filename=f"audio.{ending}", content_type="application/octet-stream")
        reply = await self._call.post_form("/audio/transcriptions", form)
        text, seconds = reply.get("text"), _seconds(reply)
        if not isinstance(text, str):
            raise self._call.not_understood("its answer holds no `text`")
        return Transcribed(text=text.strip(), seconds=seconds)


class CompatibleSpeaker:
    """Speaker, asynchronous: `POST /audio/speech`."""

    def __init__(self, call: UpstreamCall, *, voice: str = "") -> None:
        self.name = call.name
        self._call = call
        self._voice = voice

    async def speak(self, text: str) -> AsyncIterator[bytes]:
        """Pieces of MP3. A longer text is spoken in parts, one after the other: MP3 files may be joined.

        Raises:
            InvalidInput: there is nothing to say.
            ModelError: the call failed.
        """
        parts = list(_parts(text.encode("utf-8", "replace").decode("utf-8").strip()))
        if not parts:
            raise InvalidInput("There is nothing to say.")
        for part in parts:
            body: dict[str, Any] = {"model": self._call.endpoint.model, "input": part, "response_format": "mp3"}
            if self._voice:
                body["voice"] = self._voice
            said = False
            pieces: Any = self._call.stream("/audio/speech", body)
            async with aclosing(pieces):
                async for piece in pieces:
                    said = True
                    yield piece
            if not said:
                raise ModelBadOutput(f"{self.name!r} sent no sound.", model=self.name)


def _parts(text: str) -> list[str]:
    """`text` in pieces that one request takes, cut at the end of a sentence or word where there is one."""
    found = []
    while len(text) > _MOST_CHARS:
        head = text[:_MOST_CHARS]
        cut = max(head.rfind(mark) + len(mark) for mark in (". ", "。", "! ", "? ", "\n"))
        if cut < _MOST_CHARS // 2:
            cut = head.rfind(" ") + 1 or _MOST_CHARS
        found.append(text[:cut].strip())
        text = text[cut:].strip()
    return [part for part in (*found, text) if part]


def _seconds(reply: dict[str, Any]) -> float:
    usage = reply.get("usage")
    for value in (reply.get("duration"), usage.get("seconds") if isinstance(usage, dict) else None):
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return 0.0
