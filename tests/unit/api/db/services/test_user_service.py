import pytest

from api.db.services.token_service import TokenService
from api.db.services.user_service import UserService
from rag.core.errors import Conflict, NotAllowed, NotFound
from rag.core.settings import AuthSettings
from tests.unit.api.db.services.world import World


@pytest.fixture
def users(world: World) -> UserService:
    return UserService(world.db, world.clock, AuthSettings(register_enabled=True), secret="a secret of tests")


async def test_the_first_user_is_made_once(users: UserService) -> None:
    first = await users.ensure_local_user()
    assert await users.ensure_local_user() == first


async def test_an_address_is_taken_however_it_is_written(users: UserService) -> None:
    user, token = await users.register("Ann.Straße@Example.com", " Ann 😀 ", "pass word ")
    assert user.nickname == "Ann 😀"
    for again in ("ann.strasse@example.com", "ANN.STRASSE@EXAMPLE.COM"):
        with pytest.raises(Conflict):
            await users.register(again, "x", "p")
        assert (await users.login(again, "pass word "))[0].id == user.id
    with pytest.raises(NotFound):
        await users.login("ann.strase@example.com", "pass word ")
    with pytest.raises(NotAllowed):
        await users.login("ann.strasse@example.com", "pass word")
    assert await users.principal_of_login(token) is None


async def test_logins_end_with_the_next_one_and_with_logout(users: UserService) -> None:
    _, first = await users.register("ann@example.com", "Ann", "p")
    _, second = await users.login("ann@example.com", "p")
    assert await users.principal_of_login(first) is None
    principal = await users.principal_of_login(second)
    assert principal is not None
    cookie = await users.cookie_for(principal)
    assert await users.principal_of_cookie(cookie) is not None
    await users.logout(principal)
    assert await users.principal_of_login(second) is None
    assert await users.principal_of_cookie(cookie) is None


async def test_a_tenant_s_defaults(users: UserService) -> None:
    principal = await users.ensure_local_user()
    await users.set_tenant_info(principal, {"llm_id": "extractive@Builtin ", "name": None})
    tenant = await users.tenant_info(principal)
    assert (tenant.llm_id, tenant.name) == ("extractive@Builtin ", "")


async def test_keys_are_found_by_themselves_alone(world: World, users: UserService) -> None:
    principal = await users.ensure_local_user()
    tokens = TokenService(world.db, world.clock)
    made = await tokens.create(principal, "of tests ")
    assert [one.name for one in await tokens.list(principal)] == ["of tests "]
    found = await tokens.principal_of_key(made.key)
    assert found is not None
    assert (found.tenant_id, found.key_id) == (principal.tenant_id, made.record.id)
    shared = await tokens.principal_of_share(made.share)
    assert shared is not None
    assert shared.key_id == made.record.id
    for wrong in (made.key + " ", made.key.upper(), " " + made.key, made.key + "\x00", ""):
        assert await tokens.principal_of_key(wrong) is None
        assert await tokens.principal_of_share(wrong) is None
        assert not await tokens.revoke(principal, wrong)
    assert not await tokens.revoke(principal, made.record.hint + " ")
    assert await tokens.revoke(principal, made.record.hint)
    assert not await tokens.revoke(principal, made.record.id)
    assert await tokens.principal_of_key(made.key) is None
    assert await tokens.principal_of_share(made.share) is None
