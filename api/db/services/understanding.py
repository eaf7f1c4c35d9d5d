"""What a model makes of a question before anything is searched: translations, keywords, conditions on metadata.

Each reply is JSON that fits a schema. Questions and values go into the prompts as JSON strings: no text of theirs can
end the place it stands in.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from rag.core.types import Turn
from rag.llm.base import ChatRequest, ReplySchema, Sampling
from rag.llm.structured import Answering, ask_json
from rag.prompts.generator import as_json
from rag.prompts.loader import Prompts

MOST_LANGUAGES: Final = 6
MOST_KEYWORDS: Final = 8
MOST_CONDITIONS: Final = 8
_LONGEST_QUESTION_CHARS: Final = 2000
_LONGEST_LANGUAGE_CHARS: Final = 60
_LONGEST_KEYWORD_CHARS: Final = 80
_LONGEST_VALUE_CHARS: Final = 200
_SAMPLING: Final = Sampling(temperature=0.0, max_tokens=1024)


async def translations(model: Answering, prompts: Prompts, question: str, languages: Sequence[str]) -> list[str]:
    """`question` in the first six of `languages`, each different text once; those of the question itself left out.

    Raises:
        ModelError: the model failed, or did not keep to the form.
    """
    asked = [language[:_LONGEST_LANGUAGE_CHARS] for language in languages[:MOST_LANGUAGES]]
    text = prompts["cross_languages"].render(languages=_json(asked), question=_quoted(question))
    reply = await ask_json(model, _request(text), _texts("translations"))
    return _clean(reply["translations"], MOST_LANGUAGES, _LONGEST_QUESTION_CHARS, besides=question)


async def keywords(model: Answering, prompts: Prompts, question: str) -> list[str]:
    """What to look for in a full-text search, at most eight terms, the most telling first.

    Raises:
        ModelError: the model failed, or did not keep to the form.
    """
    text = prompts["keywords"].render(question=_quoted(question))
    reply = await ask_json(model, _request(text), _texts("keywords"))
    return _clean(reply["keywords"], MOST_KEYWORDS, _LONGEST_KEYWORD_CHARS)


async def metadata_conditions(
    model: Answering, prompts: Prompts, question: str, *, fields: Mapping[str, Sequence[str]], operators: Sequence[str]
) -> list[tuple[str, str, str]]:
    """The (key, operator, value) that the question asks of documents, at most eight; often none.

    Args:
        fields: The keys that there are, with some of their values. No other key and no other operator can come back:
            the schema lists them, and the reply is checked against it.
    Raises:
        ModelError: the model failed, or did not keep to the form.
    """
    if not fields:
        return []
    text = prompts["metadata_filter"].render(
        operators=_json(list(operators)),
        fields=_json({key: list(fields[key]) for key in fields}),
        question=_quoted(question),
    )
    reply = await ask_json(model, _request(text), _conditions(list(fields), list(operators)))
    found = [(each["key"], each["op"], each["value"]) for each in reply["conditions"]]
    return [each for each in dict.fromkeys(found) if len(each[2]) <= _LONGEST_VALUE_CHARS][:MOST_CONDITIONS]


def _request(text: str) -> ChatRequest:
    return ChatRequest(turns=(Turn(role="user", content=text),), sampling=_SAMPLING)


def _texts(name: str) -> ReplySchema:
    return ReplySchema(name=name, schema=_object({name: {"type": "array", "items": {"type": "string"}}}))


def _conditions(keys: list[str], operators: list[str]) -> ReplySchema:
    condition = _object(
        {
            "key": {"type": "string", "enum": keys},
            "op": {"type": "string", "enum": operators},
            "value": {"type": "string"},
        }
    )
    return ReplySchema(name="metadata_filter", schema=_object({"conditions": {"type": "array", "items": condition}}))


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """Closed, all properties required: providers that can keep to a schema take only such."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _quoted(question: str) -> str:
    return as_json(question[:_LONGEST_QUESTION_CHARS])


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _clean(texts: Sequence[str], most: int, longest: int, *, besides: str = "") -> list[str]:
    """Each text once, on one line."""
    lines = dict.fromkeys(" ".join(text.split()) for text in texts)
    known = " ".join(besides.split())
    return [line for line in lines if line and line != known and len(line) <= longest][:most]
