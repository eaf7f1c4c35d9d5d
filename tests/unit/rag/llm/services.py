"""What the tests of adapters share: a real upstream and calls of it."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from rag.llm.endpoint import Endpoint
from rag.llm.upstream import UpstreamPool
from rag.llm.upstream_call import UpstreamCall
from rag.testing.upstream_services import ServicesUpstream

KEY = "sk-very-secret"


@pytest.fixture
async def services() -> AsyncIterator[ServicesUpstream]:
    async with ServicesUpstream().serving() as server:
        server.key = KEY
        yield server


@pytest.fixture
def call(services: ServicesUpstream, pool: UpstreamPool) -> UpstreamCall:
    endpoint = Endpoint(base_url=services.url, api_key=SecretStr(KEY), model="m")
    return UpstreamCall("m@Here", endpoint, pool=pool, timeout_s=5.0)


@pytest.fixture
def hasty(services: ServicesUpstream, pool: UpstreamPool) -> UpstreamCall:
    endpoint = Endpoint(base_url=services.url, api_key=SecretStr(KEY), model="m")
    return UpstreamCall("m@Here", endpoint, pool=pool, timeout_s=0.2)
