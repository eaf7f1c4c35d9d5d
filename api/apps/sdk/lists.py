"""What the lists and deletions of chats and sessions have in common (README sections 8 and 9)."""

from collections.abc import Callable

from quart import Response, request

from api.apps.body import order_arg, page_args
from api.apps.envelope import Refused, partial, sdk_result
from api.db.services.records import BatchResult, Page
from api.errors import DATA_ERROR


def refused(message: str) -> Refused:
    """Code 102, to be raised."""
    return Refused(DATA_ERROR, message)


def page_of_request() -> Page:
    """`page`, `page_size`, `orderby` and `desc`; ascending only for exactly `False` or `false`."""
    number, size = page_args()
    descending = request.args.get("desc") not in ("False", "false")
    return Page(number=number, size=size, order_by=order_arg(), descending=descending)


def deleted(result: BatchResult, *, unknown: Callable[[str], str], duplicate: Callable[[str], str]) -> Response:
    """The reply to a deletion by ids.

    Args:
        unknown: The text for an id nothing was found for; these hide the duplicates.
        duplicate: The text for an id that came twice.
    Raises:
        Refused: 102, nothing was deleted.
    """
    errors = [unknown(each) for each in result.unknown]
    if errors and not result.done:
        raise refused("; ".join(errors))
    errors = errors or [duplicate(each) for each in result.duplicates]
    return partial(len(result.done), errors) if errors else sdk_result()
