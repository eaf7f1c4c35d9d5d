"""Bodies of the OpenAI faces, validated. Fields of OpenAI's that would change the answer, and that we cannot do, are
refused by name; all others that are not named here are ignored."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from quart import request
from werkzeug.exceptions import RequestEntityTooLarge

from api.apps.context import services
from api.apps.openai_parts import MOST_PICTURES, Content, Contents
from api.apps.openai_tools import CallPart, Choice, FunctionTool, ResponseFormat, reply_form
from api.db.services.dialog_brief import ReplyForm
from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput, LimitExceeded
from rag.core.types import Turn

B = TypeVar("B", bound="Body")
_LONG_BYTES = 256 << 10
"""Bodies above this are read in a thread: they would hold the event loop."""
_LONGEST_INPUT = 2048
_LONGEST_INPUT_CHARS = 1_200_000
"""All texts together: about as many tokens as OpenAI takes in one call."""
_WEB_SEARCH = "The web is searched where the chat is set to do so, not by web_search_options."
_NOT_STREAMED = "`stream_options` is only allowed when `stream` is true."


class Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    def settle(self) -> None:
        """What is left to check and to make; done where the body is read, which is in a thread for long ones."""


class Message(Body):
    """Only an assistant's message that calls tools may have no content."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: Annotated[list[CallPart], Field(max_length=128)] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        calls = bool(self.tool_calls) and self.role == "assistant"
        if self.content is None and not calls:
            raise ValueError("content must be text, or a list of parts")
        if self.content is not None and self.content.pictures and self.role != "user":
            raise ValueError("only messages of the user may have pictures")
        if self.tool_calls and not calls:
            raise ValueError("only messages of the assistant may have tool_calls")
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("a message of a tool needs its tool_call_id")
        return self

    def as_turn(self) -> Turn:
        content = self.content or Contents("")
        return Turn(
            role="system" if self.role == "developer" else self.role,
            content=content.text,
            pictures=content.pictures,
            tool_calls=tuple(call.as_call() for call in self.tool_calls or ()),
            tool_call_id=(self.tool_call_id or "") if self.role == "tool" else "",
        )


class StreamOptions(Body):
    include_usage: bool = False


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
    tools: list[FunctionTool] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    response_format: ResponseFormat | None = None

    def settle(self) -> None:
        """Raises InvalidInput with fact `param`."""
        self._refuse_what_we_cannot()
        _ = self.turns, self.form

    def _refuse_what_we_cannot(self) -> None:
        for param, asked, reason in (
            ("n", self.n not in (None, 1), "Only one answer can be asked for: set n to 1."),
            ("functions", self.functions, "`functions` were replaced by `tools`: send those."),
            ("modalities", self.modalities not in (None, [], ["text"]), "Answers are text: leave modalities out."),
            ("audio", self.audio is not None, "Answers are text: leave audio out."),
            ("logprobs", self.logprobs, "Log probabilities are not offered."),
            ("top_logprobs", self.top_logprobs, "Log probabilities are not offered."),
            ("logit_bias", self.logit_bias, "Tokens cannot be made more or less likely: leave logit_bias out."),
            ("prediction", self.prediction is not None, "Predicted outputs are not offered."),
            ("web_search_options", self.web_search_options is not None, _WEB_SEARCH),
            ("stream_options", self.stream_options is not None and not self.stream, _NOT_STREAMED),
        ):
            if asked:
                raise InvalidInput(reason, param=param)
        if sum(len(message.content.pictures) for message in self.messages if message.content) > MOST_PICTURES:
            raise InvalidInput(f"A request may have up to {MOST_PICTURES} pictures.", param="messages")
        if self.messages[-1].role not in ("user", "tool"):
            raise InvalidInput("The last message must come from the user, or from a tool.", param="messages")
        self._refuse_loose_calls()

    def _refuse_loose_calls(self) -> None:
        """Providers take each call with its result, next to each other, or none of the conversation."""
        waiting: set[str] = set()
        for number, message in enumerate(self.messages):
            if message.role == "tool":
                if message.tool_call_id not in waiting:
                    raise InvalidInput(
                        f"messages.{number} answers no call of the message before it: {message.tool_call_id!r}.",
                        param=f"messages.{number}.tool_call_id",
                    )
                waiting.discard(message.tool_call_id)
                continue
            if waiting:
                raise InvalidInput(
                    f"messages.{number} comes before the tools have answered {min(waiting)!r}.",
                    param=f"messages.{number}",
                )
            waiting = {call.id for call in message.tool_calls or ()}
        if waiting:
            raise InvalidInput(f"No message of a tool answers {min(waiting)!r}.", param="messages")

    @cached_property
    def form(self) -> ReplyForm:
        """Raises InvalidInput with fact `param`."""
        return reply_form(
            self.tools or (), self.tool_choice, parallel=self.parallel_tool_calls, wanted=self.response_format
        )

    @property
    def wishes(self) -> tuple[str, ...]:
        """What system messages ask for."""
        told = (message.content for message in self.messages if message.role in ("system", "developer"))
        return tuple(content.text for content in told if content is not None and content.text.strip())

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @cached_property
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
    made = form.model_validate(orjson.loads(data))
    made.settle()
    return made
