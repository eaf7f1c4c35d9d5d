"""The recorded replies of ../shared/data/sse: what each is, in which form it was sent, and its bytes.

`python -m tests.integration.rag.llm.recordings` replays all of them and writes docs/recordings.md.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

FOLDER = Path(__file__).resolve().parents[5] / "shared" / "data" / "sse"

Form = Literal[
    "chat", "responses", "anthropic", "gemini", "bedrock", "cohere", "completion", "interactions", "embedding",
    "cohere-embedding", "speech", "image", "skill", "xai-grpc",
]  # fmt: skip

_BY_FOLDER: dict[str, Form] = {
    "alibaba": "chat",
    "amazon-bedrock": "bedrock",
    "anthropic": "anthropic",
    "azure": "responses",
    "cohere": "cohere",
    "deepseek/chat": "chat",
    "google": "gemini",
    "google/interactions": "interactions",
    "groq": "chat",
    "mistral": "chat",
    "moonshotai": "chat",
    "open-responses/responses": "responses",
    "openai-compatible/chat": "chat",
    "openai/chat": "chat",
    "openai/completion": "completion",
    "openai/embedding": "embedding",
    "openai/image": "image",
    "openai/responses": "responses",
    "xai": "chat",
    "xai/responses": "responses",
    "anthropic/skills": "skill",
}
_BY_FILE: dict[str, Form] = {
    "azure-deepseek-reasoning.1.chunks.txt": "chat",
    "azure-deepseek-reasoning.1.json": "chat",
    "groq-transcription-text.json": "speech",
    "mistral-transcription.json": "speech",
    "cohere-embedding.json": "cohere-embedding",
}
_STREAM_STARTS = {
    "anthropic": ("type", "message_start"),
    "responses": ("type", "response.created"),
}
_PLACES: tuple[tuple[str, Form], ...] = (
    ("/chat/completions", "chat"),
    ("/responses", "responses"),
    ("/v1/messages", "anthropic"),
    ("/converse-stream", "bedrock"),
    (":streamGenerateContent", "gemini"),
    (":generateContent", "gemini"),
)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One reply. `events` are the JSON events of a stream, None for a whole reply; `sent` the very bytes where they
    were recorded, else they are framed from `events` or `reply`."""

    form: Form
    status: int = 200
    events: tuple[dict[str, Any], ...] | None = None
    reply: Any = None
    sent: bytes | None = None
    kind: str = ""

    @property
    def streams(self) -> bool:
        return self.events is not None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A file: usually one reply, several where a conversation was recorded. `name` is its path in the folder."""

    name: str
    exchanges: tuple[Exchange, ...]

    @property
    def form(self) -> Form:
        return self.exchanges[0].form


def recordings() -> list[Recording]:
    """All of them, by name."""
    files = sorted(path for path in FOLDER.rglob("*") if path.is_file())
    return [Recording(name=path.relative_to(FOLDER).as_posix(), exchanges=tuple(_exchanges(path))) for path in files]


def _exchanges(path: Path) -> Iterator[Exchange]:
    if path.name.endswith(".xai.yaml"):
        yield Exchange(form="xai-grpc")
    elif path.suffix == ".yaml":
        yield from _of_cassette(path)
    elif path.suffix == ".txt":
        yield from _of_chunks(path)
    else:
        yield _of_reply(path)


def _form(path: Path) -> Form:
    folder = path.parent.relative_to(FOLDER / "vercel").as_posix()
    return _BY_FILE.get(path.name) or _BY_FOLDER[folder]


def _of_chunks(path: Path) -> Iterator[Exchange]:
    """Some files hold the streams of a whole conversation, one after the other."""
    form = _form(path)
    key, first = _STREAM_STARTS.get(form, ("", ""))
    streams: list[list[dict[str, Any]]] = []
    for line in path.read_text("utf-8").split("\n"):
        if not line.strip():
            continue
        event = json.loads(line)
        if not streams or (key and event.get(key) == first):
            streams.append([])
        streams[-1].append(event)
    for events in streams:
        yield Exchange(form=form, events=tuple(events))


def _of_reply(path: Path) -> Exchange:
    form, reply = _form(path), json.loads(path.read_text("utf-8"))
    if path.name == "groq-transcription-text.json":
        return Exchange(form=form, reply=reply["body"], sent=reply["body"].encode(), kind="text/plain; charset=UTF-8")
    if set(reply) == {"error"}:
        # The recording leaves the status out; these errors come with 400.
        return Exchange(form="chat" if form == "image" else form, reply=reply, status=400)
    return Exchange(form=form, reply=reply)


def _of_cassette(path: Path) -> Iterator[Exchange]:
    for exchange in yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)["interactions"]:
        address, response = exchange["request"]["uri"].partition("?")[0], exchange["response"]
        form = next((form for end, form in _PLACES if end in address), None)
        if form is None:
            continue  # Files and stores that were made for the conversation.
        yield _recorded(form, response)


def _recorded(form: Form, response: dict[str, Any]) -> Exchange:
    status = response["status"]["code"]
    kind = response["headers"]["content-type"][0]
    text = (response.get("body") or {}).get("string")
    if text is None:
        return Exchange(form=form, status=status, reply=response["parsed_body"])
    sent = text if isinstance(text, bytes) else text.encode()
    if "eventstream" in kind:
        return Exchange(form=form, events=tuple(_unframed(sent)), sent=sent, kind=kind)
    return Exchange(form=form, events=tuple(_data_of(sent.decode())), sent=sent, kind=kind)


def _data_of(text: str) -> Iterator[dict[str, Any]]:
    """The JSON of an event stream in which each event has one line of data."""
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.startswith("data:") and line[5:].strip() != "[DONE]":
            yield json.loads(line[5:])


def _unframed(sent: bytes) -> Iterator[dict[str, Any]]:
    """The events of an AWS event stream: total length, header length, checksum, headers, payload, checksum; each header
    is a name with its length, a type (7: text) and a value with its length."""
    at = 0
    while at < len(sent):
        total, header_bytes = int.from_bytes(sent[at : at + 4]), int.from_bytes(sent[at + 4 : at + 8])
        headers, place, end = {}, at + 12, at + 12 + header_bytes
        while place < end:
            name_bytes = sent[place]
            name = sent[place + 1 : place + 1 + name_bytes].decode()
            place += name_bytes + 2
            value_bytes = int.from_bytes(sent[place : place + 2])
            headers[name] = sent[place + 2 : place + 2 + value_bytes].decode()
            place += 2 + value_bytes
        yield {headers[":event-type"]: json.loads(sent[end : at + total - 4])}
        at += total


if __name__ == "__main__":
    from tests.integration.rag.llm.report import main

    main()
