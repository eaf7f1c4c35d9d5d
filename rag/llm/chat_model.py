"""Chat models of any provider, through LiteLLM."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from rag.core.errors import ModelError, ModelOverloaded
from rag.llm import litellm_port
from rag.llm.base import ChatRequest, Delta, ModelInfo
from rag.llm.chat_body import chat_body
from rag.llm.chat_reply import DeltaReader
from rag.llm.deadlines import Deadlines, Watch
from rag.llm.endpoint import Endpoint
from rag.llm.litellm_repairs import Repairs
from rag.llm.reply_bounds import MAX_TEXT_CHARS, too_long
from rag.llm.token_estimate import estimate_tokens

_NOTHING = Delta()


class LiteLLMBase:
    """ChatModel, asynchronous. Holds no more than the provider's address and key.

    Where `streams` is false, the provider is asked for the reply in one piece.
    """

    def __init__(self, info: ModelInfo, endpoint: Endpoint, *, deadlines: Deadlines, streams: bool = True) -> None:
        self.info = info
        self._endpoint = endpoint
        self._deadlines = deadlines
        self._streams = streams

    async def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        """Yield the reply as it comes. The provider's request ends when this is left.

        Raises:
            ModelError: see `litellm_port.TRANSLATIONS`; `facts["started"]` says whether text had come.
            InvalidInput: the request sets what it may not.
        """
        watch = Watch(self._deadlines, model=self.info.name)
        body = await chat_body(request, self.info, self._endpoint)
        try:
            with litellm_port.translated(self.info.name, secrets=self._endpoint.secrets):
                source = self._deltas(body, watch) if self._streams else self._whole(body, watch)
                chars = 0
                async with aclosing(source) as deltas:
                    async for delta in deltas:
                        chars += len(delta.text) + len(delta.reasoning)
                        if chars > MAX_TEXT_CHARS:
                            raise too_long(self.info.name, MAX_TEXT_CHARS)
                        watch.started = True
                        if delta.fragments and not request.tool_fragments:
                            delta = delta._replace(fragments=())
                        if delta != _NOTHING:
                            yield delta
        except TimeoutError as error:
            raise watch.late() from error
        except ModelError as error:
            error.facts.setdefault("started", watch.started)
            raise

    def count_tokens(self, text: str) -> int:
        return estimate_tokens(text)

    async def _deltas(self, body: dict[str, Any], watch: Watch) -> AsyncGenerator[Delta, None]:
        with watch.limit():
            stream = await litellm_port.open_stream(self._endpoint, body, timeout_s=self._deadlines.answer_s)
        reader, repairs = DeltaReader(model=self.info.name), Repairs()
        try:
            source = litellm_port.pieces(stream)
            while True:
                try:
                    piece = await watch.next(source)
                except StopAsyncIteration:
                    break
                reasoning, text = reader.read(repairs.put_right(piece))
                fragments = reader.take_fragments()
                if reasoning or text or fragments:
                    yield Delta(reasoning=reasoning, text=text, fragments=fragments)
            if litellm_port.was_cut_off(stream):
                reader.finish = None
            if reader.usage and (reader.finish is None or litellm_port.counted_by_itself(stream)):
                reader.usage = replace(reader.usage, estimated=True)
            if not watch.started and reader.finish is None:
                raise ModelOverloaded(
                    f"The connection to {self.info.name!r} ended before an answer came. Try again.",
                    model=self.info.name,
                )
            for delta in reader.last():
                yield delta
        finally:
            await litellm_port.close(stream)

    async def _whole(self, body: dict[str, Any], watch: Watch) -> AsyncGenerator[Delta, None]:
        async with watch.limit_whole():
            reply = await litellm_port.whole_reply(self._endpoint, body, timeout_s=self._deadlines.answer_s)
        reader = DeltaReader(model=self.info.name)
        reasoning, text = reader.read(Repairs().put_right(reply))
        yield Delta(reasoning=reasoning, text=text, fragments=reader.take_fragments())
        for delta in reader.last():
            yield delta
