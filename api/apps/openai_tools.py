"""Tools of the client and forms of the reply on the OpenAI face: checked here, run by the client."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.db.services.dialog_brief import ReplyForm, ReplySchema, ToolSpec
from rag.core.errors import InvalidInput
from rag.core.types import ToolCall

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
_MOST_TOOLS = 128
_NOTHING = {"type": "object", "properties": {}}


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Function(Part):
    name: Name
    description: str = ""
    parameters: dict[str, Any] | None = None


class FunctionTool(Part):
    """A tool that the client runs. OpenAI's own ones, such as web search, are not offered."""

    type: Literal["function"]
    function: Function


class Named(Part):
    name: str


class NamedTool(Part):
    type: Literal["function"]
    function: Named


Choice = Literal["none", "auto", "required"] | NamedTool


class Called(Part):
    name: Name
    arguments: str = "{}"


class CallPart(Part):
    """A call in a message of the history."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: Called

    def as_call(self) -> ToolCall:
        return ToolCall(id=self.id, name=self.function.name, arguments=self.function.arguments)


class Schema(Part):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    name: Name
    content: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(Part):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: Schema | None = None


def reply_form(
    tools: Sequence[FunctionTool], choice: Choice | None, *, parallel: bool | None, wanted: ResponseFormat | None
) -> ReplyForm:
    """The form of the reply that a request asks for. A tool that is demanded by name is the only one offered.

    Raises:
        InvalidInput: with fact `param`.
    """
    if len(tools) > _MOST_TOOLS:
        raise InvalidInput(f"A request may have up to {_MOST_TOOLS} tools.", param="tools")
    if choice not in (None, "none", "auto") and not tools:
        raise InvalidInput("`tool_choice` demands a tool, but `tools` has none.", param="tool_choice")
    mode: Literal["none", "auto", "required"] = "auto"
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
        if not tools:
            raise InvalidInput(f"`tools` has no {choice.function.name!r}.", param="tool_choice")
        mode = "required"
    elif choice is not None and tools:
        mode = choice
    schema = wanted.json_schema if wanted is not None and wanted.type == "json_schema" else None
    if wanted is not None and wanted.type == "json_schema" and schema is None:
        raise InvalidInput("`response_format.json_schema` is missing.", param="response_format.json_schema")
    return ReplyForm(
        tools=tuple(_spec(tool.function) for tool in tools),
        tool_choice=mode,
        parallel_tools=parallel is not False,
        schema=ReplySchema(name=schema.name, schema=schema.content) if schema is not None else None,
        json_object=wanted is not None and wanted.type == "json_object",
    )


def _spec(function: Function) -> ToolSpec:
    return ToolSpec(
        name=function.name, description=function.description, parameters=function.parameters or dict(_NOTHING)
    )
