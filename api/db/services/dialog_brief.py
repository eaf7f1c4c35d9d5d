"""What one answer is to be made from: the chat's settings and the call's own, resolved and checked once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from api.db.services.records import DialogRecord
from api.db.services.web_pages import WEB_KEY
from rag.core.errors import InvalidInput
from rag.llm.base import ModelInfo, ReplySchema, Sampling, ToolSpec
from rag.prompts.loader import slots

__all__ = [
    "AskOptions",
    "Brief",
    "ReplyForm",
    "ReplySchema",
    "ToolSpec",
    "brief_of_ask",
    "brief_of_dialog",
    "sampling_of",
]

KNOWLEDGE = "knowledge"
CHARS_PER_TOKEN = 16
"""Ordinary text has about four: a text of more than this many times a model's context cannot fit it."""
_BLANK = " "
_WISH = "wish "
_ASK_CHUNKS = 12
_ASK_THRESHOLD = 0.1
_ASK_WEIGHT = 0.3
_ASK_CANDIDATES = 1024
_MOST_NAMES = 32
_NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyForm:
    """The form that a client wants the reply in.

    `tools` are the client's own: the model may call them, the calls end the answer, and the client runs them. They take
    the place of the server's tools. `schema` or `json_object` ask for JSON, which carries no citation marks.
    """

    tools: tuple[ToolSpec, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    parallel_tools: bool = True
    schema: ReplySchema | None = None
    json_object: bool = False

    def refuse_what_cannot(self, info: ModelInfo) -> None:
        """Raises InvalidInput: the model cannot reply in this form. Said before anything is searched."""
        can = info.capabilities
        if self.tools and not can.tools:
            lacking = "use tools"
        elif self.schema is not None and not can.json_schema:
            lacking = "keep to a JSON schema"
        elif self.json_object and info.local:
            lacking = "write JSON"
        else:
            return
        raise InvalidInput(f"The model {info.name!r} cannot {lacking}. Choose one that can, or leave that out.")

    @property
    def is_json(self) -> bool:
        return self.json_object or self.schema is not None

    @property
    def is_free(self) -> bool:
        """Whether the reply is text and nothing else."""
        return not self.tools and not self.is_json


@dataclass(frozen=True, kw_only=True, slots=True)
class AskOptions:
    """What a single call may set.

    `dataset_ids` come in addition to the chat's; `variables` are the values of the prompt's variables; `sampling`
    goes over the chat's settings where it says something, or, with `own_sampling`, takes their place. `model` is asked
    instead of the chat's. `wishes` are further instructions, which follow the chat's system text. `speech` off keeps a
    chat that speaks silent, for callers that have no use for its audio.
    """

    quote: bool = True
    document_ids: tuple[str, ...] = ()
    dataset_ids: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    sampling: Sampling | None = None
    own_sampling: bool = False
    model: str = ""
    form: ReplyForm = ReplyForm()
    wishes: tuple[str, ...] = ()
    speech: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Brief:
    """One answer's settings.

    `system` is the system text with its slots still open, `values` fills them. `dataset_ids` are searched unless
    empty; those in `must_exist` are an error if they are gone, the others are left out then. `tools` are names of tools
    and of MCP servers, None where the chat leaves it to the settings; `agentic` leaves the searching to the model.
    `fallbacks` are the models to ask when `model` cannot answer, in order.

    What the chat switches on: `keywords` are looked for in the question and searched as well, `cross_languages` are the
    languages that the question is searched in, `metadata_filter` is the contract's `meta_data_filter`, `rerank` names a
    model that orders what was found, `web_key` is the key of the web search (sealed, see `web_pages`), `web_by_model`
    lets what a model writes go there too although it has read the datasets, `reasoning` searches in several rounds,
    `headings` adds passages below the headings of the best ones, `speech` says the answer aloud.
    """

    model: str
    system: str
    values: Mapping[str, str]
    empty_response: str
    quote: bool
    refine: bool
    dataset_ids: tuple[str, ...]
    must_exist: frozenset[str]
    document_ids: tuple[str, ...]
    similarity_threshold: float
    vector_similarity_weight: float
    top_n: int
    top_k: int
    sampling: Sampling
    dialog_id: str | None = None
    tools: tuple[str, ...] | None = ()
    agentic: bool = False
    fallbacks: tuple[str, ...] = ()
    keywords: bool = False
    cross_languages: tuple[str, ...] = ()
    metadata_filter: Mapping[str, Any] = field(default_factory=dict)
    rerank: str = ""
    web_key: str = field(default="", repr=False)
    web_by_model: bool = False
    reasoning: bool = False
    headings: bool = False
    speech: bool = False
    form: ReplyForm = ReplyForm()

    def refuse_what_cannot(self, info: ModelInfo) -> None:
        """Raises InvalidInput: the model cannot reply in this form, the call's own instructions leave no room for
        sources, or the values of the prompt's variables are longer than its context, each as often as the prompt names
        it. Said before anything is searched."""
        self.form.refuse_what_cannot(info)
        wished = sum(len(value) for key, value in self.values.items() if key.startswith(_WISH))
        if wished > info.context_tokens:  # A quarter of it, or more.
            raise InvalidInput(
                f"The system messages have {wished:,} characters, which leaves {info.name!r} no room for sources: "
                "shorten them.",
                field="messages",
            )
        filled = self.filled_chars()
        if sum(filled.values()) > info.context_tokens * CHARS_PER_TOKEN:
            longest = max(filled, key=lambda key: (not key.startswith(_WISH), filled[key]))
            raise InvalidInput(
                f"The value of {longest!r} would take {filled[longest]:,} characters of the prompt, more than "
                f"{info.name!r} can read: shorten it, or name it less often.",
                field=longest,
            )

    def filled_chars(self) -> dict[str, int]:
        """The characters that the value of each variable in the system text will take there."""
        named = slots(self.system)
        return {key: times * len(self.values[key]) for key, times in named.items() if key in self.values}

    @property
    def searches(self) -> bool:
        """Whether there is anything to search: datasets, or the web."""
        return bool(self.dataset_ids or self.web_key)


def brief_of_dialog(dialog: DialogRecord, options: AskOptions) -> Brief:
    """The settings of a chat for one call.

    Raises:
        InvalidInput: a mandatory variable has no value; fact `field` names it.
    """
    config = dialog.prompt_config
    parameters = _parameters(config)
    has_knowledge = any(key == KNOWLEDGE for key, _ in parameters)
    attached = tuple(dict.fromkeys((*dialog.dataset_ids, *options.dataset_ids)))
    slots, wishes = _wished(options)
    return Brief(
        model=options.model or dialog.llm_id,
        system=str(config.get("system") or "") + slots,
        values=_values(parameters, options.variables) | wishes,
        # What is said when nothing is found would be no JSON, and would keep the client's tools from being called.
        empty_response=str(config.get("empty_response") or "") if options.form.is_free else "",
        quote=options.quote and bool(config.get("quote", True)) and dialog.do_refer != "0" and not options.form.is_json,
        refine=bool(config.get("refine_multiturn", True)),
        dataset_ids=attached if has_knowledge else (),
        must_exist=frozenset(options.dataset_ids),
        document_ids=options.document_ids,
        similarity_threshold=dialog.similarity_threshold,
        vector_similarity_weight=dialog.vector_similarity_weight,
        top_n=dialog.top_n,
        top_k=dialog.top_k,
        sampling=_merge(Sampling() if options.own_sampling else sampling_of(dialog.llm_setting), options.sampling),
        dialog_id=dialog.id or None,
        tools=_names(config.get("tools")),
        agentic=config.get("agentic") is True,
        fallbacks=_names(dialog.llm_setting.get("fallback_models")) or (),
        keywords=config.get("keyword") is True,
        cross_languages=_names(config.get("cross_languages")) or (),
        metadata_filter=dialog.meta_data_filter if isinstance(dialog.meta_data_filter, dict) else {},
        rerank=dialog.rerank_id,
        web_key=str(config.get(WEB_KEY) or "") if has_knowledge else "",
        web_by_model=config.get("web_search_by_model") is True,
        reasoning=config.get("reasoning") is True,
        headings=config.get("toc_enhance") is True,
        speech=options.speech and config.get("tts") is True,
        form=options.form,
    )


def brief_of_ask(dataset_ids: Sequence[str], options: AskOptions, *, model: str, system: str) -> Brief:
    """The settings of a question to datasets without a chat."""
    wanted = tuple(dict.fromkeys((*dataset_ids, *options.dataset_ids)))
    slots, wishes = _wished(options)
    return Brief(
        model=model,
        system=system + slots,
        values={key: str(value) for key, value in options.variables.items() if key != KNOWLEDGE} | wishes,
        empty_response="",
        quote=options.quote and not options.form.is_json,
        refine=True,
        dataset_ids=wanted,
        must_exist=frozenset(wanted),
        document_ids=options.document_ids,
        similarity_threshold=_ASK_THRESHOLD,
        vector_similarity_weight=_ASK_WEIGHT,
        top_n=_ASK_CHUNKS,
        top_k=_ASK_CANDIDATES,
        sampling=options.sampling or Sampling(temperature=0.1),
        form=options.form,
    )


def _wished(options: AskOptions) -> tuple[str, dict[str, str]]:
    """Slots for the call's own instructions, to follow the system text, and what fills them. A blank in the name keeps
    variables of clients out: what they name is no slot."""
    values = {f"{_WISH}{number}": wish for number, wish in enumerate(options.wishes)}
    return "".join(f"\n\n{{{key}}}" for key in values), values


def sampling_of(setting: Mapping[str, Any]) -> Sampling:
    """The numbers of a chat's model settings; what is no number counts as not set."""
    numbers = {key: _number(setting.get(key)) for key in (*_NUMBERS, "max_tokens")}
    most = numbers["max_tokens"]
    return Sampling(
        temperature=numbers["temperature"],
        top_p=numbers["top_p"],
        presence_penalty=numbers["presence_penalty"],
        frequency_penalty=numbers["frequency_penalty"],
        max_tokens=int(most) if most is not None and most >= 1 else None,
    )


def _names(listed: Any) -> tuple[str, ...] | None:
    """The names in a list of a chat's settings, each once; None where there is no list."""
    if not isinstance(listed, list):
        return None
    return tuple(dict.fromkeys(name for name in listed if isinstance(name, str) and name))[:_MOST_NAMES]


def _merge(base: Sampling, over: Sampling | None) -> Sampling:
    if over is None:
        return base
    names = [each.name for each in fields(Sampling)]
    chosen = {name: getattr(over, name) for name in names}
    return Sampling(**{name: getattr(base, name) if chosen[name] in (None, ()) else chosen[name] for name in names})


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _parameters(config: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """The prompt's variables as (key, optional); what is malformed is left out."""
    listed = config.get("parameters")
    items = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [(str(each["key"]), bool(each.get("optional"))) for each in items if "key" in each]


def _values(parameters: Sequence[tuple[str, bool]], given: Mapping[str, Any]) -> dict[str, str]:
    values = {key: str(value) for key, value in given.items()}
    for key, optional in parameters:
        if key == KNOWLEDGE or key in values:
            continue
        if not optional:
            raise InvalidInput(f"Miss parameter: {key}", field=key)
        values[key] = _BLANK
    values.pop(KNOWLEDGE, None)
    return values
