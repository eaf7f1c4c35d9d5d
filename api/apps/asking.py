"""Questions to datasets as page and search bots ask them: by `kb_ids`, and with a `search_id` that must be empty."""

from typing import Any, NoReturn

from quart import Response

from api.apps import repr_texts
from api.apps.ask_wire import answer_from, not_supported, own_datasets, refuse_search_app
from api.apps.context import services
from api.apps.envelope import json_result, uncaught
from rag.core.types import Principal


async def ask_knowledge(principal: Principal, body: dict[str, Any]) -> Response:
    """The streamed answer of page and search bots, whose body has `question` and `kb_ids`.

    Raises:
        Refused: 100, they are of a wrong type, or no dataset is named; 102, a search app is; 103, a dataset is not
            the principal's.
    """
    refuse_search_app(body)
    question, ids = body["question"], body["kb_ids"]
    if not isinstance(question, str):
        raise uncaught(repr_texts.wrong_type("question must be text", question))
    if not ids:
        raise uncaught(repr_texts.NO_DATASET)
    if not isinstance(ids, list):
        raise uncaught(repr_texts.not_iterable(ids))
    datasets = await own_datasets(principal, ids)
    return answer_from(principal, [each.id for each in datasets], question)


async def relate(principal: Principal, body: dict[str, Any]) -> Response:
    """The related questions of page and search bots, whose body has `question`."""
    refuse_search_app(body)
    question = body["question"]
    if not isinstance(question, str):
        raise uncaught(repr_texts.wrong_type("question must be text", question))
    return json_result(await services().related.questions(principal, question))


def refuse_map(body: dict[str, Any]) -> NoReturn:
    """What is said where a mind map is asked for, whose body has `question` and `kb_ids`."""
    if not body["kb_ids"]:
        raise uncaught(repr_texts.NO_DATASET)
    raise not_supported("Mind maps are")
