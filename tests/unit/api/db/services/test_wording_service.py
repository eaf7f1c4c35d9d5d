"""Questions of searches in other words."""

from typing import Any

import orjson
import pytest

from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import ModelCall
from api.db.services.wording_service import WordingService
from rag.core.errors import ModelOverloaded
from rag.core.settings import Settings
from rag.core.types import Principal, Scope
from rag.llm.base import ChatRequest
from rag.prompts.loader import load_prompts
from rag.testing.models import FixedModels
from tests.unit.api.db.services.talk import chatter

ANN = Principal(tenant_id="ann", user_id="ann", scope=Scope.API, credential="api_key", key_id="k1")
GERMAN, FRENCH = "Wie hoch ist der Turm?", "Quelle est la hauteur de la tour ?"


class Calls:
    def __init__(self) -> None:
        self.rows: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        self.rows.append(call)


def answers(request: ChatRequest) -> str:
    asked = request.turns[-1].content
    found = {"keywords": ["tower", "height"]} if "keywords" in asked else {"translations": [GERMAN, FRENCH]}
    return orjson.dumps(found).decode()


def wording(chat: Any) -> tuple[WordingService, ModelCatalogue, Calls]:
    calls = Calls()
    settings = Settings.model_validate({"models": {"chat": chat.info.name}})
    models = ModelCatalogue(settings, FixedModels([chat]), usage=calls)
    return WordingService(models, load_prompts()), models, calls


@pytest.mark.parametrize(
    ("options", "searched", "purposes"),
    [
        ({}, "How high is it?", []),
        ({"keywords": True}, "How high is it? tower height", ["keywords"]),
        ({"languages": ["German", "French"]}, f"{GERMAN}\n{FRENCH}", ["cross_languages"]),
        (
            {"languages": ["German", "French"], "keywords": True},
            f"{GERMAN}\n{FRENCH} tower height",
            ["cross_languages", "keywords"],
        ),
    ],
)
async def test_a_question_is_worded_as_asked(options: dict[str, Any], searched: str, purposes: list[str]) -> None:
    service, models, calls = wording(chatter(answers))
    assert await service.worded(ANN, "How high is it?", **options) == searched
    await models.settle()
    assert [(row.purpose, row.tenant_id, row.key_id) for row in calls.rows] == [
        (each, "ann", "k1") for each in purposes
    ]


@pytest.mark.parametrize(
    "chat",
    [
        chatter(answers, local=True),
        chatter("no JSON at all"),
        chatter(answers, fail=ModelOverloaded("Too many.", started=False)),
    ],
    ids=["local", "odd", "failing"],
)
async def test_what_a_model_cannot_word_is_searched_as_it_is(chat: Any) -> None:
    service, _, _ = wording(chat)
    assert await service.worded(ANN, "How high is it?", languages=["German"], keywords=True) == "How high is it?"


async def test_a_blank_question_asks_no_model() -> None:
    chat = chatter(answers)
    service, _, _ = wording(chat)
    assert await service.worded(ANN, " \n", languages=["German"], keywords=True) == " \n"
    assert chat.requests == []
