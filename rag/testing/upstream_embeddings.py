"""Replies in the form of OpenAI's embeddings: texts that share words lie near each other."""

import base64
from typing import Any

from rag.testing.hash_embedder import HashEmbedder
from rag.testing.upstream_plan import Plan


def whole(plan: Plan, body: dict[str, Any]) -> dict[str, Any]:
    """One row per text; `dimensions` of the request goes over the plan's."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else [str(text) for text in given or ()]
    embedder = HashEmbedder(dim=int(body.get("dimensions") or plan.dim))
    embedded = embedder.encode(texts)
    in_bytes = body.get("encoding_format") == "base64"
    rows: list[dict[str, Any]] = []
    for index, vector in enumerate(embedded.vectors):
        value = base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii") if in_bytes else vector.tolist()
        rows.append({"object": "embedding", "index": index, "embedding": value})
    if plan.rows == "shuffled":
        rows.reverse()
    elif plan.rows == "one_short":
        rows = rows[:-1]
    reply = {"object": "list", "data": rows, "model": body.get("model", "mock")}
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return reply | ({"usage": usage} if plan.usage else {})
