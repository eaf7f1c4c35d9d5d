"""Credentials: each carrier, each scope, cookies, links, hosts, origins."""

import re

import orjson
import pytest

from api.apps.auth import UNAUTHORIZED_TEXT
from api.apps.gate import host_allowed
from api.db.tables import User
from tests.unit.api.apps.web import LINK_TOKEN, Person, Web

API, WEB = "/api/v1/datasets", "/v1/user/info"
INVALID = "Authentication error: API key is invalid!"


async def code(site: Web, path: str, person: Person, credential: str) -> int:
    return int((await site.call("GET", path, headers=person.headers(credential)))["code"])


@pytest.mark.parametrize(
    ("credential", "api", "web"),
    [("key", 0, 401), ("login", 0, 0), ("share", 109, 401), ("cookie", 0, 0)],
)
async def test_what_each_carrier_opens(site: Web, credential: str, api: int, web: int) -> None:
    """A login token on the API is one word, which the contract answers with code 0 and no data."""
    person = await site.person("alice")
    assert await code(site, API, person, credential) == api
    assert await code(site, WEB, person, credential) == web
    if credential == "login":
        reply = await site.call("GET", API, headers=person.headers("login"))
        assert reply == {"code": 0, "message": "Please check your authorization format.", "data": False}


async def test_a_share_token_is_forbidden_on_the_api(site: Web) -> None:
    person = await site.person("alice")
    response = await site.send("GET", API, headers=person.headers("share"))
    assert response.status_code == 403
    assert orjson.loads(await response.get_data())["message"] == INVALID


@pytest.mark.parametrize("credential", ["key", "login", "share", "cookie"])
async def test_a_suspended_user_is_out_by_every_carrier(site: Web, credential: str) -> None:
    person = await site.person("alice")
    suspend = User.update(is_active=False).where(User.id == person.principal.user_id)
    await site.services.db.write(suspend.execute)
    for path in (API, WEB):
        reply = await site.call("GET", path, headers=person.headers(credential))
        assert not isinstance(reply.get("data"), list | dict)
    reply = await site.call("POST", "/v1/user/login", json={"email": person.email, "password": "correct horse"})
    assert reply["code"] == 403


async def test_a_header_wins_over_the_cookie(site: Web) -> None:
    person = await site.person("alice")
    headers = person.headers("cookie") | {"Authorization": "Bearer nothing"}
    assert (await site.call("GET", API, headers=headers))["code"] == 109


async def test_the_first_word_is_not_checked(site: Web) -> None:
    person = await site.person("alice")
    assert (await site.call("GET", API, headers={"Authorization": f"Anything {person.key}"}))["code"] == 0


async def test_logins_rotate_and_logout_ends_all_carriers(site: Web) -> None:
    person = await site.person("alice")
    response = await site.send(
        "POST", "/v1/user/login", json={"email": "ALICE@example.org", "password": "correct horse"}
    )
    body, token = orjson.loads(await response.get_data()), response.headers["Authorization"]
    assert body["code"] == 0
    assert body["message"] == "Welcome back!"
    assert body["data"]["password"] == body["data"]["access_token"] == ""
    assert await code(site, WEB, person, "login") == 401
    assert await code(site, WEB, person, "cookie") == 401
    assert (await site.call("GET", WEB, headers={"Authorization": token}))["code"] == 0
    assert (await site.call("GET", "/v1/user/logout", headers={"Authorization": token}))["data"] is True
    gone = await site.call("GET", WEB, headers={"Authorization": token})
    assert gone == {"code": 401, "message": UNAUTHORIZED_TEXT, "data": None}
    assert await code(site, API, person, "key") == 0


async def test_wrong_passwords(site: Web) -> None:
    person = await site.person("alice")
    for password in ("", "wrong", "x" * 5000, None, 7):
        reply = await site.call("POST", "/v1/user/login", json={"email": person.email, "password": password})
        assert reply == {"code": 109, "message": "Email and password do not match!", "data": False}


async def test_registering(site: Web) -> None:
    sent = {"email": "eve@example.org", "nickname": "Eve", "password": "p"}
    response = await site.send("POST", "/v1/user/register", json=sent)
    body = orjson.loads(await response.get_data())
    assert body["message"] == "Eve, welcome aboard!"
    assert "last_login_time" not in body["data"]
    headers = {"Authorization": response.headers["Authorization"]}
    tenant = (await site.call("GET", "/v1/user/tenant_info", headers=headers))["data"]
    assert tenant["name"] == "Eve‘s Kingdom"
    assert tenant["tenant_id"] == body["data"]["id"]
    again = await site.call("POST", "/v1/user/register", json=sent)
    assert again == {"code": 103, "message": "Email: eve@example.org has already registered!", "data": False}
    odd = await site.call("POST", "/v1/user/register", json=sent | {"email": "a b"})
    assert odd == {"code": 103, "message": "Invalid email address: a b!", "data": False}


async def test_cookies_only_from_our_own_pages(site: Web) -> None:
    person = await site.person("alice")
    cookie = {"Cookie": person.headers("cookie")["Cookie"]}
    assert (await site.call("GET", API, headers=cookie))["code"] == 0
    for origin in (None, "http://evil.example", "null", "http://localhost:3000", "http://[", "file://localhost"):
        headers = cookie | ({} if origin is None else {"Origin": origin})
        response = await site.send("POST", API, headers=headers, json={"name": "x"})
        assert response.status_code == 403, origin
    assert (await site.call("GET", API, headers=cookie | {"Origin": "http://evil.example"}))["code"] == 109
    made = await site.call("POST", API, headers=cookie | {"Origin": "http://localhost"}, json={"name": "x"})
    assert made["code"] == 0


async def test_cors_never_with_credentials(site: Web) -> None:
    for method in ("GET", "OPTIONS"):
        response = await site.send(method, API, headers={"Origin": "http://elsewhere.example"})
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in response.headers
    preflight = await site.send("OPTIONS", API)
    assert preflight.status_code == 200
    assert await preflight.get_data() == b""
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    for path in ("/", "/v1/user/info", "/healthz"):
        assert "Access-Control-Allow-Origin" not in (await site.send("GET", path)).headers


async def test_the_printed_link_signs_in(site: Web) -> None:
    response = await site.send("GET", f"/?token={LINK_TOKEN}")
    assert response.status_code == 303
    assert response.headers["Location"].endswith("/")
    cookie = response.headers["Set-Cookie"]
    assert re.match(r"parley-9380=\S+;", cookie)
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    page = await site.send("GET", "/", headers={"Cookie": cookie.split(";")[0]})
    text = (await page.get_data()).decode()
    assert "ragflow_sdk" in text
    wrong = await site.send("GET", "/?token=guess")
    assert wrong.status_code == 403
    assert "Set-Cookie" not in wrong.headers
    assert "ragflow_sdk" not in (await wrong.get_data()).decode()


async def test_the_page_is_escaped_and_loads_nothing(site: Web) -> None:
    owner = await site.services.users.ensure_local_user()
    await site.services.knowledgebases.create(owner, name="<script>alert(1)</script>")
    cookie = await site.services.users.cookie_for(owner)
    response = await site.send("GET", "/", headers={"Cookie": f"parley-9380={cookie}"})
    text = (await response.get_data()).decode()
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:9380", True),
        ("127.0.0.1:9380", True),
        ("127.1.2.3", True),
        ("[::1]:9380", True),
        ("app.localhost", True),
        ("", True),
        ("further.example", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("localhost.evil.example", False),
        ("[::ffff:10.0.0.1]", False),
        ("2130706433", False),
        ("127.0.0.1:80@evil.example", False),
        ("[::1].evil.example", False),
        ("localhost:80.evil.example", False),
    ],
)
def test_hosts(host: str, allowed: bool) -> None:
    assert host_allowed(host, {"further.example"}) is allowed


async def test_a_rebound_host_is_refused_on_loopback(site: Web) -> None:
    for path in (API, "/healthz", "/v1/models", "/"):
        response = await site.send("GET", path, headers={"Host": "evil.example"})
        assert response.status_code == 403, path
    site.state.loopback = False
    assert (await site.send("GET", "/healthz", headers={"Host": "evil.example"})).status_code == 200


async def test_keys_are_shown_once(site: Web) -> None:
    person = await site.person("alice")
    made = (await site.call("POST", "/v1/system/new_token", person))["data"]
    assert re.fullmatch(r"ragflow-[\w-]{43}", made["token"])
    assert re.fullmatch(r"[\w-]{32}", made["beta"])
    assert made["update_time"] is None
    listed = (await site.call("GET", "/v1/system/token_list", person))["data"]
    assert len(listed) == 2
    shown = orjson.dumps(listed).decode()
    for secret in (made["token"], made["beta"], person.key, person.share):
        assert secret not in shown
    assert (await site.call("DELETE", f"/v1/system/token/{listed[1]['id']}", person))["data"] is True
    assert (await site.call("GET", API, headers={"Authorization": f"Bearer {made['token']}"}))["code"] == 109


async def test_secrets_are_stored_hashed(site: Web) -> None:
    person = await site.person("alice")
    content = b"".join(path.read_bytes() for path in site.settings.data_dir.glob("rows.sqlite*"))
    assert person.email.encode() in content
    for secret in (person.key, person.share, "correct horse", person.login, person.cookie):
        assert secret.encode() not in content


async def test_set_tenant_info_is_for_the_own_tenant(site: Web) -> None:
    alice, bob = await site.person("alice"), await site.person("bob")
    keys = {"asr_id": "", "embd_id": None, "img2txt_id": "", "llm_id": ""}
    own = {"tenant_id": alice.principal.tenant_id, "name": "Home"} | keys
    assert (await site.call("POST", "/v1/user/set_tenant_info", alice, json=own))["data"] is True
    assert (await site.call("GET", "/v1/user/tenant_info", alice))["data"]["name"] == "Home"
    foreign = own | {"tenant_id": bob.principal.tenant_id}
    assert (await site.call("POST", "/v1/user/set_tenant_info", alice, json=foreign))["code"] == 102
    missing = await site.call("POST", "/v1/user/set_tenant_info", alice, json={})
    text = "required argument are missing: tenant_id,asr_id,embd_id,img2txt_id,llm_id; "
    assert missing == {"code": 101, "message": text, "data": None}
    assert (await site.call("POST", "/v1/user/set_tenant_info", alice, json=own | {"llm_id": "x@Y"}))["code"] == 100
    assert (await site.call("POST", "/v1/user/set_tenant_info", alice, json=own | {"colour": "x"}))["code"] == 100
