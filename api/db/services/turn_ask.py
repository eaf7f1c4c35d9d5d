"""A turn that is to begin, and what beginning it needs and gives."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from api.db.services.dialog_brief import AskOptions
from api.db.services.message_rows import NewTurn
from api.db.services.records import DialogRecord
from api.db.services.turn_replacing import Replacement
from rag.core.events import DialogEvent
from rag.core.types import Principal, Turn


class Dialogs(Protocol):
    """What turns need of `DialogService`."""

    def chat(
        self,
        principal: Principal,
        dialog: DialogRecord,
        turns: tuple[Turn, ...],
        *,
        options: AskOptions | None = None,
        message_id: str = "",
        session_id: str = "",
        summary: str = "",
    ) -> AsyncGenerator[DialogEvent, None]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnHandle:
    """A turn that has begun. `stream` names its answer in the event log."""

    stream: str
    message_id: str
    session_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A turn to begin. `instead_of` is the message whose turn it takes the place of, with all later ones; `question`
    and `options` are then its own, where they are None. `history` goes over the stored one. `replacement` is what the
    session is to hold before the turn. `is_new`: the id was made here."""

    principal: Principal
    dialog_id: str
    session_id: str
    message_id: str
    question: str | None = None
    options: AskOptions | None = None
    history: tuple[Turn, ...] | None = None
    instead_of: str = ""
    replacement: Replacement | None = None
    is_new: bool = True

    @property
    def stream(self) -> str:
        # With the session: an id that a client made may be another one's as well.
        return f"{self.session_id}/{self.message_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """A turn that was put down, and what it is to be answered with. `cut` is the first turn of those before it that
    were removed or changed, None where none was."""

    dialog: DialogRecord
    added: NewTurn
    question: str
    options: AskOptions
    wants_title: bool
    cut: int | None

    @property
    def model(self) -> str:
        return self.options.model or self.dialog.llm_id
