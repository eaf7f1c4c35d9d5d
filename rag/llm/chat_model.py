"""Chat models of any provider, through LiteLLM."""

from collections.abc import AsyncIterator
from dataclasses import replace

from rag.core.blocking import Lane, run_in
from rag.core.errors import ModelError, ModelOverloaded
from rag.llm import litellm_port
from rag.llm.base import ChatRequest, Delta, ModelInfo
from rag.llm.chat_body import DeltaReader, messages, sampling_fields
from rag.llm.deadlines import Deadlines, Watch
from rag.llm.endpoint import Endpoint
from rag.llm.token_estimate import estimate_tokens


class LiteLLMBase:
    """ChatModel, asynchronous. Holds no more than the provider's address and key."""

    def __init__(self, info: ModelInfo, endpoint: Endpoint, *, deadlines: Deadlines) -> None:
        self.info = info
        self._endpoint = endpoint
        self._deadlines = deadlines

    async def stream(self, request: ChatRequest) -> AsyncIterator[Delta]:
        """Yield the reply as it comes. The provider's request ends when this is left.

        Raises:
            ModelError: see `litellm_port.TRANSLATIONS`; `facts["started"]` says whether text had come.
            InvalidInput: the request sets what it may not.
        """
        fields = sampling_fields(request, self._endpoint)
        await run_in(Lane.MODEL, litellm_port.load)
        watch = Watch(self._deadlines, model=self.info.name)
        try:
            with litellm_port.translated(self.info.name, secret=self._endpoint.api_key.get_secret_value()):
                async for delta in self._deltas(request, fields, watch):
                    watch.started = True
                    yield delta
        except TimeoutError as error:
            raise watch.late() from error
        except ModelError as error:
            error.facts.setdefault("started", watch.started)
            raise

    def count_tokens(self, text: str) -> int:
        return estimate_tokens(text)

    async def _deltas(self, request: ChatRequest, fields: dict[str, object], watch: Watch) -> AsyncIterator[Delta]:
        async with watch.limit():
            stream = await litellm_port.open_stream(
                self._endpoint, messages(request), fields, timeout_s=self._deadlines.answer_s
            )
        reader = DeltaReader()
        try:
            source = litellm_port.pieces(stream)
            while True:
                try:
                    piece = await watch.next(source)
                except StopAsyncIteration:
                    break
                reasoning, text = reader.read(piece)
                if reasoning or text:
                    yield Delta(reasoning=reasoning, text=text)
            if litellm_port.was_cut_off(stream):
                reader.finish = None
                # The library counts by itself what the provider did not get to say.
                reader.usage = replace(reader.usage, estimated=True) if reader.usage else None
            if not watch.started and reader.finish is None:
                raise ModelOverloaded(
                    f"The connection to {self.info.name!r} ended before an answer came. Try again.",
                    model=self.info.name,
                )
            for delta in reader.last():
                yield delta
        finally:
            await litellm_port.close(stream)
