"""What is looked at before a turn is put down."""

from dataclasses import replace

from api.db.services.message_rows import has_message
from api.db.services.owned_chats import own_session
from api.db.services.turn_ask import Ask
from api.db.services.turn_options import check_options
from api.db.services.turn_replacing import Replacement, check_replaceable
from rag.core.errors import Conflict, InvalidInput
from rag.core.ids import new_message_id

_LONGEST_ID = 36


def check_new(ask: Ask) -> None:
    """Return if the turn may be put down: who does not own the session learns nothing of its messages.

    Raises:
        NotFound: kind `chat` or `session`.
        Conflict: a message of the session has the turn's id, or would be removed unknown.
    """
    _, session = own_session(ask.principal, ask.dialog_id, ask.session_id)
    if ask.replacement is not None:
        check_replaceable(session.id, ask.replacement)
    elif has_message(session.id, ask.message_id):
        raise taken(ask)


def check_storable(ask: Ask) -> None:
    """Refuse before anything is written what could not be.

    Raises:
        Conflict: the turn's id is that of a message that is to stand before it.
        InvalidInput: a value of the options cannot be kept.
    """
    if ask.replacement is not None and any(each.message_id == ask.message_id for each in ask.replacement.messages):
        raise taken(ask)
    if ask.options is not None:
        check_options(ask.options)


def taken(ask: Ask) -> Conflict:
    """The refusal of a turn whose id is that of another one."""
    return Conflict(f"There is a message {ask.message_id!r} in this session. Choose another id.", id=ask.message_id)


def storable_replacement(given: Replacement) -> Replacement:
    """`given` as rows can hold it.

    Raises:
        InvalidInput: field `message_id`: one is too long.
    """
    messages = tuple(
        replace(each, content=storable(each.content), message_id=each.message_id and message_id_of(each.message_id))
        for each in given.messages
    )
    return replace(given, messages=messages)


def storable(text: str) -> str:
    """`text` as a row can hold it."""
    return text.encode("utf-8", "replace").decode()  # Half a surrogate pair is no text.


def message_id_of(given: str) -> str:
    """The client's own id, or a new one where it is empty.

    Raises:
        InvalidInput: field `message_id`: it has more than 36 characters.
    """
    if len(given) > _LONGEST_ID:
        raise InvalidInput(f"A message's id has at most {_LONGEST_ID} characters.", field="message_id")
    return storable(given) or new_message_id()
