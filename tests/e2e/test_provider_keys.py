"""Keys of providers, the operator's and a tenant's, show nowhere, though the provider says them back in its errors.

A real server at log level debug, its worker, and a provider that repeats the key it was given."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from rag.testing.upstream import Plan
from rag.testing.upstream_process import UpstreamProcess
from tests.e2e.serving import Serving, parley, wait_ended

OPERATORS = {"OpenAI": "sk-operator-Hq7Zr2Wm9Xc4", "Anthropic": "sk-ant-operator-Jp3Tn8Vb5Kd1"}
TENANTS = {"chat": "sk-tenant-Gy6Lf0Ws2Qa9", "embedding": "sk-tenant-Bx4Mc7Re1Uh5", "wrong": "sk-wrong-Nd8Ov3Ti6Ye2"}
KEYS = (*OPERATORS.values(), *TENANTS.values())
FACTORY = "OpenAI-API-Compatible"


def plans(key: str) -> list[Plan]:
    """Ways to go wrong, each with the key in it."""
    says = f"Your key {key} is not welcome."
    error = {"message": says, "type": says, "code": says, "param": says}
    found = [Plan(fault="status", status=status, error=error) for status in (400, 401, 404, 429, 500)]
    # A reason is cut somewhere: what is left of a key there is still a part of it.
    edges = [f"{'x' * length}{key} and more" for length in (185, 385, 395, 490, 990)]
    found += [Plan(fault="status", status=401, error={"message": text}) for text in edges]
    found += [Plan(fault="error_in_stream", error=error), Plan(fault="error_in_stream", error=error, after=0)]
    found += [Plan(raw=text.encode()) for text in (says, f'{{"choices": "{says}"', f"data: {says}\n\n")]
    return [*found, Plan(raw=b"data: " + json.dumps({"error": error}).encode() + b"\n\n")]


@dataclass
class Scene:
    server: Serving
    upstream: UpstreamProcess
    client: httpx.Client
    login: str
    replies: list[str] = field(default_factory=list)

    def send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        if path.startswith(("/v1/user", "/v1/llm", "/v1/system")):
            arguments["headers"] = {"Authorization": self.login}
        reply = self.client.request(method, path, **arguments)
        self.replies.append(reply.text + repr(reply.headers))
        return reply

    def data(self, method: str, path: str, **arguments: Any) -> Any:
        body = self.send(method, path, **arguments).json()
        assert body["code"] == 0, body
        return body.get("data")

    def chat(self, model: str) -> str:
        body = {"name": model, "llm": {"model_name": model}, "prompt": {"prompt": "Be kind.", "variables": []}}
        return str(self.data("POST", "/api/v1/chats", json=body)["id"])

    def ask(self, chat: str) -> None:
        """On all faces, whole and streamed."""
        messages = [{"role": "user", "content": "Hello?"}]
        for stream in (False, True):
            for path, body in (
                (f"/api/v1/chats/{chat}/completions", {"question": "Hello?"}),
                (f"/api/v1/chats_openai/{chat}/chat/completions", {"model": "m", "messages": messages}),
                ("/v1/chat/completions", {"model": chat, "messages": messages}),
            ):
                self.send("POST", path, json=body | {"stream": stream})


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with UpstreamProcess() as upstream:
        env = {
            "PARLEY_LOG__LEVEL": "debug",
            "PARLEY_LOG__FORMAT": "json",
            "PARLEY_AUTH__REGISTER_ENABLED": "true",
            "PARLEY_MODELS__PRIVATE_ADDRESSES": "true",
            "PARLEY_DIALOG__ATTEMPTS": "1",
            "OPENAI_API_KEY": OPERATORS["OpenAI"],
            "OPENAI_BASE_URL": upstream.url,
            "ANTHROPIC_API_KEY": OPERATORS["Anthropic"],
            "ANTHROPIC_API_BASE": upstream.root,
        }
        server = Serving(tmp_path / "data", env=env)
        try:
            with server.client() as client:
                made = client.post(
                    "/v1/user/register",
                    json={"nickname": "ann", "email": "ann@example.org", "password": "correct horse"},
                    headers={"Authorization": ""},
                )
                scene = Scene(server=server, upstream=upstream, client=client, login=made.headers["Authorization"])
                token = scene.data("POST", "/v1/system/new_token")["token"]
                client.headers["Authorization"] = f"Bearer {token}"
                yield scene
        finally:
            if server.process.poll() is None:
                server.kill()


def test_no_key_shows_anywhere(scene: Scene) -> None:
    upstream, login = scene.upstream, {"llm_factory": FACTORY, "api_base": scene.upstream.url}
    chat_model = login | {"model_type": "chat", "llm_name": "mock", "api_key": TENANTS["chat"]}
    vectors = login | {"model_type": "embedding", "llm_name": "vectors", "api_key": TENANTS["embedding"]}
    for plan in plans(TENANTS["wrong"]):
        upstream.will(plan)
        body = chat_model | {"api_key": TENANTS["wrong"], "llm_name": "wrong"}
        scene.send("POST", "/v1/llm/add_llm", json=body)
        body = {"llm_factory": "VLLM", "api_key": TENANTS["wrong"], "base_url": upstream.url, "llm_name": "wrong"}
        scene.send("POST", "/v1/llm/set_api_key", json=body)
    upstream.will(Plan())
    assert scene.data("POST", "/v1/llm/add_llm", json=chat_model) is True
    assert scene.data("POST", "/v1/llm/add_llm", json=vectors) is True
    names = {
        f"mock@{FACTORY}": TENANTS["chat"],
        "gpt-4o-mini@OpenAI": OPERATORS["OpenAI"],
        "claude-haiku-4-5@Anthropic": OPERATORS["Anthropic"],
    }
    chats = {scene.chat(name): key for name, key in names.items()}
    for chat in chats:
        scene.ask(chat)
    used = {seen.headers.get("Authorization") or seen.headers.get("x-api-key") for seen in upstream.seen()}
    assert {f"Bearer {TENANTS['chat']}", f"Bearer {OPERATORS['OpenAI']}", OPERATORS["Anthropic"]} <= used
    for chat, key in chats.items():
        for plan in plans(key):
            upstream.will(plan)
            scene.ask(chat)
    ingested = ingest(scene, Plan())
    assert ingested["run"] == "DONE", ingested
    assert f"Bearer {TENANTS['embedding']}" in {seen.headers.get("Authorization") for seen in upstream.seen()}
    failed = ingest(scene, plans(TENANTS["embedding"])[1])
    assert failed["run"] == "FAIL", failed
    for path in ("/v1/llm/factories", "/v1/llm/my_llms?include_details=true", "/v1/llm/list", "/v1/user/tenant_info"):
        scene.data("GET", path)
    for path in ("/metrics", "/healthz", "/readyz", "/openapi.json", "/v1/system/config", "/v1/models"):
        scene.send("GET", path)
    for chat in chats:
        scene.send("GET", f"/api/v1/chats/{chat}/sessions")
    looked = parley("doctor", "--data-dir", scene.server.data_dir, env=scene.server.env)
    scene.replies += [looked.stdout, looked.stderr]
    _, log = scene.server.stop()
    assert "answer_failed" in log
    stored = [path for path in scene.server.data_dir.rglob("*") if path.is_file()]
    assert any(path.name == "rows.sqlite" for path in stored)
    shown = {"replies": "\n".join(scene.replies), "log": log}
    shown |= {str(path): path.read_bytes().decode("latin-1") for path in stored}
    for key in KEYS:
        for where, text in shown.items():
            for part in (key[:-6], key[-10:]):
                at = text.find(part)
                assert at < 0, f"{part!r} of {key!r} is in {where}: {text[max(0, at - 300) : at + 60]}"


def ingest(scene: Scene, plan: Plan) -> dict[str, Any]:
    """A document of a dataset with the tenant's embedding model, once its ingestion under `plan` has ended."""
    scene.upstream.will(Plan())
    body = {"name": "papers", "embedding_model": f"vectors@{FACTORY}"}
    dataset = scene.data("POST", "/api/v1/datasets", json=body)["id"]
    path = f"/api/v1/datasets/{dataset}"
    (document,) = scene.data("POST", f"{path}/documents", files={"file": ("a.md", b"The bridge opened in 1932.")})
    scene.upstream.will(plan)
    scene.data("POST", f"{path}/chunks", json={"document_ids": [document["id"]]})
    (ended,) = wait_ended(scene.client, dataset)
    scene.data("GET", f"{path}/documents")
    return ended
