from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.contract.runner import Scene
from tests.contract.world import World
from tests.e2e.serving import Serving
from tests.e2e.stacks import EMBEDDED, SERVERS, Stack


@pytest.fixture(scope="session", params=[EMBEDDED, SERVERS])
def contract_client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of one server for all rows, on each choice of backends; it sends no credential unless a row says so."""
    folder = tmp_path_factory.mktemp("contract") / "data"
    serving = Serving(folder, env=Stack(request.param, request.getfixturevalue).environment(folder))
    try:
        with serving.client() as client:
            client.headers["X-Test-Key"] = client.headers.pop("Authorization")
            signed_in = httpx.get(serving.sign_in_link(), trust_env=False)
            client.headers["X-Test-Cookie"] = signed_in.headers["Set-Cookie"].partition(";")[0]
            yield client
    finally:
        serving.stop()


@pytest.fixture(scope="session")
def contract_world(contract_client: httpx.Client) -> World:
    return World(contract_client)


@pytest.fixture
def run_row(contract_client: httpx.Client, contract_world: World) -> Callable[[Mapping[str, Any]], None]:
    """Makes the requests of one row and checks the reply."""
    contract_world.begin_row()
    return Scene(client=contract_client, make=contract_world.make).run
