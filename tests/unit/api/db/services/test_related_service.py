from typing import Any

from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import ModelCall
from api.db.services.related_service import RelatedService
from rag.core.settings import Settings
from rag.core.types import Principal, Scope
from rag.llm.base import Delta
from rag.prompts.loader import load_prompts
from rag.testing.models import FixedModels
from rag.testing.role_models import AsyncModels, Script
from rag.testing.scripted_chat import ScriptedChat

ANN = Principal(tenant_id="ann", user_id="ann", scope=Scope.API, credential="api_key", key_id="k1")


class Calls:
    def __init__(self) -> None:
        self.rows: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        self.rows.append(call)


def related(chat: Any) -> tuple[RelatedService, ModelCatalogue, Calls]:
    calls = Calls()
    settings = Settings.model_validate({"models": {"chat": chat.info.name}})
    models = ModelCatalogue(settings, FixedModels([chat]), usage=calls)
    return RelatedService(models, load_prompts()), models, calls


async def test_questions_are_the_default_models() -> None:
    script = Script(deltas=(Delta(text="1. How long is it?\n2. Who"), Delta(text=" built it?", finish="stop")))
    service, models, calls = related(AsyncModels("one@Testing", script))
    assert await service.questions(ANN, "Where is the bridge?") == ["How long is it?", "Who built it?"]
    await models.settle()
    (row,) = calls.rows
    assert (row.purpose, row.tenant_id, row.key_id, row.model) == ("related", "ann", "k1", "one@Testing")


async def test_a_model_that_only_quotes_is_not_asked() -> None:
    chat = ScriptedChat("1. Made up?")
    service, _, _ = related(chat)
    assert await service.questions(ANN, "Where is the bridge?") == []
    assert chat.requests == []


async def test_a_blank_question_has_no_relations() -> None:
    script = Script()
    service, _, _ = related(AsyncModels("one@Testing", script))
    assert await service.questions(ANN, " \n") == []
    assert script.calls == 0
