"""Conversations on the page's wire (web.md section 7): rows with their messages, and messages that a client sends."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from api.apps import repr_texts
from api.apps.answer_wire import shown_texts
from api.apps.body import LARGEST, number
from api.apps.envelope import Refused, times, uncaught
from api.apps.sdk.session_wire import message_wire
from api.apps.wire_reference import EMPTY_REFERENCE, reference_wire
from api.db.services.dialog_service import Sampling
from api.db.services.records import ConversationRecord, GivenMessage, MessageRecord
from api.errors import BAD_ARGUMENT, DATA_ERROR, EXCEPTION
from rag.core.events import Failed

_ID: Final = re.compile(r"[A-Za-z0-9_-]*")
_LONGEST_ID: Final = 32
_LONGEST_MESSAGE_ID: Final = 36
_THOUGHT: Final = re.compile(r"\A<think>.*?</think>", re.DOTALL)
_SAMPLING: Final = ("temperature", "top_p", "frequency_penalty", "presence_penalty")


def conversation_row(session: ConversationRecord) -> dict[str, Any]:
    """The row of a conversation; `reference` has the sources of each answer, in order, the opener left out."""
    return made_row(session) | times(session.create_time, session.update_time)


def made_row(session: ConversationRecord) -> dict[str, Any]:
    """A conversation as it is answered when made."""
    answers = [each for each in session.messages if each.role != "user" and each.turn > 0]
    return {
        "id": session.id,
        "dialog_id": session.dialog_id,
        "name": session.name,
        "message": [message_wire(each, folded=False) for each in session.messages],
        "user_id": session.user_id,
        "reference": [_reference(each) for each in answers],
    }


def _reference(answer: MessageRecord) -> dict[str, Any]:
    return (reference_wire(answer.reference) if answer.reference else {}) or EMPTY_REFERENCE


def conversation_id_of(value: Any) -> str:
    """A client's own id for a new conversation; empty where it has none.

    Raises:
        Refused: 100 or 101, it cannot be an id.
    """
    text = _id_of(value, "conversation_id")
    if len(text) > _LONGEST_ID:
        raise Refused(EXCEPTION, repr_texts.LONG_ID[0], data=repr_texts.LONG_ID[1])
    return text


def _id_of(value: Any, key: str) -> str:
    text = "" if value is None else value
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise Refused(BAD_ARGUMENT, f"`{key}` should be a text of letters, digits, `-` and `_`.", data=None)
    return text


def messages_of(value: Any) -> list[GivenMessage]:
    """The conversation that a client sends: without system messages, and the last one the user's.

    Raises:
        Refused: 100, it is no list of messages, or empty; 101, an id that cannot be one; 102, the last is not the
            user's.
    """
    if not isinstance(value, list):
        raise uncaught(repr_texts.not_iterable(value))
    messages = [_message(each) for each in value if not _is_of_others(each)]
    if not messages:
        raise uncaught(repr_texts.EMPTY_LIST)
    if messages[-1].role != "user":
        raise Refused(DATA_ERROR, "The last content of this conversation is not from user.")
    return messages


def as_said(messages: Sequence[GivenMessage], session: ConversationRecord) -> list[GivenMessage]:
    """The messages, with what was said in answers that failed: a page sends them back as it showed them, with the text
    of the error, which is no part of the conversation."""
    failed = {each.message_id: each for each in session.messages if each.status == "failed" and each.message_id}
    found: list[GivenMessage] = []
    for each in messages:
        stored = failed.get(each.message_id) if each.role == "assistant" else None
        if stored is not None and each.content in shown_texts(_failure(stored)):
            found.append(replace(each, content=stored.content))
        else:
            found.append(each)
    return found


def _failure(answer: MessageRecord) -> Failed:
    code, _, message = answer.error.partition(": ")
    return Failed(code=code, message=message, answer=answer.content)


def _is_of_others(value: Any) -> bool:
    """Whether a message is of the system or a tool: the chat has its own prompt, and its own tools."""
    if not isinstance(value, dict):
        raise uncaught(repr_texts.wrong_type("a message must be an object", value))
    if "role" not in value:
        raise uncaught(repr_texts.missing("role"))
    return value["role"] not in ("user", "assistant")


def _message(value: dict[str, Any]) -> GivenMessage:
    if "content" not in value:
        raise uncaught(repr_texts.missing("content"))
    content = value["content"]
    if not isinstance(content, str):
        raise uncaught(repr_texts.wrong_type("content must be text", content))
    message_id = _id_of(value.get("id"), "id")
    if len(message_id) > _LONGEST_MESSAGE_ID:
        raise Refused(BAD_ARGUMENT, f"The `id` of a message has at most {_LONGEST_MESSAGE_ID} characters.", data=None)
    if value["role"] == "user":
        return GivenMessage(role="user", content=content, message_id=message_id)
    # What a model thought is shown with its answer, and is no part of the conversation.
    return GivenMessage(role="assistant", content=_THOUGHT.sub("", content), message_id=message_id)


def sampling_of(body: Mapping[str, Any]) -> Sampling:
    """The sampling settings of a body.

    Raises:
        Refused: 100, one is no number.
    """
    given = {key: number(body[key]) for key in (*_SAMPLING, "max_tokens") if body.get(key) is not None}
    most = int(min(given.get("max_tokens", 0), LARGEST))
    return Sampling(
        temperature=given.get("temperature"),
        top_p=given.get("top_p"),
        frequency_penalty=given.get("frequency_penalty"),
        presence_penalty=given.get("presence_penalty"),
        max_tokens=most if most >= 1 else None,
    )
