"""Bodies of the OpenAI faces, validated; what we cannot do is refused by name instead of ignored."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from quart import request
from werkzeug.exceptions import RequestEntityTooLarge

from api.apps.context import services
from api.apps.openai_parts import MOST_PICTURES, Content
from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput, LimitExceeded
from rag.core.types import Turn

B = TypeVar("B", bound="Body")
_LONG_BYTES = 256 << 10
"""Bodies above this are read in a thread: they would hold the event loop."""
_LONGEST_INPUT = 2048
_LONGEST_INPUT_CHARS = 1_200_000
"""All texts together: about as many tokens as OpenAI takes in one call."""


class Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    @model_validator(mode="after")
    def _only_users_show(self) -> Self:
        if self.content.pictures and self.role != "user":
            raise ValueError("only messages of the user may have pictures")
        return self

    def as_turn(self) -> Turn:
        role = "system" if self.role == "developer" else self.role
        return Turn(role=role, content=self.content.text, pictures=self.content.pictures)


class StreamOptions(Body):
    include_usage: bool = False


class ResponseFormat(Body):
    type: str = "text"


class ChatBody(Body):
    """`POST /v1/chat/completions`. Null means the same as absent. `chat_model` is ours: another model answers."""

    model: str
    chat_model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: int | None = None
    tools: list[Any] | None = None
    logprobs: bool | None = None
    response_format: ResponseFormat | None = None

    def refuse_what_we_cannot(self) -> None:
        """Raises InvalidInput with fact `param`."""
        if self.n not in (None, 1):
            raise InvalidInput("Only one answer can be asked for: set n to 1.", param="n")
        if self.tools:
            raise InvalidInput("Tools are not offered on this route.", param="tools")
        if self.logprobs:
            raise InvalidInput("Log probabilities are not offered.", param="logprobs")
        if self.response_format is not None and self.response_format.type != "text":
            raise InvalidInput("Answers are text: leave response_format out.", param="response_format")
        if sum(len(message.content.pictures) for message in self.messages) > MOST_PICTURES:
            raise InvalidInput(f"A request may have up to {MOST_PICTURES} pictures.", param="messages")
        if self.messages[-1].role != "user":
            raise InvalidInput("The last message must come from the user.", param="messages")

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(message.as_turn() for message in self.messages)


class EmbeddingsBody(Body):
    """`POST /v1/embeddings`."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None

    @property
    def texts(self) -> Sequence[str]:
        """The texts to embed; raises InvalidInput for token arrays, nothing, or too many."""
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not texts or len(texts) > _LONGEST_INPUT:
            raise InvalidInput(f"`input` takes 1 to {_LONGEST_INPUT} texts.", param="input")
        for text in texts:
            if isinstance(text, int | list):
                raise InvalidInput("Token arrays cannot be embedded: send the text itself.", param="input")
            if not isinstance(text, str) or not text:
                raise InvalidInput("`input` takes texts that are not empty.", param="input")
        if sum(map(len, texts)) > _LONGEST_INPUT_CHARS:
            raise InvalidInput(f"`input` takes up to {_LONGEST_INPUT_CHARS:,} characters in all.", param="input")
        return texts


async def read(form: type[B]) -> B:
    """The request's body.

    Raises:
        InvalidInput: not JSON, or not of this form; fact `param` names the field.
        LimitExceeded: longer than `server.max_body_bytes`.
    """
    try:
        data = await _sent() or b"null"
        return await run_in(Lane.TEXT, _parse, form, data) if len(data) > _LONG_BYTES else _parse(form, data)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"The body is not JSON: {error}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        place = f"{param}: " if param else "The body: "
        raise InvalidInput(f"{place}{first['msg']}.", param=param) from error


async def _sent() -> bytes:
    try:
        content = await request.get_data()
    except RequestEntityTooLarge as error:
        limit = services().settings.server.max_body_bytes
        raise LimitExceeded(
            f"The request is longer than the {limit:,} bytes a body may have (server.max_body_bytes), its pictures "
            "among them: send fewer or smaller ones."
        ) from error
    return content if isinstance(content, bytes) else content.encode()


def _parse(form: type[B], data: bytes) -> B:
    return form.model_validate(orjson.loads(data))
