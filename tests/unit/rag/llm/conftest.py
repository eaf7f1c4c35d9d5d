from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from rag.core.resources import asset_path
from rag.llm.base import ChatModel, ModelInfo
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.minilm import MiniLmEmbedder
from rag.llm.openai_lane import OpenAiLane
from rag.llm.upstream import UpstreamPool
from rag.testing.chat_model_suite import Said
from rag.testing.scripted_chat import ABLE
from rag.testing.upstream import FaultyUpstream

SECRET = "sk-very-secret"
INFO = ModelInfo(name="mock@OpenAI", context_tokens=8192, max_output_tokens=1024, capabilities=ABLE)
SHORT = Deadlines(first_token_s=0.6, next_token_s=0.6, answer_s=2.0)


class OverUpstream:
    """`rag.testing.chat_model_suite.Steered` for an adapter: the upstream says what it is told to."""

    def __init__(self, model: ChatModel, upstream: FaultyUpstream, *, interleaved: bool = True) -> None:
        self._model = model
        self._upstream = upstream
        self._interleaved = interleaved

    def model(self, said: Said) -> ChatModel:
        self._upstream.will(said.as_plan(interleaved=self._interleaved))
        return self._model

    def left(self) -> int:
        return self._upstream.closed_early


@pytest.fixture(scope="session")
def minilm() -> Iterator[MiniLmEmbedder]:
    embedder = MiniLmEmbedder(asset_path("minilm"), threads=2)
    embedder.open()
    yield embedder
    embedder.close()


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream().serving() as server:
        yield server


@pytest.fixture
def endpoint(upstream: FaultyUpstream) -> Endpoint:
    return Endpoint(base_url=upstream.url, api_key=SecretStr(SECRET), model="mock")


@pytest.fixture
async def pool() -> AsyncIterator[UpstreamPool]:
    pool = UpstreamPool()
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
def lane(endpoint: Endpoint, pool: UpstreamPool) -> OpenAiLane:
    return OpenAiLane(INFO, endpoint, pool=pool, deadlines=SHORT)
