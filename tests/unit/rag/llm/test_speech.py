import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import SecretStr

from rag.core.errors import InvalidInput, ModelBadOutput, ModelError, ModelOverloaded, ModelRefused, ModelTimeout
from rag.llm import upstream_call
from rag.llm.endpoint import Endpoint
from rag.llm.speech import MAX_AUDIO_BYTES, CompatibleSpeaker, CompatibleTranscriber
from rag.llm.upstream import UpstreamPool
from rag.llm.upstream_call import UpstreamCall
from rag.testing.plain_services import EchoSpeaker, EchoTranscriber
from rag.testing.speech_suite import SpeakerSuite, TranscriberSuite, spoken
from rag.testing.upstream_services import MP3, Answer, ServicesUpstream
from tests.unit.rag.llm.raw_server import sending
from tests.unit.rag.llm.services import KEY, call, hasty, services

__all__ = ["call", "hasty", "services"]


class TestFakeTranscriber(TranscriberSuite):
    @pytest.fixture
    def transcriber(self) -> EchoTranscriber:
        return EchoTranscriber()


class TestFakeSpeaker(SpeakerSuite):
    @pytest.fixture
    def speaker(self) -> EchoSpeaker:
        return EchoSpeaker()


class TestTranscriber(TranscriberSuite):
    @pytest.fixture
    def transcriber(self, call: UpstreamCall) -> CompatibleTranscriber:
        return CompatibleTranscriber(call)


class TestSpeaker(SpeakerSuite):
    @pytest.fixture
    def speaker(self, call: UpstreamCall) -> CompatibleSpeaker:
        return CompatibleSpeaker(call, voice="alloy")


async def test_the_name_of_the_file_stays_here(call: UpstreamCall, services: ServicesUpstream) -> None:
    found = await CompatibleTranscriber(call).transcribe(b"said", file_name="my private\r\nX: y.wav")
    assert found.seconds == 1.5
    sent = services.calls[0]
    assert sent.path == "/v1/audio/transcriptions"
    assert sent.body == {"model": "m", "response_format": "json", "file": b"said", "file_name": "audio.wav"}


async def test_audio_that_is_too_large_is_refused(call: UpstreamCall, services: ServicesUpstream) -> None:
    with pytest.raises(InvalidInput):
        await CompatibleTranscriber(call).transcribe(bytes(MAX_AUDIO_BYTES + 1), file_name="a.wav")
    assert services.calls == []


async def test_a_long_text_is_spoken_in_parts(call: UpstreamCall, services: ServicesUpstream) -> None:
    text = "A sentence of some words. " * 400 + "x" * 9000
    pieces = await spoken(CompatibleSpeaker(call, voice="nova"), text)
    sent = [called.body["input"] for called in services.calls]
    assert len(sent) > 4
    assert max(map(len, sent)) <= 4096
    assert "".join(sent).replace(" ", "") == text.replace(" ", "")
    assert all(part.endswith(".") for part in sent[:2])
    assert {called.body["voice"] for called in services.calls} == {"nova"}
    assert b"".join(pieces).count(MP3) == len(sent)


async def test_leaving_ends_the_request(call: UpstreamCall, services: ServicesUpstream) -> None:
    stream: Any = CompatibleSpeaker(call).speak("word " * 800)
    async with aclosing(stream):
        async for _ in stream:
            break
    for _ in range(100):
        if services.left_early or not services.busy:
            break
        await asyncio.sleep(0.01)
    assert services.left_early == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(status=401, body={"error": {"message": f"wrong {KEY}"}}), ModelRefused),
        (Answer(status=500, body=b""), ModelOverloaded),
        (Answer(body={"text": 7}), ModelBadOutput),
        (Answer(body=b"<html>", content_type="text/html"), ModelBadOutput),
        (Answer(cut=True), ModelOverloaded),
    ],
)
async def test_what_goes_wrong_is_a_model_error_without_the_key(
    call: UpstreamCall, services: ServicesUpstream, answer: Answer, error: type[ModelError]
) -> None:
    services.answer = answer
    with pytest.raises(error) as heard:
        await CompatibleTranscriber(call).transcribe(b"x", file_name="a.wav")
    with pytest.raises(error) as said:
        await spoken(CompatibleSpeaker(call), "hello")
    assert KEY not in str(heard.value) + str(said.value)


async def test_an_empty_file_is_no_speech(call: UpstreamCall, services: ServicesUpstream) -> None:
    services.answer = Answer(body=b"", content_type="audio/mpeg")
    with pytest.raises(ModelBadOutput, match="no sound"):
        await spoken(CompatibleSpeaker(call), "hello")


async def test_a_hanging_server_is_left(hasty: UpstreamCall, services: ServicesUpstream) -> None:
    services.answer = Answer(wait_s=30)
    with pytest.raises(ModelTimeout):
        await spoken(CompatibleSpeaker(hasty), "hello")


SOUND = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nConnection: close\r\n\r\n"


async def test_a_slow_drip_of_sound_has_a_deadline(pool: UpstreamPool) -> None:
    async with sending([SOUND, *[b"x"] * 100], wait_s=0.05) as url:
        endpoint = Endpoint(base_url=url, api_key=SecretStr(KEY), model="m")
        # As much for a piece as for the whole: of a machine that halts the process, either says the same.
        drip = UpstreamCall("m@Here", endpoint, pool=pool, timeout_s=0.6, answer_s=0.6)
        started = asyncio.get_running_loop().time()
        with pytest.raises(ModelTimeout, match=r"did not finish within 0\.6 s"):
            await spoken(CompatibleSpeaker(drip), "hello")
        assert asyncio.get_running_loop().time() - started < 3


async def test_a_pause_of_sound_is_told_apart(pool: UpstreamPool) -> None:
    async with sending([SOUND + b"x", b"x"], wait_s=3.0) as url:
        endpoint = Endpoint(base_url=url, api_key=SecretStr(KEY), model="m")
        with pytest.raises(ModelTimeout, match=r"did not answer within 0\.2 s"):
            await spoken(CompatibleSpeaker(UpstreamCall("m@Here", endpoint, pool=pool, timeout_s=0.2)), "hello")


async def test_sound_without_an_end_is_refused(pool: UpstreamPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_call, "MAX_FILE_BYTES", 1000)
    for pieces, fine in ((10, True), (11, False)):
        async with sending([SOUND, *[b"x" * 100] * pieces], wait_s=0.001) as url:
            endpoint = Endpoint(base_url=url, api_key=SecretStr(KEY), model="m")
            speaker = CompatibleSpeaker(UpstreamCall("m@Here", endpoint, pool=pool, timeout_s=2.0))
            if fine:
                assert len(b"".join(await spoken(speaker, "hello"))) == 1000
            else:
                with pytest.raises(ModelBadOutput, match="longer than 1000 bytes"):
                    await spoken(speaker, "hello")
