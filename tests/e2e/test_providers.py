"""Self-hosted servers and providers, on a whole server."""

import asyncio
import time
from pathlib import Path
from typing import Any

from rag.testing.upstream_services import ServicesUpstream
from tests.e2e.serving import Serving

KEY = "sk-visible-anywhere"


async def test_discovered_models_can_be_used_and_no_key_shows(tmp_path: Path) -> None:
    async with ServicesUpstream().serving() as upstream:
        upstream.models = ["qwen3:8b", "nomic-embed-text"]
        upstream.key = KEY
        env = {
            "OLLAMA_API_BASE": upstream.url.removesuffix("/v1"),
            "OLLAMA_API_KEY": KEY,
            "PARLEY_MODELS__COMPATIBLE__LAB__BASE_URL": upstream.url,
            "PARLEY_MODELS__COMPATIBLE__LAB__API_KEY": KEY,
            "PARLEY_MODELS__COMPATIBLE__DEAD__BASE_URL": "http://127.0.0.1:9/v1",
        }
        seen, printed = await asyncio.to_thread(_used, tmp_path, env)
    assert seen >= {"nomic-embed-text@Ollama", "nomic-embed-text@lab"}
    assert {called.path for called in upstream.calls} >= {"/api/tags", "/v1/models", "/v1/embeddings"}
    assert "models not discovered" in printed
    assert KEY not in printed


def _used(data_dir: Path, env: dict[str, str]) -> tuple[set[str], str]:
    serving = Serving(data_dir, env=env)
    try:
        with serving.client() as client:
            found = _listed(client)
            embedded = client.post("/v1/embeddings", json={"model": "nomic-embed-text@lab", "input": ["one", "two"]})
            assert embedded.status_code == 200, embedded.text
            assert [len(item["embedding"]) for item in embedded.json()["data"]] == [384, 384]
            wrong = {"model": "nomic-embed-text@Ollama", "input": "x", "dimensions": 12}
            refused = client.post("/v1/embeddings", json=wrong)
            assert refused.status_code == 400
            assert "384 dimensions" in refused.text
            texts = embedded.text + refused.text + client.get("/v1/models").text
    finally:
        _, printed = serving.stop()
    assert KEY not in texts
    return found, printed


def _listed(client: Any) -> set[str]:
    """Names of the models, once both servers were asked for theirs."""
    found: set[str] = set()
    for _ in range(100):
        found = {model["id"] for model in client.get("/v1/models").json()["data"]}
        if sum("nomic" in name for name in found) == 2:
            break
        time.sleep(0.1)
    return found
