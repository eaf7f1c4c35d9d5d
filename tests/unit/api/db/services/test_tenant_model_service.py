import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from api.db.services import tenant_model_service
from api.db.services.model_calls import Books
from api.db.services.records import ModelCall
from api.db.services.secret_box import SecretBox
from api.db.services.tenant_logins import TenantLogins, parted
from api.db.services.tenant_model_service import NewModel, NothingToProbe, ProbeFailed, TenantModelService
from api.db.services.usage_ledger import CallContext, UsageLedger
from api.db.services.usage_service import UsageService
from api.db.tables import Tenant, TenantLlm, Usage, User
from rag.core.errors import InvalidInput, LimitExceeded, NotFound
from rag.core.settings import load_settings
from rag.core.types import Principal, TokenUsage
from rag.llm.base import OwnModel, ProviderLogin
from rag.llm.registry import Registry
from rag.testing.models import FixedProviders
from tests.unit.api.db.services.world import ANN, BOB, World

SECRET = "s" * 43
LOCAL = "http://127.0.0.1:1143"


@dataclass
class Tenants:
    """The service of one process, and what it is made of."""

    world: World
    secret: str = SECRET
    private: bool = False

    def __post_init__(self) -> None:
        box = SecretBox(self.secret)
        self.calls: list[ModelCall] = []
        self.asked: list[CallContext] = []
        self.spent = False
        self.ledger = UsageLedger(self)
        self.logins = TenantLogins(self.world.db, box, private=self.private)
        self.providers = FixedProviders("good", "better")
        self.service = TenantModelService(
            self.world.db,
            self.world.clock,
            box,
            logins=self.logins,
            providers=self.providers,
            books=self.books,
            private_addresses=self.private,
        )

    def books(self, context: CallContext) -> Books:
        return Books(context=context, ledger=self.ledger, clock=self.world.clock, budget=self)

    async def record(self, call: ModelCall) -> None:
        self.calls.append(call)

    async def check(self, context: CallContext) -> None:
        self.asked.append(context)
        if self.spent:
            raise LimitExceeded("The day's budget is spent.")

    def key(self, who: Principal, name: str = "large@Acme") -> str:
        found = self.logins.for_model(who.tenant_id, name, "chat")
        return found[0].api_key.get_secret_value() if found else ""

    async def superuser(self, who: Principal) -> None:
        values = {"id": who.user_id, "email": who.user_id, "email_norm": who.user_id, "nickname": "x"}
        await self.world.db.write(lambda: User.create(is_superuser=True, create_time=1, update_time=1, **values))


@pytest.fixture
def tenants(world: World) -> Tenants:
    return Tenants(world)


async def test_a_key_is_tried_kept_sealed_and_used_by_its_tenant_only(tenants: Tenants) -> None:
    await tenants.service.set_key(ANN, "acme", api_key="good")
    (login, kind, model) = tenants.providers.probed[0]
    assert (login.provider, login.api_key.get_secret_value(), kind, model) == ("Acme", "good", "chat", "small")
    assert tenants.key(ANN) == "good"
    assert tenants.key(BOB) == ""
    row = await tenants.world.db.run(lambda: TenantLlm.get())
    assert (row.tenant_id, row.provider, row.model) == ("ann", "Acme", "")
    assert "good" not in row.sealed_key


async def test_the_rows_file_holds_no_key(world: World, tmp_path: Path) -> None:
    tenants = Tenants(world)
    tenants.providers.good.add("sk-a-key-of-nobody-else")
    await tenants.service.set_key(ANN, "Acme", api_key="sk-a-key-of-nobody-else")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(b"nobody-else" not in path.read_bytes() for path in files)


async def test_a_wrong_key_is_told_without_it_and_not_kept(tenants: Tenants) -> None:
    with pytest.raises(ProbeFailed) as caught:
        await tenants.service.set_key(ANN, "Acme", api_key="badly-wrong")
    assert [(provider, model) for provider, model, _ in caught.value.failures] == [
        ("Acme", "small"),
        ("Acme", "vectors"),
        ("Acme", "ranks"),
    ]
    assert "badly-wrong" not in str(caught.value.failures)
    assert "***" in caught.value.failures[0][2]
    assert tenants.key(ANN) == ""
    assert await tenants.service.mine(ANN) == []


async def test_every_try_of_a_key_leaves_a_row_and_asks_the_budget(tenants: Tenants) -> None:
    by_key = replace(ANN, key_id="k1")
    with pytest.raises(ProbeFailed):
        await tenants.service.set_key(by_key, "Acme", api_key="badly-wrong")
    await tenants.service.set_key(by_key, "Acme", api_key="good")
    await tenants.service.add(ANN, "Acme", NewModel(name="newest", kind="embedding"))
    await tenants.ledger.settle()
    assert [(one.model, one.outcome, one.prompt_tokens, one.key_id) for one in tenants.calls] == [
        ("small@Acme", "model_error", 0, "k1"),
        ("vectors@Acme", "model_error", 0, "k1"),
        ("ranks@Acme", "model_error", 0, "k1"),
        ("small@Acme", "ok", 3, "k1"),
        ("newest@Acme", "ok", 3, ""),
    ]
    assert {(one.tenant_id, one.purpose, one.provider) for one in tenants.calls} == {("ann", "probe", "Acme")}
    assert [one.model for one in tenants.asked] == [one.model for one in tenants.calls]


async def test_no_key_is_tried_on_a_spent_budget(tenants: Tenants) -> None:
    tenants.spent = True
    with pytest.raises(LimitExceeded, match="budget"):
        await tenants.service.set_key(ANN, "Acme", api_key="good")
    with pytest.raises(LimitExceeded, match="budget"):
        await tenants.service.add(ANN, "Acme", NewModel(name="newest", kind="chat", api_key="good"))
    assert (tenants.providers.probed, tenants.calls) == ([], [])
    assert tenants.key(ANN) == ""


class SlowProviders(FixedProviders):
    """Its probes answer when `answer` is set; `most` is how many ran at once, of those that `slow` makes."""

    def __init__(self) -> None:
        super().__init__("good", "slow")
        self.answer = asyncio.Event()
        self.running = self.most = 0

    async def probe(self, login: ProviderLogin, kind: Any, model: str) -> TokenUsage:
        if login.api_key.get_secret_value() == "slow":
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await self.answer.wait()
            finally:
                self.running -= 1
        return await super().probe(login, kind, model)


async def test_a_tenants_slow_probes_hold_up_only_itself(tenants: Tenants) -> None:
    slow = SlowProviders()
    tenants.service._providers = slow
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(tenants.service.set_key(ANN, "Acme", api_key="slow"))
        while not slow.running:
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await tenants.service.set_key(BOB, "Acme", api_key="good")
        assert tenants.key(BOB) == "good"
        slow.answer.set()
    assert (slow.most, tenants.key(ANN)) == (1, "slow")


async def test_a_probe_waits_no_longer_for_its_turn_than_for_its_answer(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_model_service, "PROBE_S", 0.05)
    slow = SlowProviders()
    tenants.service._providers = slow
    tenants.service._probes = asyncio.Semaphore(1)
    async with asyncio.timeout(5), tenants.service._probes:
        with pytest.raises(ProbeFailed, match="no answer"):
            await tenants.service.set_key(BOB, "Acme", api_key="good", model="large")
    assert slow.probed == []
    with pytest.raises(ProbeFailed, match="no answer"):
        await tenants.service.set_key(BOB, "Acme", api_key="slow", model="large")
    await tenants.service.set_key(BOB, "Acme", api_key="good")
    assert slow.running == 0


async def test_a_key_is_replaced(tenants: Tenants) -> None:
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    await tenants.service.set_key(ANN, "ACME", api_key="better")
    assert tenants.key(ANN) == "better"
    assert await tenants.world.db.run(lambda: TenantLlm.select().count()) == 1


async def test_a_named_model_is_the_one_that_is_tried(tenants: Tenants) -> None:
    await tenants.service.set_key(ANN, "Acme", api_key="good", kind="rerank", model="own-ranks")
    assert tenants.providers.probed[0][1:] == ("rerank", "own-ranks")


async def test_a_provider_without_models_wants_one_named(tenants: Tenants) -> None:
    with pytest.raises(NothingToProbe):
        await tenants.service.set_key(ANN, "Ollama", api_key="good")


@pytest.mark.parametrize("name", ["Nobody", "", "__class__", "Acme@Acme"])
async def test_providers_are_a_closed_list(tenants: Tenants, name: str) -> None:
    for call in (
        tenants.service.set_key(ANN, name, api_key="good"),
        tenants.service.delete(ANN, name, "large"),
        tenants.service.delete_provider(ANN, name),
        tenants.service.enable(ANN, name, "large", on=True),
    ):
        with pytest.raises(NotFound):
            await call


async def test_own_models_are_added_and_listed_with_their_provider(tenants: Tenants) -> None:
    await tenants.superuser(ANN)
    own = OwnModel(name="qwen3", kind="chat", max_tokens=4096)
    await tenants.service.add(ANN, "Ollama", NewModel(name="qwen3", kind="chat", max_tokens=4096, base_url=LOCAL))
    (login,) = tenants.logins.for_model("ann", "Qwen3@ollama", "chat")
    assert (login.base_url, login.guarded, login.models) == (LOCAL, False, (own,))
    (mine,) = await tenants.service.mine(ANN)
    assert (mine.name, mine.provider, mine.own, mine.available, mine.base_url) == ("qwen3", "Ollama", True, True, LOCAL)
    assert await tenants.service.mine(BOB) == []
    assert "qwen3" not in [one.name for one in await tenants.service.listed(BOB)]


async def test_models_at_one_provider_may_have_addresses_of_their_own(world: World) -> None:
    tenants = Tenants(world, private=True)
    for number, kind in enumerate(("chat", "embedding")):
        new = NewModel(name=f"m{number}", kind=kind, base_url=f"{LOCAL}{number}")
        await tenants.service.add(ANN, "Ollama", new)
    assert tenants.logins.for_model("ann", "m0@Ollama", "chat")[0].base_url == f"{LOCAL}0"
    assert tenants.logins.for_model("ann", "m1@Ollama", "embedding")[0].base_url == f"{LOCAL}1"


async def test_the_login_of_one_model_is_not_that_of_its_provider(world: World) -> None:
    tenants = Tenants(world, private=True)
    new = NewModel(name="mine", kind="chat", api_key="good", base_url=LOCAL)
    await tenants.service.add(ANN, "Acme", new)
    assert tenants.key(ANN, "mine@Acme") == "good"
    assert tenants.key(ANN, "mine") == "good"
    assert tenants.logins.for_model("ann", "large@Acme", "chat") == ()
    assert tenants.logins.for_model("ann", "large", "chat") == ()
    assert tenants.logins.logins("ann") == ()
    assert [login.base_url for login in tenants.logins.further("ann")] == [LOCAL]
    assert {one.name: one.base_url for one in await tenants.service.mine(ANN)}["large"] == ""
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    assert [(one.base_url, one.models) for one in tenants.logins.logins("ann")] == [("", ())]
    assert tenants.logins.for_model("ann", "large@Acme", "chat")[0].base_url == ""
    assert tenants.logins.for_model("ann", "mine@Acme", "chat")[0].base_url == LOCAL


async def test_a_model_may_have_a_login_for_each_kind(world: World) -> None:
    tenants = Tenants(world, private=True)
    for number, kind in enumerate(("chat", "embedding")):
        await tenants.service.add(ANN, "Acme", NewModel(name="dual", kind=kind, base_url=f"{LOCAL}{number}"))
    for name in ("dual@Acme", "dual"):
        assert [one.base_url for one in tenants.logins.for_model("ann", name, "chat")] == [f"{LOCAL}0"]
        assert [one.base_url for one in tenants.logins.for_model("ann", name, "embedding")] == [f"{LOCAL}1"]
        assert [one.base_url for one in tenants.logins.for_model("ann", name, "image2text")] == [f"{LOCAL}0"]
        assert tenants.logins.for_model("ann", name, "rerank") == ()
    assert [(one.kind, one.own) for one in await tenants.service.mine(ANN) if one.name == "dual"] == [
        ("chat", True),
        ("embedding", True),
    ]


async def test_an_added_model_uses_the_key_of_its_provider(tenants: Tenants) -> None:
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    await tenants.service.add(ANN, "Acme", NewModel(name="newest", kind="chat"))
    assert tenants.key(ANN, "newest@Acme") == "good"


async def test_nothing_is_set_or_added_on_the_servers_key(tenants: Tenants) -> None:
    tenants.providers.good.add("")
    for model in ("", "very-dear"):
        with pytest.raises(InvalidInput, match="key"):
            await tenants.service.set_key(BOB, "Acme", api_key="", kind="chat", model=model)
    for model in ("very-dear", "large"):
        with pytest.raises(InvalidInput, match="key"):
            await tenants.service.add(BOB, "Acme", NewModel(name=model, kind="chat"))
    assert tenants.providers.probed == []
    assert await tenants.service.mine(BOB) == []


async def test_an_empty_key_is_enough_where_none_is_needed(world: World) -> None:
    tenants = Tenants(world, private=True)
    tenants.providers.good.add("")
    await tenants.service.set_key(ANN, "Ollama", api_key="", kind="chat", model="qwen3")
    await tenants.service.set_key(ANN, "Acme", api_key="", base_url=LOCAL)
    await tenants.service.add(ANN, "Acme", NewModel(name="newest", kind="chat"))
    await tenants.service.add(BOB, "Ollama", NewModel(name="qwen3", kind="chat"))
    assert [model for _, _, model in tenants.providers.probed] == ["qwen3", "small", "newest", "qwen3"]


@pytest.mark.parametrize(
    "new",
    [
        NewModel(name=" ", kind="chat"),
        NewModel(name="n" * 256, kind="chat"),
        NewModel(name="ﷺ" * 100, kind="chat"),
        NewModel(name="a", kind="other"),
        NewModel(name="a", kind="chat", max_tokens=-1),
        NewModel(name="a", kind="chat", max_tokens=2**40),
    ],
)
async def test_what_no_row_can_hold_is_refused(tenants: Tenants, new: NewModel) -> None:
    with pytest.raises(InvalidInput):
        await tenants.service.add(ANN, "Acme", replace(new, api_key="good"))
    assert tenants.providers.probed == []


@pytest.mark.parametrize("key", ["a\nb", "a\0b", "k" * 9000])
async def test_a_key_that_no_header_can_carry_is_refused(tenants: Tenants, key: str) -> None:
    with pytest.raises(InvalidInput, match="API key") as caught:
        await tenants.service.set_key(ANN, "Acme", api_key=key)
    assert key not in str(caught.value)


async def test_private_addresses_are_for_superusers(tenants: Tenants) -> None:
    for url in (LOCAL, "http://169.254.169.254/latest", "http://[::ffff:a9fe:a9fe]/", "file:///etc/passwd"):
        with pytest.raises(InvalidInput):
            await tenants.service.set_key(ANN, "Acme", api_key="good", base_url=url)
    await tenants.superuser(ANN)
    await tenants.service.set_key(ANN, "Acme", api_key="good", base_url=LOCAL)
    for url in ("http://169.254.169.254/latest", "http://[::ffff:a9fe:a9fe]/", "file:///etc/passwd"):
        with pytest.raises(InvalidInput):
            await tenants.service.set_key(ANN, "Acme", api_key="good", base_url=url)
    with pytest.raises(InvalidInput):
        await tenants.service.set_key(BOB, "Acme", api_key="good", base_url=LOCAL)
    assert [login.base_url for login, _, _ in tenants.providers.probed] == [LOCAL]


async def test_an_address_is_guarded_once_its_user_is_no_superuser_any_more(tenants: Tenants) -> None:
    await tenants.superuser(ANN)
    await tenants.service.set_key(ANN, "Acme", api_key="good", base_url=LOCAL)
    assert not tenants.logins.for_model("ann", "large@Acme", "chat")[0].guarded
    await tenants.world.db.write(lambda: User.update(is_superuser=False).execute())
    await tenants.service.enable(ANN, "Acme", "small", on=True)
    assert tenants.logins.for_model("ann", "large@Acme", "chat")[0].guarded


async def test_a_model_is_switched_off_and_on_again_for_its_tenant(tenants: Tenants) -> None:
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    await tenants.service.set_key(BOB, "Acme", api_key="good")
    await tenants.service.enable(ANN, "Acme", "large", on=False)
    with pytest.raises(NotFound, match="switched off"):
        tenants.logins.for_model("ann", "large@Acme", "chat")
    assert {one.name: one.enabled for one in await tenants.service.mine(ANN)} == {
        "small": True,
        "large": False,
        "vectors": True,
        "ranks": True,
    }
    assert tenants.key(BOB) == "good"
    assert tenants.key(ANN, "small@Acme") == "good"
    await tenants.service.enable(ANN, "Acme", "large", on=True)
    assert tenants.key(ANN) == "good"
    with pytest.raises(NotFound):
        await tenants.service.enable(ANN, "Acme", "nobody", on=True)


async def test_what_is_listed_no_more_is_available_only_if_it_can_be_called(tenants: Tenants) -> None:
    """An own model's login says nothing of the models beside it."""

    async def shown() -> dict[str, bool]:
        return {one.name: one.available for one in await tenants.service.listed(ANN) if one.provider == "Acme"}

    await tenants.service.add(ANN, "Acme", NewModel(name="newest", kind="chat", api_key="better"))
    await tenants.service.enable(ANN, "Acme", "large", on=False)
    del tenants.providers.kinds["large"]
    assert await shown() == {"small": False, "vectors": False, "ranks": False, "newest": True, "large": False}
    await tenants.service.enable(ANN, "Acme", "large", on=True)
    assert (await shown())["large"] is False
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    assert (await shown())["large"] is True


async def test_switching_on_again_leaves_nothing_behind(tenants: Tenants) -> None:
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    await tenants.service.add(ANN, "Acme", NewModel(name="small", kind="chat", max_tokens=77))
    for name in ("large", "small"):
        await tenants.service.enable(ANN, "Acme", name, on=False)
        await tenants.service.enable(ANN, "Acme", name, on=True)
    tenants.providers.kinds.clear()
    assert [(one.name, one.max_tokens) for one in await tenants.service.listed(ANN)] == [("small", 77)]


async def test_an_own_model_of_an_open_server_is_available_without_a_key(world: World) -> None:
    tenants = Tenants(world)
    tenants.providers.good.add("")
    await tenants.service.add(ANN, "Ollama", NewModel(name="qwen3", kind="chat"))
    (mine,) = await tenants.service.mine(ANN)
    assert (mine.name, mine.available) == ("qwen3", True)
    await tenants.service.enable(ANN, "Ollama", "qwen3", on=False)
    (mine,) = await tenants.service.mine(ANN)
    assert (mine.enabled, mine.available) == (False, False)


async def test_deleting_takes_the_own_model_or_all_of_the_provider(tenants: Tenants) -> None:
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    await tenants.service.add(ANN, "Acme", NewModel(name="newest", kind="chat", api_key="better"))
    assert tenants.key(ANN, "newest@Acme") == "better"
    await tenants.service.delete(BOB, "Acme", "newest")
    await tenants.service.delete_provider(BOB, "Acme")
    assert tenants.key(ANN, "newest@Acme") == "better"
    await tenants.service.delete(ANN, "Acme", "")
    assert tenants.key(ANN) == "good"
    await tenants.service.delete(ANN, "Acme", "NEWEST")
    assert tenants.key(ANN, "newest@Acme") == "good"
    await tenants.service.delete_provider(ANN, "Acme")
    assert tenants.key(ANN) == ""
    assert await tenants.service.mine(ANN) == []


async def test_used_tokens_are_those_of_the_tenant(tenants: Tenants) -> None:
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    await tenants.service.set_key(BOB, "Acme", api_key="good")
    usage = UsageService(tenants.world.db, tenants.world.clock)
    call = ModelCall(
        tenant_id="ann",
        model="large@Acme",
        purpose="answer",
        prompt_tokens=10,
        completion_tokens=1,
        estimated=False,
        duration_ms=1,
    )
    for taken in (call, replace(call, tenant_id="bob", prompt_tokens=1000), replace(call, prompt_tokens=5, key_id="k")):
        await usage.record(taken)
        tenants.world.clock.pass_s(86_400)
    rows = await tenants.world.db.run(lambda: list(Usage.select().where(Usage.tenant_id == "ann")))
    assert sum(row.prompt_tokens + row.completion_tokens for row in rows) == 17
    # The totals of the days say the same, and are few however many calls there were.
    await tenants.world.db.write(lambda: Usage.delete().execute())
    used = {one.name: one.used_tokens for one in await tenants.service.mine(ANN)}
    assert used == {"small": 0, "large": 17, "vectors": 0, "ranks": 0}


async def test_another_process_sees_a_change_at_its_next_look(tenants: Tenants) -> None:
    other = Tenants(tenants.world)
    await other.logins.refresh()
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    assert other.key(ANN) == ""
    await other.logins.refresh()
    assert other.key(ANN) == "good"
    await tenants.service.delete_provider(ANN, "Acme")
    await other.logins.refresh()
    assert other.key(ANN) == ""


async def test_a_key_under_another_secret_breaks_that_login_only(tenants: Tenants) -> None:
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    other = Tenants(tenants.world, secret="o" * 43)
    await other.service.set_key(BOB, "Acme", api_key="better")
    assert other.key(BOB) == "better"
    with pytest.raises(NotFound, match="PARLEY_AUTH__SECRET"):
        other.key(ANN)
    assert other.key(ANN, "qwen3@Ollama") == ""
    await other.service.set_key(ANN, "Acme", api_key="better")
    assert other.key(ANN) == "better"


async def test_a_row_moved_to_another_tenant_cannot_be_used(tenants: Tenants) -> None:
    await tenants.service.set_key(ANN, "Acme", api_key="good")
    await tenants.world.db.write(lambda: TenantLlm.update(tenant_id="bob").execute())
    other = Tenants(tenants.world)
    await other.logins.refresh()
    with pytest.raises(NotFound, match="somebody else"):
        other.key(BOB)


async def test_defaults_come_from_the_tenants_row(tenants: Tenants) -> None:
    await tenants.world.db.write(lambda: Tenant.update(llm_id="large@Acme").where(Tenant.id == "ann").execute())
    await tenants.logins.refresh()
    assert tenants.logins.default("ann", "llm_id") == "large@Acme"
    assert tenants.logins.default("ann", "embd_id") == ""
    assert tenants.logins.default("bob", "llm_id") == ""
    assert tenants.logins.default("nobody", "llm_id") == ""


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a@B", ("a", "B")),
        ("a", ("a", "")),
        ("BAAI/bge-m3@x@B", ("BAAI/bge-m3@x", "B")),
        ("qwen___VLLM@VLLM", ("qwen", "VLLM")),
        ("qwen___OpenAI-API@OpenAI-API-Compatible", ("qwen", "OpenAI-API-Compatible")),
        ("qwen___other@VLLM", ("qwen___other", "VLLM")),
    ],
)
def test_names_are_parted_at_the_last_at(name: str, parts: tuple[str, str]) -> None:
    assert parted(name) == parts


@pytest.mark.parametrize("part", ["sk-1\\r\\nX-Evil: 1", "sk-\\u043a"])
async def test_a_part_of_a_key_that_no_header_takes_is_told_without_it(tenants: Tenants, part: str) -> None:
    registry = Registry(load_settings(environ={}))
    box = SecretBox(SECRET)
    service = TenantModelService(
        tenants.world.db, tenants.world.clock, box, logins=tenants.logins, providers=registry, books=tenants.books
    )
    with pytest.raises(ProbeFailed) as caught:
        await service.set_key(ANN, "OpenAI", api_key=f'{{"api_key": "{part}"}}')
    await registry.close()
    assert {reason for _, _, reason in caught.value.failures} == {"'api_key' of the key must be printable ASCII."}
    assert await tenants.service.mine(ANN) == []
