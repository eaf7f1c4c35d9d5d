"""Contents of messages on the OpenAI faces: text, or parts of which some may be pictures.

A picture comes as a `data:` URL and is checked here. An address is never fetched, neither by us nor by a provider.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, cast

from pydantic import PlainValidator, WithJsonSchema

from rag.core.types import Picture

MediaType = Literal["image/png", "image/jpeg", "image/webp", "image/gif"]

MOST_PICTURES: Final = 16
"""Of one request, its history among them."""
MOST_PICTURE_BYTES: Final = 5 << 20
"""Of one picture: the least that a provider of models that see sets. The whole body has its own limit,
`server.max_body_bytes`."""
_DATA_URL: Final = re.compile(r"data:(image/[a-z]+);base64,", re.IGNORECASE)
_ALIASES: Final = {"image/jpg": "image/jpeg"}
_BEGINS: Final[Mapping[str, Callable[[bytes], bool]]] = {
    "image/png": lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
    "image/jpeg": lambda data: data.startswith(b"\xff\xd8\xff"),
    "image/webp": lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP",
    "image/gif": lambda data: data.startswith((b"GIF87a", b"GIF89a")),
}
_TYPES: Final = "PNG, JPEG, WebP or GIF"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a message says, and the pictures in it."""

    text: str
    pictures: tuple[Picture, ...] = ()


def picture_of(url: Any) -> Picture:
    """The picture in a `data:` URL.

    Raises:
        ValueError: it is something else, or its bytes are no picture of the type it names; says so in words.
    """
    if not isinstance(url, str) or not url[:5].casefold() == "data:":
        raise ValueError("pictures are not fetched from addresses: send them as data:image/...;base64,... URLs")
    head = _DATA_URL.match(url)
    named = head[1].casefold() if head else ""
    named = _ALIASES.get(named, named)
    if head is None or named not in _BEGINS:
        raise ValueError(f"a picture must be {_TYPES}, as data:image/...;base64,...")
    written = url[head.end() :]
    if len(written) > MOST_PICTURE_BYTES * 4 // 3 + 4:
        raise ValueError(f"a picture may have up to {MOST_PICTURE_BYTES >> 20} MiB: send a smaller one")
    try:
        data = base64.b64decode(written, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the picture is not valid base64") from error
    if not _BEGINS[named](data):
        raise ValueError(f"the picture's bytes are no {named}")
    return Picture(media_type=cast(MediaType, named), data=data)


def _read(content: Any) -> Contents:
    if isinstance(content, str):
        return Contents(content)
    if not isinstance(content, Sequence):
        raise ValueError("content must be text, or a list of parts")
    texts: list[str] = []
    pictures: list[Picture] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url" and isinstance(part.get("image_url"), dict):
            if len(pictures) == MOST_PICTURES:
                raise ValueError(f"a request may have up to {MOST_PICTURES} pictures")
            pictures.append(picture_of(part["image_url"].get("url")))
        else:
            raise ValueError("only parts of type text and image_url can be read here")
    return Contents("\n".join(texts), tuple(pictures))


_TEXT_PART: Final = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
_PICTURE_PART: Final = {
    "type": "object",
    "required": ["type", "image_url"],
    "description": f"A picture in a user's message: {_TYPES}, up to {MOST_PICTURE_BYTES >> 20} MiB each and "
    f"{MOST_PICTURES} in all, within what a body may have (`server.max_body_bytes`, 2 MiB unless set). Never fetched.",
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {
            "type": "object",
            "required": ["url"],
            "properties": {"url": {"type": "string", "pattern": "^data:image/(png|jpeg|webp|gif);base64,"}},
        },
    },
}
Content = Annotated[
    Contents,
    PlainValidator(_read),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [_TEXT_PART, _PICTURE_PART]}}]}),
]
"""The `content` of a message."""
