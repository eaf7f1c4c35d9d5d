"""The table of error classes, and the shape of every reply that no route made."""

from pathlib import Path

import pytest
from quart import Quart

from api.apps.gate import INTERNAL_ERROR
from api.errors import DEFAULTS, default_of
from rag.core import errors
from tests.unit.api.apps.web import Web, web


def subclasses(cls: type[errors.RagError]) -> list[type[errors.RagError]]:
    return [cls, *(below for each in cls.__subclasses__() for below in subclasses(each))]


def test_every_class_of_the_tree_has_its_own_default() -> None:
    ours = [cls for cls in subclasses(errors.RagError) if cls.__module__ == "rag.core.errors"]
    assert set(ours) == set(DEFAULTS)


@pytest.mark.parametrize("cls", subclasses(errors.RagError), ids=lambda cls: cls.__name__)
def test_defaults_are_real_codes(cls: type[errors.RagError]) -> None:
    default = default_of(cls.__new__(cls))
    assert 400 <= default.status <= 599
    assert default.code > 0
    if cls.retryable and issubclass(cls, errors.StoreError | errors.ModelError):
        assert default.status >= 500


def raising(app: Quart, path: str, error: Exception) -> None:
    async def view() -> str:
        raise error

    app.add_url_rule(path, path, view)


@pytest.fixture
async def broken(tmp_path: Path) -> Web:
    async with web(tmp_path) as site:
        for number, cls in enumerate(DEFAULTS):
            error = errors.NotFound("thing", "x") if cls is errors.NotFound else cls("words for a person")
            for prefix in ("/api/v1", "/v1/x", "/own", "/v1/chat"):
                raising(site.app, f"{prefix}/raise{number}", error)
        for prefix in ("/api/v1", "/own", "/v1/chat"):
            raising(site.app, f"{prefix}/crash", RuntimeError("the secret is 42"))
        return site


async def test_errors_no_route_caught(broken: Web) -> None:
    for number, (cls, default) in enumerate(DEFAULTS.items()):
        for prefix in ("/api/v1", "/v1/x"):
            response = await broken.send("GET", f"{prefix}/raise{number}")
            assert response.status_code == 200
            body = await response.get_json()
            assert set(body) == {"code", "message", "data"}
            assert (body["code"], body["data"]) == (default.code, None)
        response = await broken.send("GET", f"/own/raise{number}")
        assert response.status_code == default.status
        assert (await response.get_json())["code"] == cls.code
        response = await broken.send("GET", f"/v1/chat/raise{number}")
        assert response.status_code == default.status
        assert set((await response.get_json())["error"]) == {"message", "type", "param", "code"}


async def test_crashes_show_nothing(broken: Web) -> None:
    for prefix, status in (("/api/v1", 200), ("/own", 500), ("/v1/chat", 500)):
        response = await broken.send("GET", f"{prefix}/crash")
        assert response.status_code == status
        text = (await response.get_data()).decode()
        assert "secret" not in text
        if prefix != "/v1/chat":
            assert await response.get_json() == {"code": 100, "message": INTERNAL_ERROR, "data": None}


async def test_unknown_pages_outside_the_contract_have_a_status(broken: Web) -> None:
    assert (await broken.send("GET", "/nothing")).status_code == 404
    assert (await broken.send("POST", "/healthz")).status_code == 405
    assert (await broken.send("GET", "/api/v1/nothing")).status_code == 200
    response = await broken.send("GET", "/v1/chat/completions")
    assert response.status_code == 405
    assert "error" in await response.get_json()
