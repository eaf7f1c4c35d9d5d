"""The command line's view of a server: the same HTTP API that every other client uses."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from rag.core.errors import InvalidInput, NotFound, RagError, StoreUnavailable

_PAGE = 200
_TIMEOUT = httpx.Timeout(30.0, read=600.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One document's way in. `run` is UNSTART, RUNNING, CANCEL, DONE or FAIL; `progress` 0 to 1, -1 when failed."""

    document_id: str
    name: str
    run: str
    progress: float
    message: str
    stage: str
    pages_done: int
    pages_total: int
    chunk_count: int

    @property
    def ended(self) -> bool:
        return self.run in ("DONE", "FAIL", "CANCEL")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A cited passage: `number` is the n of `[ID:n]`, `page` starts at 1 or is None."""

    number: int
    document: str
    page: int | None
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A piece of an answer: new text, or at the end the final text and the sources it cites."""

    text: str = ""
    final: str | None = None
    sources: tuple[Source, ...] = ()


class ApiClient:
    """Calls of one server with one API key. Raises RagError subclasses with the server's own words."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=_TIMEOUT,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def dataset_id(self, name: str, *, create: bool = False) -> str:
        """The id of the dataset called `name`.

        Raises:
            NotFound: there is none and `create` is false.
        """
        found = await self._call("GET", "/api/v1/datasets", params={"page_size": 1000}, unwrap="data")
        for item in found:
            if item["name"].casefold() == name.casefold():
                return str(item["id"])
        if not create:
            names = ", ".join(repr(item["name"]) for item in found[:10]) or "none yet"
            raise NotFound(
                "dataset",
                name,
                f"No dataset {name!r}. There are: {names}. `parley ingest {name} FILE` makes it.",
            )
        created = await self._call("POST", "/api/v1/datasets", json={"name": name}, unwrap="data")
        return str(created["id"])

    async def upload(self, dataset_id: str, path: Path) -> str:
        """Upload one file and return its document id."""
        with path.open("rb") as stream:
            documents = await self._call(
                "POST",
                f"/api/v1/datasets/{dataset_id}/documents",
                files={"file": (path.name, stream)},
                unwrap="data",
            )
        return str(documents[0]["id"])

    async def parse(self, dataset_id: str, document_ids: Sequence[str]) -> None:
        """Start ingesting uploaded documents."""
        await self._call(
            "POST",
            f"/api/v1/datasets/{dataset_id}/chunks",
            json={"document_ids": list(document_ids)},
            unwrap=None,
        )

    async def progress(self, dataset_id: str, document_ids: Sequence[str]) -> list[Progress]:
        """Where these documents are, in the order asked; those that were deleted meanwhile are left out."""
        result: list[Progress] = []
        for start in range(0, len(document_ids), _PAGE):
            items = await self._call(
                "POST",
                f"/api/v1/datasets/{dataset_id}/progress",
                json={"document_ids": list(document_ids[start : start + _PAGE])},
                unwrap="data",
            )
            result.extend(Progress(**item) for item in items)
        return result

    async def retrieve(self, dataset_id: str, question: str, *, size: int) -> list[dict[str, Any]]:
        """The best chunks for a question, in the contract's shape."""
        body = {
            "dataset_ids": [dataset_id],
            "question": question,
            "page_size": size,
            "similarity_threshold": 0.0,
        }
        found = await self._call("POST", "/api/v1/retrieval", json=body, unwrap="data")
        return list(found["chunks"])

    async def ask(self, dataset: str, question: str, *, model: str = "") -> AsyncIterator[Answer]:
        """Stream an answer over the dataset called `dataset`."""
        body = {
            "model": f"dataset:{dataset}",
            "messages": [{"role": "user", "content": question}],
            "stream": True,
        }
        if model:
            body["chat_model"] = model
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise _openai_error(await response.aread())
                async for line in response.aiter_lines():
                    if not line.startswith("data:") or line.endswith("[DONE]"):
                        continue
                    frame = orjson.loads(line.removeprefix("data:"))
                    if "error" in frame:
                        raise RagError(str(frame["error"].get("message", "The answer failed.")))
                    yield _answer_piece(frame)
        except httpx.TransportError as error:
            raise StoreUnavailable(
                f"The server at {self.base_url} does not answer: {error or type(error).__name__}."
            ) from error

    async def ready(self) -> dict[str, Any]:
        """What `/readyz` says, ready or not."""
        try:
            response = await self._http.get("/readyz", timeout=5)
            return dict(orjson.loads(response.content))
        except (httpx.TransportError, orjson.JSONDecodeError) as error:
            raise StoreUnavailable(
                f"The server at {self.base_url} does not answer: {error or type(error).__name__}."
            ) from error

    async def wait_ready(self, *, timeout_s: float = 60.0) -> None:
        """Return once the server is warm.

        Raises:
            StoreUnavailable: it is not after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            state = await self.ready()
            if state.get("status") == "ready":
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"The server is not ready after {timeout_s:.0f} s: {state}. See `parley doctor`."
                )
            await asyncio.sleep(0.1)

    async def _call(self, method: str, path: str, *, unwrap: str | None, **arguments: Any) -> Any:
        try:
            response = await self._http.request(method, path, **arguments)
            reply = orjson.loads(response.content)
        except httpx.TransportError as error:
            raise StoreUnavailable(
                f"The server at {self.base_url} does not answer: {error or type(error).__name__}."
            ) from error
        except orjson.JSONDecodeError as error:
            raise StoreUnavailable(
                f"The server at {self.base_url} sent no JSON (HTTP {response.status_code})."
            ) from error
        if not isinstance(reply, dict) or reply.get("code") != 0 or (unwrap and unwrap not in reply):
            raise InvalidInput(str(reply.get("message") if isinstance(reply, dict) else reply))
        return reply[unwrap] if unwrap else None


def page_of(positions: Sequence[Sequence[int]] | None) -> int | None:
    """The first page of `[page, left, right, top, bottom]` boxes; None for formats without pages.

    For those the contract puts a chunk's number into all five places, which is a box without extent.
    """
    if not positions:
        return None
    page, left, right, top, bottom = positions[0]
    return None if left == right and top == bottom else page


def _openai_error(body: bytes) -> RagError:
    try:
        return InvalidInput(str(orjson.loads(body)["error"]["message"]))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return StoreUnavailable(f"The server answered: {body[:200]!r}")


def _answer_piece(frame: dict[str, Any]) -> Answer:
    delta = frame["choices"][0]["delta"] if frame.get("choices") else {}
    references = delta.get("references")
    if references is None:
        return Answer(text=delta.get("content") or "")
    sources = tuple(
        Source(
            number=number,
            document=item["document_name"],
            page=page_of(item.get("positions")),
            text=item["content"],
        )
        for number, item in enumerate(references)
    )
    return Answer(text=delta.get("content") or "", final=delta.get("final_content"), sources=sources)


@asynccontextmanager
async def connected(base_url: str, key_file: Path) -> AsyncIterator[ApiClient]:
    """A client of the server at `base_url` with the key that `key_file` holds.

    Raises:
        InvalidInput: the key file cannot be read; the message says how to make a key.
    """
    try:
        key = key_file.read_text("utf-8").strip()
    except OSError as error:
        raise InvalidInput(
            f"Cannot read the key file {os.fspath(key_file)!r} ({error.strerror}). "
            f"`parley token create --data-dir {os.fspath(key_file.parent)}` prints a new key."
        ) from error
    client = ApiClient(base_url, key)
    try:
        yield client
    finally:
        await client.close()
