import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.tenant_model_service import NewModel
from api.db.tables import Tenant
from rag.core.errors import LimitExceeded, ModelRefused, NotFound
from rag.core.settings import load_settings
from rag.core.types import Principal, Turn
from rag.llm.base import ChatRequest, Reranked
from rag.llm.embedding import ProviderEmbedder, Rows
from rag.testing.hash_embedder import HashEmbedder
from rag.testing.models import FixedModels
from rag.testing.scripted_chat import ScriptedChat
from tests.unit.api.db.services.test_tenant_model_service import Tenants
from tests.unit.api.db.services.world import ANN, BOB, World, principal

REQUEST = ChatRequest(turns=(Turn(role="user", content="Hello?"),))


class Ranks:
    name = "ranks@Acme"

    async def rerank(self, question: str, passages: Sequence[str]) -> Reranked:
        return Reranked(scores=np.ones(len(passages), np.float32), tokens=3)


class Voice:
    name = "voice@Acme"

    async def speak(self, text: str) -> AsyncIterator[bytes]:
        yield text.encode()


class NoBudget:
    async def check(self, context: object, model: str = "") -> None:
        raise LimitExceeded("The day's budget is spent.")


@pytest.fixture
def source() -> FixedModels:
    names = ("large@Acme", "qwen@VLLM", "extractive@Builtin", "small@Acme")
    embedders = [HashEmbedder(name=name) for name in ("minilm@Builtin", "vectors@Acme")]
    return FixedModels([ScriptedChat(name=name) for name in names], embedders, others=[Ranks(), Voice()])


@pytest.fixture
async def tenants(world: World) -> Tenants:
    made = Tenants(world)
    await made.service.set_key(ANN, "Acme", api_key="good")
    await made.service.set_key(BOB, "Acme", api_key="better")
    return made


@pytest.fixture
def models(tenants: Tenants, source: FixedModels) -> ModelCatalogue:
    return ModelCatalogue(load_settings(environ={}), source, logins=tenants.logins)


def keys(source: FixedModels) -> list[str]:
    """The key that each model was asked for with."""
    found = [login.api_key.get_secret_value() for _, logins in source.asked for login in logins[:1] or [None] if login]
    source.asked.clear()
    return found


def test_each_tenant_calls_with_its_own_login(models: ModelCatalogue, source: FixedModels) -> None:
    models.bundle_chat("large@Acme", tenant_id="ann")
    models.bundle_chat("large@Acme", tenant_id="bob")
    models.bundle_chat("large", tenant_id="bob")
    assert keys(source) == ["good", "better", "better"]
    models.bundle_chat("large@Acme", tenant_id="carl")
    models.bundle_chat("large@Acme")
    assert models.exists("large@Acme", "chat")
    assert keys(source) == []


def test_all_roles_take_the_tenants_login(models: ModelCatalogue, source: FixedModels) -> None:
    assert models.bundle_rerank("ranks@Acme", tenant_id="ann").name == "ranks@Acme"
    assert models.bundle_speak("voice@Acme", tenant_id="ann").name == "voice@Acme"
    for missing in (models.bundle_describe, models.bundle_transcribe):
        with pytest.raises(NotFound):
            missing("ranks@Acme", tenant_id="ann")
    assert keys(source) == ["good"] * 4


async def test_defaults_are_the_tenants(tenants: Tenants, models: ModelCatalogue) -> None:
    assert models.default_chat("ann") == "extractive@Builtin"
    with pytest.raises(NotFound, match="No default rerank model"):
        models.bundle_rerank(tenant_id="ann")
    changes = {"llm_id": "large@Acme", "embd_id": "vectors@Acme", "rerank_id": "ranks@Acme", "tts_id": "voice@Acme"}
    await tenants.world.db.write(lambda: Tenant.update(**changes).where(Tenant.id == "ann").execute())
    await tenants.service.enable(ANN, "Acme", "small", on=True)
    assert models.default_chat("ann") == "large@Acme"
    assert models.default_embedding("ann") == "vectors@Acme"
    assert models.bundle_chat(tenant_id="ann").name == "large@Acme"
    assert models.bundle_rerank(tenant_id="ann").name == "ranks@Acme"
    assert models.bundle_speak(tenant_id="ann").name == "voice@Acme"
    assert models.default_chat("bob") == "extractive@Builtin"
    assert models.default_embedding("bob") == "minilm@Builtin"


async def test_a_default_that_is_gone_is_passed_over(tenants: Tenants, models: ModelCatalogue) -> None:
    await tenants.world.db.write(lambda: Tenant.update(llm_id="gone@Acme").execute())
    await tenants.service.enable(ANN, "Acme", "small", on=True)
    assert models.default_chat("ann") == "extractive@Builtin"


async def test_what_is_switched_off_is_not_there(tenants: Tenants, models: ModelCatalogue) -> None:
    assert "large@Acme" in models.names("chat", "ann")
    await tenants.service.enable(ANN, "Acme", "large", on=False)
    assert not models.exists("large@Acme", "chat", "ann")
    assert "large@Acme" not in models.names("chat", "ann")
    with pytest.raises(NotFound, match="switched off"):
        models.bundle_chat("large@Acme", tenant_id="ann")
    assert models.exists("large@Acme", "chat", "bob")


@pytest.mark.parametrize("who", [ANN, principal("carl")])
async def test_what_is_switched_off_does_not_answer_by_its_bare_name(
    tenants: Tenants, models: ModelCatalogue, who: Principal
) -> None:
    for name, kind in (("small", "chat"), ("vectors", "embedding"), ("ranks", "rerank")):
        await tenants.service.enable(who, "Acme", name, on=False)
        assert not models.exists(name, kind, who.tenant_id)  # type: ignore[arg-type]
        assert models.exists(name, kind, "bob")  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="switched off"):
        models.bundle_chat("small", tenant_id=who.tenant_id)
    with pytest.raises(NotFound, match="switched off"):
        models.bundle_embed("vectors", tenant_id=who.tenant_id)
    with pytest.raises(NotFound, match="switched off"):
        models.bundle_rerank("ranks", tenant_id=who.tenant_id)
    with pytest.raises(NotFound, match="switched off"):
        models.resolve("small", "chat", who.tenant_id)
    assert models.bundle_rerank("ranks", tenant_id="bob").name == "ranks@Acme"


async def test_own_models_at_further_addresses_are_named(world: World, source: FixedModels) -> None:
    tenants = Tenants(world, private=True)
    for number in range(2):
        new = NewModel(name=f"v{number}", kind="embedding", base_url=f"http://127.0.0.1:{1000 + number}")
        await tenants.service.add(ANN, "Ollama", new)
    models = ModelCatalogue(load_settings(environ={}), source, logins=tenants.logins)
    assert "v1@Ollama" in models.embedding_models("ann")
    assert models.embedding_models("bob") == ["minilm@Builtin", "vectors@Acme"]


def test_the_suffix_of_own_servers_is_not_part_of_the_name(models: ModelCatalogue, source: FixedModels) -> None:
    assert models.bundle_chat("qwen___VLLM@VLLM", tenant_id="ann").name == "qwen@VLLM"


async def test_fallbacks_that_are_gone_are_left_out(tenants: Tenants) -> None:
    broken = ScriptedChat(name="broken@Acme", fail=ModelRefused("No."))
    models = ModelCatalogue(
        load_settings(environ={"PARLEY_DIALOG__ATTEMPTS": "1"}),
        FixedModels([broken, ScriptedChat("Hello.", name="large@Acme")]),
        logins=tenants.logins,
    )
    bundle = models.bundle_chat("broken@Acme", tenant_id="ann", fallbacks=["gone@Acme", "large@Acme"])
    assert (await bundle.chat(REQUEST))[0] == "Hello."


async def test_a_budget_is_asked_first(source: FixedModels) -> None:
    models = ModelCatalogue(load_settings(environ={}), source, budget=NoBudget())
    with pytest.raises(LimitExceeded):
        await models.bundle_chat("large@Acme").chat(REQUEST)


class Remote:
    """A server of embeddings that does not say how long its vectors are, nor what it read."""

    def __init__(self) -> None:
        self.calls = 0

    async def embed(self, texts: Sequence[str], *, query: bool) -> Rows:
        self.calls += 1
        return Rows(np.ones((len(texts), 5), dtype=np.float32), 0)


async def test_learning_a_length_is_on_the_books(tenants: Tenants) -> None:
    wire = Remote()
    source = FixedModels(embedders=[ProviderEmbedder("vectors@Acme", wire), HashEmbedder(name="minilm@Builtin", dim=7)])
    models = ModelCatalogue(load_settings(environ={}), source, usage=tenants, budget=tenants)
    for _ in range(2):
        assert await models.measure("vectors@Acme", "ann", key_id="k1") == 5
        assert await models.measure("minilm@Builtin", "ann") == 7
    await models.settle()
    assert wire.calls == 1
    calls = [call for call in tenants.calls if call.purpose != "probe"]
    assert [(one.tenant_id, one.key_id, one.model, one.purpose) for one in calls] == [
        ("ann", "k1", "vectors@Acme", "measure")
    ]
    assert (calls[0].prompt_tokens, calls[0].estimated) == (1, True)
    assert [asked.purpose for asked in tenants.asked if asked.purpose != "probe"] == ["measure"]


async def test_no_length_is_learnt_on_a_spent_budget() -> None:
    wire = Remote()
    source = FixedModels(embedders=[ProviderEmbedder("vectors@Acme", wire)])
    models = ModelCatalogue(load_settings(environ={}), source, budget=NoBudget())
    with pytest.raises(LimitExceeded):
        await models.measure("vectors@Acme", "ann")
    assert wire.calls == 0


def test_the_first_provider_that_has_a_model_is_the_default() -> None:
    class WithKey(FixedModels):
        providers = ("Acme",)

    source = WithKey([ScriptedChat(name="extractive@Builtin"), ScriptedChat(name="large@Acme")])
    assert ModelCatalogue(load_settings(environ={}), source).default_chat() == "large@Acme"


@pytest.mark.parametrize("with_tenants", [True, False])
async def test_servers_are_asked_for_their_models_again_and_again(
    tenants: Tenants, source: FixedModels, with_tenants: bool
) -> None:
    settings = load_settings(environ={"PARLEY_MODELS__DISCOVER_S": "0.05"})
    models = ModelCatalogue(settings, source, logins=tenants.logins if with_tenants else None)
    watching = asyncio.create_task(models.watch(0.2))
    async with asyncio.timeout(5):
        while source.discovered < 3:
            await asyncio.sleep(0.02)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
