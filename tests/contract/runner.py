"""The wire contract as data: YAML rows become tests against a real server.

A file holds a list of rows:

    - name: the words of the test's id
      before: [request, ...]          # made first, must answer code 0, or what `fails` says; `save: {name: data.id}`
                                      # keeps values, `find: {name: pattern}` what is found in `data`, a text
      request:
        method: POST                  # default GET
        path: /api/v1/chats/${chat}
        json: {...}                   # or `body: text` with `type: text/plain`, or `query: {...}`
        files: [[file, a.txt, text]]  # or an upload, with `form: {...}` fields
        auth: key                     # key (default), page, share, none, wrong, or the header itself
      status: 200                     # default 200
      reply: {code: 102, message: ...}
      frames: [...]                   # instead of `reply`: the payloads of a stream, `[DONE]` included; the first
                                      # or last of them where `...` stands for the others

`reply` must match the whole body; a mapping with the key `...` may have more keys, and `frames` whose first is `...`
may have more before the others. Texts that begin with `$`
match kinds of values: `$any`, `$text`, `$int`, `$float`, `$id`, `$list`, `$object`, `$re:<pattern>`.
`${name}` is replaced by what `before` saved or by an object of `world.World`, made when first named in a row.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

HERE = Path(__file__).resolve().parent
_SLOT = re.compile(r"\$\{(\w+)\}")
_KINDS: dict[str, Callable[[Any], bool]] = {
    "$any": lambda value: True,
    "$text": lambda value: isinstance(value, str),
    "$int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "$float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "$id": lambda value: isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value) is not None,
    "$list": lambda value: isinstance(value, list),
    "$object": lambda value: isinstance(value, dict),
}


def rows(name: str) -> list[Any]:
    """The rows of `<name>.yaml` as parameters of a test."""
    loaded = yaml.safe_load((HERE / f"{name}.yaml").read_text("utf-8"))
    return [pytest.param(row, id=row["name"].replace(" ", "-")) for row in loaded]


@dataclass
class Scene:
    """What one row can name: values it saved, and objects that `make` creates when first named."""

    client: httpx.Client
    make: Callable[[str], str]
    saved: dict[str, str] = field(default_factory=dict)

    def fill(self, value: Any) -> Any:
        """`value` with every `${name}` in its texts replaced."""
        if isinstance(value, str):
            return _SLOT.sub(lambda match: self._value(match[1]), value)
        if isinstance(value, Mapping):
            return {self.fill(key): self.fill(item) for key, item in value.items()}
        return [self.fill(item) for item in value] if isinstance(value, list) else value

    def _value(self, name: str) -> str:
        if name not in self.saved:
            self.saved[name] = self.make(name)
        return self.saved[name]

    def send(self, request: Mapping[str, Any]) -> httpx.Response:
        wanted = self.fill(dict(request))
        headers: dict[str, str] = dict(wanted.get("headers", {}))
        auth = wanted.get("auth", "key")
        known = {"key": self.client.headers["X-Test-Key"], "wrong": "Bearer ragflow-nobody", "none": None}
        if auth == "share":
            known["share"] = f"Bearer {self._value('share')}"
        if auth == "page":
            known["page"] = None
            headers |= page_headers(self.client)
        credential = known.get(auth, auth)
        if credential is not None:
            headers["Authorization"] = credential
        content: dict[str, Any] = {}
        if "json" in wanted:
            content["json"] = wanted["json"]
        elif "files" in wanted:
            content["files"] = [(part, (file, text.encode())) for part, file, text in wanted["files"]]
            content["data"] = wanted.get("form")
        elif "body" in wanted:
            content["content"] = wanted["body"].encode()
            headers["Content-Type"] = wanted.get("type", "application/json")
        return self.client.request(
            wanted.get("method", "GET"),
            wanted["path"],
            params=wanted.get("query"),
            headers=headers,
            follow_redirects=True,
            **content,
        )

    def run(self, row: Mapping[str, Any]) -> None:
        """Make the row's requests and check its reply."""
        for step in row.get("before", ()):
            body = self.send(step).json()
            assert body.get("code", 0) == step.get("fails", 0), f"before: {body}"
            for name, pattern in step.get("find", {}).items():
                self.saved[name] = found_in(body, pattern)
            for name, path in step.get("save", {}).items():
                self.saved[name] = dig(body, path)
        response = self.send(row["request"])
        assert response.status_code == row.get("status", 200), response.text
        if "frames" in row:
            found: Any = frames_of(response.text)
            found, expected = shortened(found, row["frames"])
        else:
            found = response.json()
            expected = row["reply"]
        differences = list(differing(found, self.fill(expected), "$"))
        assert not differences, f"{differences}\n{response.text[:2000]}"


def page_headers(client: httpx.Client) -> dict[str, str]:
    """What a browser sends with a request of the page: the cookie of whoever owns the key, and where it comes from."""
    return {"Cookie": client.headers["X-Test-Cookie"], "Origin": str(client.base_url).rstrip("/")}


def frames_of(text: str) -> list[Any]:
    """The payloads of a stream."""
    frames = [part.removeprefix("data:").strip() for part in text.split("\n\n") if part]
    return [frame if frame == "[DONE]" else json.loads(frame) for frame in frames]


def shortened(found: list[Any], expected: list[Any]) -> tuple[list[Any], list[Any]]:
    """Both without the frames that `...` stands for, of which there may be any number."""
    if "..." not in expected:
        return found, expected
    place = expected.index("...")
    rest = [*expected[:place], *expected[place + 1 :]]
    if len(found) < len(rest):
        return found, rest
    return found[:place] + found[len(found) - (len(rest) - place) :], rest


def found_in(body: Any, pattern: str) -> str:
    """The group of `pattern` in the text that is `data`."""
    found = re.search(pattern, body["data"])
    assert found is not None, body
    return found[1]


def dig(value: Any, path: str) -> Any:
    """The value at a dotted path such as `data.0.id`."""
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def differing(found: Any, expected: Any, place: str) -> list[str]:
    """Where `found` is not what the row says, in words; empty where it matches."""
    if isinstance(expected, str) and expected.startswith("$re:"):
        matches = isinstance(found, str) and re.search(expected[4:], found) is not None
        return [] if matches else [f"{place}: {found!r} does not match {expected[4:]!r}"]
    if isinstance(expected, str) and expected in _KINDS:
        return [] if _KINDS[expected](found) else [f"{place}: {found!r} is not {expected}"]
    if isinstance(expected, dict) and isinstance(found, dict):
        return _differing_objects(found, expected, place)
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return [f"{place}: {len(found)} items instead of {len(expected)}"]
        pairs = enumerate(zip(found, expected, strict=True))
        return [line for i, (a, b) in pairs for line in differing(a, b, f"{place}[{i}]")]
    same = found == expected and isinstance(found, bool) == isinstance(expected, bool)
    return [] if same else [f"{place}: {found!r} instead of {expected!r}"]


def _differing_objects(found: dict[str, Any], expected: dict[str, Any], place: str) -> list[str]:
    named = {key: value for key, value in expected.items() if key != "..."}
    lines = [f"{place}.{key}: missing" for key in named if key not in found]
    if "..." not in expected:
        lines += [f"{place}.{key}: not expected" for key in found if key not in named]
    for key, value in named.items():
        if key in found:
            lines += differing(found[key], value, f"{place}.{key}")
    return lines
