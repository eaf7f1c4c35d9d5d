"""The whole web app on a real data folder, in this process, with people in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from quart import Quart, Response

from api.app import create_app, opened_services
from api.apps.context import WebState
from api.db.services.container import Services
from api.db.services.token_service import secret_hash
from rag.core.clock import SystemClock
from rag.core.settings import Settings, load_settings
from rag.core.types import Principal, Scope
from rag.queue.embedded import ServerQueue

LINK_TOKEN = "the-link's-token"


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody with every kind of credential."""

    principal: Principal
    email: str
    key: str
    share: str
    login: str
    cookie: str

    def headers(self, credential: str) -> dict[str, str]:
        """The headers that carry one of `key`, `login`, `share`, `cookie`."""
        return {
            "key": {"Authorization": f"Bearer {self.key}"},
            "login": {"Authorization": self.login},
            "share": {"Authorization": f"Bearer {self.share}"},
            "cookie": {"Cookie": f"parley-9380={self.cookie}", "Origin": "http://localhost"},
        }[credential]


@dataclass(frozen=True, kw_only=True)
class Web:
    app: Quart
    services: Services
    state: WebState
    settings: Settings

    async def send(self, method: str, path: str, who: Person | None = None, **arguments: Any) -> Response:
        """One request; with `who` by the credential that the path takes, or by what `headers` say."""
        headers = dict(arguments.pop("headers", {}))
        if who is not None:
            headers = who.headers(_credential(path)) | headers
        if "content" in arguments:
            arguments["data"] = arguments.pop("content")
            headers.setdefault("Content-Type", "application/json")
        return await self.app.test_client(use_cookies=False).open(path, method=method, headers=headers, **arguments)

    async def call(self, method: str, path: str, who: Person | None = None, **arguments: Any) -> Any:
        """One request; the decoded body."""
        response = await self.send(method, path, who, **arguments)
        return orjson.loads(await response.get_data())

    async def person(self, name: str) -> Person:
        email = f"{name}@example.org"
        user, login = await self.services.users.register(email, name, "correct horse")
        principal = Principal(tenant_id=user.id, user_id=user.id, scope=Scope.WEB, credential="login_token")
        token = await self.services.tokens.create(principal)
        cookie = await self.services.users.cookie_for(principal)
        return Person(principal=principal, email=email, key=token.key, share=token.share, login=login, cookie=cookie)

    async def dataset(self, who: Person, name: str, *files: str) -> tuple[str, list[str]]:
        """A dataset with small text files: its id and theirs."""
        made = await self.call("POST", "/api/v1/datasets", who, json={"name": name})
        dataset = made["data"]["id"]
        documents = []
        for file in files:
            body, content_type = multipart(("file", file, b"Some words about " + file.encode()))
            reply = await self.call(
                "POST",
                f"/api/v1/datasets/{dataset}/documents",
                who,
                content=body,
                headers={"Content-Type": content_type},
            )
            documents.append(reply["data"][0]["id"])
        return dataset, documents


def _credential(path: str) -> str:
    """What opens `path`."""
    if path.startswith(("/api/v1/chatbots", "/api/v1/searchbots", "/v1/conversation/getsse")):
        return "share"
    by_login = path.startswith(("/v1/user", "/v1/system", "/v1/llm", "/v1/dialog", "/v1/conversation"))
    return "login" if by_login else "key"


def multipart(*parts: tuple[str, str | None, bytes]) -> tuple[bytes, str]:
    """A body of (field, file name or None, content) parts, and its content type."""
    pieces = []
    for field, file, content in parts:
        quoted = (file or "").replace("\\", "\\\\").replace('"', '\\"')
        head = f'form-data; name="{field}"' + ("" if file is None else f'; filename="{quoted}"')
        pieces.append(b"--edge\r\nContent-Disposition: " + head.encode() + b"\r\n\r\n" + content + b"\r\n")
    return b"".join(pieces) + b"--edge--\r\n", "multipart/form-data; boundary=edge"


@asynccontextmanager
async def web(folder: Path, **overrides: Any) -> AsyncIterator[Web]:
    """The app, started without loading what is heavy."""
    tree = {"data_dir": folder / "data", "auth": {"register_enabled": True}} | overrides
    settings = load_settings(tree, environ={}, env_file=folder / "no.env")
    async with opened_services(settings, SystemClock(), ServerQueue()) as services:
        state = WebState(port=9380, link_hash=secret_hash(LINK_TOKEN))
        yield Web(app=create_app(settings, services, state), services=services, state=state, settings=settings)
