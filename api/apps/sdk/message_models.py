"""What our own routes on messages take."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.db.services.dialog_service import AskOptions, Sampling

_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens")


class Wishes(BaseModel):
    """Body of `regenerate`, and part of those of `messages` and `edit`: what this message sets.

    `llm_id` goes over the session's model, `dataset_ids` come in addition to the chat's, `doc_ids` narrow the search,
    `variables` are values of the prompt's variables.
    """

    model_config = ConfigDict(extra="forbid")

    llm_id: str = Field("", max_length=255)
    quote: bool = True
    doc_ids: list[str] = Field(default=[], max_length=1000)
    dataset_ids: list[str] = Field(default=[], max_length=1000)
    variables: dict[str, Any] = {}
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)

    def options(self) -> AskOptions:
        """As the services take it."""
        sampling = Sampling(**{name: getattr(self, name) for name in _SAMPLING})
        return AskOptions(
            quote=self.quote,
            document_ids=tuple(self.doc_ids),
            dataset_ids=tuple(self.dataset_ids),
            variables=self.variables,
            sampling=sampling if sampling != Sampling() else None,
            model=self.llm_id,
        )

    @property
    def says_nothing(self) -> bool:
        """Whether nothing is set that a question asked before should not keep."""
        return not self.model_fields_set - {"question"}


class EditMessage(Wishes):
    """Body of `edit`."""

    question: str = Field(min_length=1)


class SendMessage(EditMessage):
    """Body of `messages`. `message_id` is the client's own id of the pair."""

    message_id: str = Field("", max_length=36, pattern=r"^[A-Za-z0-9._:-]*$")


class RateMessage(BaseModel):
    """Body of `rate`: whether the answer was liked, and what was said about it."""

    model_config = ConfigDict(extra="forbid")

    up: bool
    feedback: str = Field("", max_length=10_000)


class TurnQuery(BaseModel):
    """Query of a message; `debug` adds what the model was asked with."""

    debug: str = "false"
