"""Texts of code 100 (README section 6 of the contract): what Python says of an exception that clients can see.

All of them are here, and nowhere else. A function makes the text from what the client sent; a constant is said
whatever was sent. `api.apps.envelope.uncaught` makes the reply.
"""

from collections.abc import Iterable
from typing import Any, Final, Literal

Member = Literal["get", "split", "strip", "encode", "items"]

BAD_REQUEST: Final = "<BadRequest '400: Bad Request'>"
NULL_HAS_NO_GET: Final = "AttributeError(\"'NoneType' object has no attribute 'get'\")"
NULL_HAS_NO_SPLIT: Final = "AttributeError(\"'NoneType' object has no attribute 'split'\")"
NULL_NOT_ITERABLE: Final = "TypeError(\"argument of type 'NoneType' is not iterable\")"
NULL_NOT_ASSIGNABLE: Final = "TypeError(\"'NoneType' object does not support item assignment\")"
NO_QUESTION: Final = "TypeError(\"completion() missing 1 required positional argument: 'question'\")"
FAILED_CHECK: Final = "AssertionError()"
NO_DATASET: Final = "Exception('No KB selected')"
NEGATIVE_PAGE: Final = "1064"
"""The number of MySQL's error is the first argument of its exception, and all that is said."""
NEGATIVE_SLICE: Final = "ValueError('Search does not support negative slicing.')"
NO_CANDIDATES: Final = "ValueError('[knn] k must be greater than 0')"
ZERO_DIVISION: Final = "ZeroDivisionError('integer division or modulo by zero')"
NULL_MODEL: Final = ("1048", "Column 'llm_id' cannot be null")
"""Message and data."""
EMPTY_LIST: Final = "IndexError('list index out of range')"
LONG_ID: Final = ("1406", "Data too long for column 'id' at row 1")
"""Message and data."""
LONG_NAME: Final = ("1406", "Data too long for column 'name' at row 1")
"""Message and data."""


def taken_id(table: str, row_id: str) -> tuple[str, str]:
    """There is a row of that id: message and data."""
    return "1062", f"Duplicate entry '{row_id}' for key '{table}.PRIMARY'"


def lacks(value: Any, member: Member) -> str:
    """`value` has no attribute `member`."""
    return repr(AttributeError(f"'{type(value).__name__}' object has no attribute '{member}'"))


def not_iterable(value: Any) -> str:
    """`value` was to be walked through."""
    return repr(TypeError(f"'{type(value).__name__}' object is not iterable"))


def wrong_type(what: str, value: Any) -> str:
    """`what` was to be of another type than `value` is, such as `content must be text`."""
    return repr(TypeError(f"{what}, not {type(value).__name__}"))


def missing(key: str) -> str:
    """An object lacks `key`; also what a mandatory variable without a value gives."""
    return repr(KeyError(key))


def unknown_field(key: str, body: Iterable[str]) -> str:
    """`key` is no column that `body` may write."""
    return repr(ValueError(f'Unrecognized field name: "{key}" in {sorted(body)}.'))


def unknown_order(table: str, name: str) -> str:
    """There is no column `name` to order by."""
    return repr(AttributeError(f"type object '{table}' has no attribute '{name}'"))


def no_number(value: Any) -> str:
    """`value` is no finite number."""
    return repr(ValueError(f"could not convert string to float: {value!r}"))


def failed_lookup(text: str) -> str:
    """Something was looked up in vain, or an answer failed for no fault of its model."""
    return repr(LookupError(text))


def failed_check(text: str) -> str:
    """An assertion of the original."""
    return repr(AssertionError(text))


def failed_attribute(text: str) -> str:
    """An attribute error of the original, in words of our own."""
    return repr(AttributeError(text))


def of_error(error: Exception) -> str:
    """What a conversion of the client's value raised: an error of Python's own, never one of ours."""
    return repr(error)


def not_comparable(value: Any) -> str:
    """A text was to be compared with `value`."""
    return repr(TypeError(f"'>' not supported between instances of 'str' and '{type(value).__name__}'"))


def of_status(kind: str, status: int, name: str) -> str:
    """An HTTP error of the original's framework, `kind` being its class."""
    return f"<{kind} '{status}: {name}'>"
