"""What differs between families of providers. A model's family is `endpoint.family`, a frozen value.

Whoever writes a request in the form of OpenAI's chat completions uses it so, whatever carries the request:

    family.validate_tools(request.tools)                     raises InvalidInput before the call
    family.parameters(tool.parameters)                       a tool's schema as the provider takes it
    family.messages(messages, has_tools=bool(body_tools))    the messages as the provider takes them
    family.fields(fields, model=..., reasoning=...)          all other fields: sampling, tools, tool_choice, ...
    family.asks_usage                                        whether to send `stream_options: {include_usage: true}`
    family.gives_reasoning_back                              whether `Turn.reasoning` of a tool round goes back, as
                                                             `reasoning_content` of the assistant's message
    family.strict_tools                                      whether `strict` may be sent with a tool

None of these changes its argument and none keeps anything. `validate_tools` and `parameters` walk the schemas: keep
their outcome per (provider, model, tool set). What a model can do is in `ModelInfo.capabilities`, as conf/models.yaml
lists it, or as `capabilities_of` guesses.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from rag.core.errors import InvalidInput
from rag.llm.base import Capabilities, ToolSpec
from rag.llm.providers.schema_walk import schemas_in, without

Caching = Literal["none", "automatic", "marked"]
Message = Mapping[str, Any]

_SEES: Final = re.compile(
    r"vision|(^|[-_.\d/])vl|llava|pixtral|gpt-4o|gpt-4\.1|gpt-5|gemma-?3|gemini|claude|llama-?4|glm-4(\.\d)?v", re.I
)
_THINKS: Final = re.compile(
    r"(^|[-/])o[134](-|$)|gpt-5|gpt-oss|deepseek-r|-r1|reason|think|qwq|qwen-?3|magistral", re.I
)
_CLAUDE: Final = re.compile(r"(^|[^a-z])claude([^a-z]|$)", re.I)
_MAX_SCHEMAS_BYTES: Final = 256 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The strategy of a family, as values; what takes code is a subclass.

    `refused` and `refused_at_root` are schema keywords that the provider turns down and that change which arguments
    fit; `dropped` are those that are left out instead. `fixed_sampling`: reasoning models take `max_completion_tokens`
    and no sampling fields. `calls_need_tools`: a history with tool calls is refused where no tools are sent.
    `unsent` fields are left out, `renamed` ones are sent by another name.
    """

    name: str
    max_tools: int = 128
    tool_name: str = r"[a-zA-Z0-9_-]{1,64}"
    max_description_chars: int = 0
    refused: frozenset[str] = frozenset()
    refused_at_root: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    asks_usage: bool = True
    gives_reasoning_back: bool = False
    strict_tools: bool = False
    fixed_sampling: bool = False
    calls_need_tools: bool = False
    renamed: tuple[tuple[str, str], ...] = ()
    unsent: frozenset[str] = frozenset()
    json_schema: bool = True
    caching: Caching = "none"

    def capabilities_of(self, model: str) -> Capabilities:
        """What a model that is listed nowhere can probably do, by its name. Tools are supposed: a server that has none
        says so on the first call."""
        return Capabilities(
            tools=True,
            parallel_tools=True,
            json_schema=self.json_schema,
            vision=_SEES.search(model) is not None,
            reasoning=_THINKS.search(model) is not None,
            prompt_caching=self.caching,
        )

    def validate_tools(self, tools: Sequence[ToolSpec]) -> None:
        """Refuse what the provider would refuse.

        Raises:
            InvalidInput: too many tools, a name, description or schema that the family does not take. The message
                names the tool and what to change.
        """
        if len(tools) > self.max_tools:
            raise InvalidInput(
                f"{len(tools)} tools are more than the {self.max_tools} that {self.name} takes.", field="tools"
            )
        seen: set[str] = set()
        size = 0
        for tool in tools:
            if tool.name in seen:
                raise InvalidInput(f"Two tools have the name {tool.name!r}.", field="tools")
            seen.add(tool.name)
            self._validate_names(tool)
            size += self._validate_schema(tool)
            if size > _MAX_SCHEMAS_BYTES:
                raise InvalidInput(f"The tools' schemas are larger than {_MAX_SCHEMAS_BYTES} bytes.", field="tools")

    def parameters(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """`schema` as the provider takes it: a copy without what is only dropped."""
        return without(schema, self.dropped) if self.dropped else dict(schema)

    def messages(self, messages: Sequence[Message], *, has_tools: bool) -> list[dict[str, Any]]:
        """`messages` (in OpenAI's form) as the provider takes them; `has_tools`: the request offers tools."""
        if self.calls_need_tools and not has_tools:
            return told_in_words(messages)
        return [dict(message) for message in messages]

    def fields(self, fields: Mapping[str, Any], *, model: str = "", reasoning: bool = False) -> dict[str, Any]:
        """All fields of a request but its messages, as the provider takes them.

        Claude refuses `temperature` and `top_p` together from 4.5 on, whoever serves it: the former counts.

        Args:
            model: The model's name at the provider.
            reasoning: Whether it thinks.
        """
        names = dict(self.renamed)
        found = {names.get(name, name): value for name, value in fields.items() if name not in self.unsent}
        if "temperature" in found and self.maybe_claude(model):
            found.pop("top_p", None)
        return found

    def maybe_claude(self, model: str) -> bool:
        """Whether Anthropic's Claude may answer by this name."""
        return _CLAUDE.search(model) is not None

    def _validate_names(self, tool: ToolSpec) -> None:
        if re.fullmatch(self.tool_name, tool.name) is None:
            raise InvalidInput(f"{self.name} takes no tool with the name {tool.name[:80]!r}.", field="tools")
        limit = self.max_description_chars
        if limit and len(tool.description) > limit:
            raise InvalidInput(
                f"The description of tool {tool.name!r} is longer than the {limit} characters that {self.name} takes.",
                field="tools",
            )

    def _validate_schema(self, tool: ToolSpec) -> int:
        """The size of the tool's schema in bytes."""
        try:
            size = len(orjson.dumps(dict(tool.parameters)))
        except TypeError as error:
            raise InvalidInput(f"The schema of tool {tool.name!r} is not JSON: {error}.", field="tools") from error
        if tool.parameters.get("type") != "object":
            raise InvalidInput(f"The schema of tool {tool.name!r} must be of type 'object'.", field="tools")
        found = {keyword for schema in schemas_in(tool.parameters) for keyword in schema} & self.refused
        found |= self.refused_at_root & tool.parameters.keys()
        if found:
            raise InvalidInput(
                f"{self.name} takes no {', '.join(map(repr, sorted(found)))} in the schema of a tool; write that of "
                f"{tool.name!r} without.",
                field="tools",
            )
        return size


def told_in_words(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """`messages` with tool calls and their results as plain text, in the order they came."""
    names: dict[str, str] = {}
    told: list[dict[str, Any]] = []
    results = False
    for message in messages:
        calls = message.get("tool_calls") or ()
        if message.get("role") == "tool":
            name = names.get(str(message.get("tool_call_id")), "a tool")
            text = f"Result of {name}:\n{message.get('content') or ''}"
            if results:
                told[-1]["content"] += "\n\n" + text
            else:
                told.append({"role": "user", "content": text})
            results = True
            continue
        results = False
        plain = {key: value for key, value in message.items() if key != "tool_calls"}
        if calls:
            names |= {str(call["id"]): str(call["function"]["name"]) for call in calls}
            lines = [f"(Used {call['function']['name']} with {call['function']['arguments']})" for call in calls]
            plain["content"] = "\n".join([*filter(None, [plain.get("content")]), *lines])
        told.append(plain)
    return told


def without_empty(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """`messages` without assistant's messages that say nothing, which several providers refuse."""
    return [
        dict(message)
        for message in messages
        if message.get("role") != "assistant" or message.get("content") or message.get("tool_calls")
    ]


COMPATIBLE: Final = Family(name="the OpenAI-compatible server")
"""Any server that speaks OpenAI's chat completions, of which no more is known."""
