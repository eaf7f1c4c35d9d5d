"""Reading requests the way the wire contract does: body classes V, T and R (README section 7), paging (section 8).

The parser is strict: depth at most `DEEPEST`, no NaN, no lone surrogates, numbers that fit a double; everything else
counts as malformed.
"""

from typing import Any, NoReturn

import orjson
from quart import request

from api.apps import repr_texts
from api.apps.envelope import Refused, bad_argument, uncaught
from api.errors import BAD_ARGUMENT, EXCEPTION
from rag.core.blocking import Lane, run_in

MALFORMED = "Malformed JSON syntax: Missing commas/brackets or invalid encoding"
DEEPEST = 100
"""Levels of objects and lists in a body: what we write back must not be deeper than our encoder goes."""
_LONG_BYTES = 256 << 10
LARGEST = 2**31 - 1
"""Page numbers and sizes above this are cut to it: they are past every end."""

COLUMNS = {
    "kb_id": "dataset_id",
    "parser_id": "chunk_method",
    "chunk_num": "chunk_count",
    "token_num": "token_count",
    "doc_num": "document_count",
    "embd_id": "embedding_model",
    "create_date": "create_time",
    "update_date": "update_time",
}
"""Column names of the contract's server -> fields of our records, for `orderby`."""


async def _value() -> Any:
    """The body's JSON; a large one is parsed in a thread, for it would hold the event loop.

    Raises:
        orjson.JSONDecodeError: malformed, empty or nested too deep.
    """
    content = await request.get_data()
    data = content if isinstance(content, bytes) else content.encode()
    return await run_in(Lane.TEXT, _parse, data) if len(data) > _LONG_BYTES else _parse(data)


def _parse(content: bytes) -> Any:
    value = orjson.loads(content)
    if content.count(b"[") + content.count(b"{") > DEEPEST and _depth(value) > DEEPEST:
        raise orjson.JSONDecodeError("nested too deep", "", 0)
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        below = [each for each in level if isinstance(each, dict | list)]
        level = [x for each in below for x in (each.values() if isinstance(each, dict) else each)]
    return depth


async def tolerant() -> Any:
    """Class T: None for a body that is not JSON, `{}` for one that is malformed or empty, else its value."""
    if not request.is_json:
        return None
    try:
        return await _value()
    except orjson.JSONDecodeError:
        return {}


async def raw() -> Any:
    """Class R: None for a body that is not JSON, else its value.

    Raises:
        Refused: 100, malformed or empty JSON.
    """
    if not request.is_json:
        return None
    try:
        return await _value()
    except orjson.JSONDecodeError as error:
        raise uncaught(repr_texts.BAD_REQUEST) from error


async def own() -> Any:
    """The body of our own routes: `{}` for an empty one, else its JSON value.

    Raises:
        Refused: 101 with status 400, the content is not JSON, or does not say so.
    """
    if not await request.get_data():
        return {}
    if not request.is_json:
        said = f"got {request.content_type!r}" if request.content_type else "none was given"
        raise Refused(
            BAD_ARGUMENT, f"The body must be JSON, with the content type application/json; {said}.", status=400
        )
    try:
        return await _value()
    except orjson.JSONDecodeError as error:
        text = f"The body is not JSON: {error}. NaN, Infinity and half a surrogate pair are none."
        raise Refused(BAD_ARGUMENT, text, status=400) from error


async def validated() -> dict[str, Any]:
    """Class V: an object; falsy values count as `{}`.

    Raises:
        Refused: 101, in the contract's words.
    """
    if not request.is_json:
        raise bad_argument(f"Unsupported content type: Expected application/json, got {request.content_type or ''}")
    try:
        value = await _value()
    except orjson.JSONDecodeError as error:
        raise bad_argument(MALFORMED) from error
    value = value or {}
    if not isinstance(value, dict):
        raise bad_argument(f"Invalid request payload: expected object, got {type(value).__name__}")
    return value


def as_object(value: Any, *, null: str = repr_texts.NULL_HAS_NO_GET) -> dict[str, Any]:
    """`value` if it is an object.

    Args:
        null: The text of code 100 for None; routes of the contract differ in it.
    Raises:
        Refused: 100, with what the original says for this type.
    """
    if isinstance(value, dict):
        return value
    if value is None:
        raise uncaught(null)
    raise uncaught(repr_texts.lacks(value, "get"))


async def tolerant_object(*, null: str = repr_texts.NULL_HAS_NO_GET) -> dict[str, Any]:
    """Class T, and it must be an object."""
    return as_object(await tolerant(), null=null)


async def raw_object(*, null: str = repr_texts.NULL_HAS_NO_GET) -> dict[str, Any]:
    """Class R, and it must be an object."""
    return as_object(await raw(), null=null)


async def required(*names: str, allow_form: bool = True) -> dict[str, Any]:
    """Class R with the required-argument check of the web routes: presence only, the form if the JSON is empty.

    Raises:
        Refused: 101 `required argument are missing: a,b; `.
    """
    value = await raw()
    if not value and allow_form and request.mimetype == "application/x-www-form-urlencoded":
        value = dict((await request.form).items())
    if value and not isinstance(value, dict):
        as_object(value)
    found: dict[str, Any] = value or {}
    missing = [name for name in names if name not in found]
    if missing:
        raise Refused(BAD_ARGUMENT, f"required argument are missing: {','.join(missing)}; ", data=None)
    return found


def ids_of(value: Any, key: str) -> list[str] | None:
    """The ids of a delete body (class T): None where it names none, which means all (README section 9).

    Raises:
        Refused: 100 for a body that is no object, 101 for ids that are no list of texts.
    """
    if value is None or value == {}:
        return None
    ids = as_object(value).get(key)
    if ids is None or ids == []:
        return None
    return texts(ids, key)


def texts(value: Any, key: str) -> list[str]:
    """`value` as a list of texts.

    Raises:
        Refused: 101, it is something else.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad_argument(f"`{key}` should be a list of strings")
    return value


def arg(name: str, default: str = "") -> str:
    """A query argument as text; empty means not given."""
    return request.args.get(name) or default


def int_arg(name: str, default: int, *, limit: int = LARGEST) -> int:
    """A query argument as the original's `int()` reads it, cut to +-`limit`.

    Raises:
        Refused: 100 with the repr of the ValueError.
    """
    text = request.args.get(name)
    return default if text is None else whole_number(text, limit=limit)


def whole_number(value: Any, *, limit: int = LARGEST) -> int:
    """`int(value)`, cut to +-`limit`.

    Raises:
        Refused: 100 with the repr of what `int` raised.
    """
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise uncaught(repr_texts.of_error(error)) from error
    return max(-limit, min(limit, number))


def number(value: Any) -> float:
    """`float(value)`, finite.

    Raises:
        Refused: 100 with the repr of what `float` raised.
    """
    try:
        result = float(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise uncaught(repr_texts.of_error(error)) from error
    if result != result or result in (float("inf"), float("-inf")):
        raise uncaught(repr_texts.no_number(value))
    return result


def page_args() -> tuple[int, int]:
    """`page` and `page_size` of documents, chats and sessions: page 0 is page 1, a negative one is refused.

    Raises:
        Refused: 100, with the text of the original's database.
    """
    page, size = int_arg("page", 1), int_arg("page_size", 30)
    if page < 0 or size < 0:
        raise uncaught(repr_texts.NEGATIVE_PAGE)
    return max(page, 1), size


def order_arg(default: str = "create_time") -> str:
    """`orderby`, in the words of our records."""
    name = request.args.get("orderby") or default
    return COLUMNS.get(name, name)


def unknown_column(table: str) -> NoReturn:
    """Refuse `orderby` as the original does."""
    name = request.args.get("orderby", "")
    raise Refused(EXCEPTION, repr_texts.unknown_order(table, name), data=None)
