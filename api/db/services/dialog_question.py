"""From the last turn to what is searched for.

First the question is made complete in itself; then, side by side and where the chat switches them on, it is put into
other languages, its keywords are looked for, and conditions on the documents' metadata are made. A step that fails or
is late is left out; only what a chat's own filter shuts out never comes back in.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

import structlog

from api.db.services import understanding
from api.db.services.beside import side_by_side
from api.db.services.dialog_asking import Asking
from api.db.services.dialog_history import cleaned
from api.db.services.llm_service import LLMBundle
from api.db.services.metadata_filter import OPERATORS, Condition, Fields, manual_conditions, matching
from rag.core.blocking import Lane, run_in
from rag.core.errors import RagError
from rag.core.types import Principal, Turn
from rag.nlp.refine import rewrite
from rag.nlp.subject import heaviest_words
from rag.prompts.generator import full_question

T = TypeVar("T")
log = structlog.get_logger()

LIMIT_S: Final = 15.0
"""How long a model may take for one step."""
_REFINED_USER_TURNS: Final = 3
_LONGEST_TURN_CHARS: Final = 4000
_OFFERED_KEYS: Final = 32
_OFFERED_VALUES: Final = 20
_LONGEST_KEY_CHARS: Final = 100
_LONGEST_VALUE_CHARS: Final = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """What to search for.

    `question` is what is to be answered, complete in itself where a model made it so. `rewritten` is a text to search
    in its place where none did, no longer a question; empty if there is none. `queries` are further wordings, which are
    searched beside it. `document_ids` None leaves all documents of the datasets in, () none of them. `web` is what the
    web is searched for; None is the question, and an empty text nothing.
    """

    question: str
    rewritten: str = ""
    queries: tuple[str, ...] = ()
    document_ids: tuple[str, ...] | None = None
    web: str | None = None

    @property
    def searched(self) -> str:
        """The text to search for first."""
        return self.rewritten or self.question

    @property
    def searched_on_the_web(self) -> str:
        return self.searched if self.web is None else self.web


class Metadata(Protocol):
    """What is needed of `DocumentService`."""

    async def meta_fields(self, principal: Principal, dataset_ids: Sequence[str]) -> dict[str, dict[str, Any]]: ...


async def search_plan(
    asking: Asking, bundle: LLMBundle, metadata: Metadata, *, filter_only: bool = False
) -> SearchPlan:
    """What to search for, to answer the last turn.

    Args:
        filter_only: Only the documents are chosen, for a model that searches in its own words; the question is made
            complete only where a model makes conditions of it.
    Raises:
        StoreError: the documents' metadata, which the chat filters by, cannot be read.
        NotFound: there is no such model for this tenant.
    """
    if filter_only:
        refines = asking.brief.metadata_filter.get("method") == "auto"
        plan = await _refined(asking, bundle) if refines else SearchPlan(question=asking.question)
        return replace(plan, document_ids=await _documents(asking, bundle, metadata, plan.searched))
    plan = await _refined(asking, bundle)
    works: list[Coroutine[Any, Any, tuple[str, ...] | None]] = [
        _translated(asking, bundle, plan.searched),
        _keywords(asking, bundle, plan.searched),
        _documents(asking, bundle, metadata, plan.searched),
    ]
    translated, keywords, documents = await side_by_side(works)
    return replace(plan, queries=(*(translated or ()), *(keywords or ())), document_ids=documents)


async def _refined(asking: Asking, bundle: LLMBundle) -> SearchPlan:
    """By the model; by rule for the built-in one, and where the model does not do it."""
    plan = SearchPlan(question=asking.question)
    users = [index for index, turn in enumerate(asking.turns) if turn.role == "user"]
    if not asking.brief.refine or len(users) < 2 or not asking.question.strip():
        return plan
    recent = asking.turns[users[-_REFINED_USER_TURNS:][0] :]
    told = [cleaned(replace(turn, content=turn.content[:_LONGEST_TURN_CHARS])) for turn in recent]
    with asking.steps.timed("refine"):
        if not bundle.info.local:
            question = await _asked(asking, "refine", lambda model: full_question(model, asking.prompts, told))
            if question is not None:
                return replace(plan, question=question)
        return _by_rule(plan, recent)


def _by_rule(plan: SearchPlan, turns: Sequence[Turn]) -> SearchPlan:
    text = rewrite(turns)
    return plan if text == plan.question else replace(plan, rewritten=text)


async def _translated(asking: Asking, bundle: LLMBundle, question: str) -> tuple[str, ...]:
    """The question in the chat's languages; the built-in model knows none."""
    languages = asking.brief.cross_languages
    if not languages or bundle.info.local or not question.strip():
        return ()
    with asking.steps.timed("cross_languages"):
        found = await _asked(
            asking,
            "cross_languages",
            lambda model: understanding.translations(model, asking.prompts, question, languages),
        )
    return tuple(found or ())


async def _keywords(asking: Asking, bundle: LLMBundle, question: str) -> tuple[str, ...]:
    """The question with its keywords behind it, as one more search; without a model the heaviest words alone."""
    if not asking.brief.keywords or not question.strip():
        return ()
    with asking.steps.timed("keywords"):
        found = None
        if not bundle.info.local:
            found = await _asked(
                asking, "keywords", lambda model: understanding.keywords(model, asking.prompts, question)
            )
        if found:
            return (" ".join((question, *found)),)
        words = await run_in(Lane.TEXT, heaviest_words, question[:_LONGEST_TURN_CHARS], understanding.MOST_KEYWORDS)
        return (" ".join(words),) if words else ()


async def _documents(asking: Asking, bundle: LLMBundle, metadata: Metadata, question: str) -> tuple[str, ...] | None:
    """The documents that may be searched: those of the request that meet the chat's filter.

    A filter that matches nothing leaves none. Only a model's filter that cannot be had is as if there were none.
    """
    named = asking.brief.document_ids or None
    method = asking.brief.metadata_filter.get("method")
    by_model = method == "auto" and not bundle.info.local and bool(question.strip())
    manual = manual_conditions(asking.brief.metadata_filter.get("manual")) if method == "manual" else ()
    if not manual and not by_model:
        return named
    with asking.steps.timed("metadata_filter"):
        fields = await metadata.meta_fields(asking.principal, asking.brief.dataset_ids)
        conditions = manual or await _conditions(asking, fields, question)
        if not conditions:
            return named
        met = await run_in(Lane.TEXT, matching, fields, conditions)
    return met if named is None else tuple(sorted(set(named) & set(met)))


async def _conditions(asking: Asking, fields: Fields, question: str) -> tuple[Condition, ...]:
    """Those that a model reads out of the question; it may use only keys and operators that there are."""
    offered = await run_in(Lane.TEXT, _offered, fields)
    found = await _asked(
        asking,
        "metadata_filter",
        lambda model: understanding.metadata_conditions(
            model, asking.prompts, question, fields=offered, operators=tuple(OPERATORS)
        ),
    )
    made = tuple(Condition(key=key, operator=operator, value=value) for key, operator, value in found or ())
    if made:
        # Keys and operators are of the datasets and ours; the value is the user's text.
        log.info("metadata_filter_made", message=asking.message_id, conditions=len(made))
    return made


def _offered(fields: Fields) -> Mapping[str, Sequence[str]]:
    """The keys that most documents have, each with a few of its values."""
    counts = Counter(key for meta in fields.values() for key in meta if 0 < len(key) <= _LONGEST_KEY_CHARS)
    values: dict[str, dict[str, None]] = {key: {} for key, _ in counts.most_common(_OFFERED_KEYS)}
    for meta in fields.values():
        for key in meta.keys() & values.keys():
            stored = meta[key]
            for value in stored if isinstance(stored, list) else [stored]:
                if len(values[key]) < _OFFERED_VALUES:
                    values[key].setdefault(str(value)[:_LONGEST_VALUE_CHARS])
    return {key: tuple(known) for key, known in values.items()}


async def _asked(asking: Asking, step: str, ask: Callable[[LLMBundle], Awaitable[T]]) -> T | None:
    """What the model says; None where it fails or is late. `step` is the purpose in the usage row."""
    try:
        async with asyncio.timeout(LIMIT_S):
            return await ask(asking.bundle(step))
    except (RagError, TimeoutError) as error:
        log.warning("question_step_left_out", step=step, message=asking.message_id, error=type(error).__name__)
        return None
