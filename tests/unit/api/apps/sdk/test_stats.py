from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from api.db.services.records import ModelCall
from tests.unit.api.apps.web import Person, Web, web

CALL = ModelCall(
    tenant_id="",
    model="large@Somebody",
    purpose="answer",
    prompt_tokens=1000,
    completion_tokens=100,
    cached_tokens=400,
    estimated=False,
    duration_ms=2000.0,
    first_token_ms=400.0,
    attempts=2,
    tool_calls=1,
    dialog_id="chat",
    conversation_id="session",
    arm="fallback=on",
)
PRICES = {"usd_per_million": {"large@Somebody": {"input": 10, "cached": 1, "output": 50}}}
COST = 0.0114  # 600 x 10 + 400 x 1 + 100 x 50 millionths


@pytest.fixture
async def priced(tmp_path: Path) -> AsyncIterator[Web]:
    async with web(tmp_path, prices=PRICES) as running:
        yield running


@pytest.fixture
async def ann(priced: Web) -> Person:
    """Somebody with two calls of today, one of which failed."""
    person = await priced.person("ann")
    call = replace(CALL, tenant_id=person.principal.tenant_id)
    await priced.services.meters.usage.record(call)
    await priced.services.meters.usage.record(
        replace(call, outcome="model_error", prompt_tokens=0, completion_tokens=0, cached_tokens=0)
    )
    return person


def today(site: Web) -> str:
    return site.services.clock.now().date().isoformat()


@pytest.mark.parametrize(("path", "credential"), [("/api/v1/metrics", "key"), ("/v1/api/metrics", "login")])
async def test_metrics_tell_totals_days_and_models(priced: Web, ann: Person, path: str, credential: str) -> None:
    reply = await priced.call("GET", path, headers=ann.headers(credential))
    assert (reply["code"], reply["message"]) == (0, "success")
    data = reply["data"]
    whole = {
        "calls": 2,
        "failures": 1,
        "cancelled": 0,
        "retries": 2,
        "tool_calls": 2,
        "estimated": 0,
        "unpriced": 0,
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "cached_tokens": 400,
        "reasoning_tokens": 0,
        "cost_usd": pytest.approx(COST),
        "total_tokens": 1100,
    }
    assert data["totals"] == whole
    assert len(data["days"]) == 7
    assert data["days"][-1] == {"day": today(priced)} | whole
    (model,) = data["models"]
    (arm,) = model.pop("arms")
    assert arm.pop("arm") == "fallback=on"
    assert model == arm
    spreads = {
        "first_token_ms": dict.fromkeys(("p50", "p95"), pytest.approx(400, rel=0.025)),
        "duration_ms": dict.fromkeys(("p50", "p95"), pytest.approx(2000, rel=0.025)),
    }
    assert model == {"provider": "Somebody", "model": "large@Somebody"} | whole | spreads


@pytest.mark.parametrize(("path", "spender"), [("chats", "chat"), ("sessions", "session")])
async def test_what_chats_and_sessions_cost(priced: Web, ann: Person, path: str, spender: str) -> None:
    for root, credential in (("/api/v1", "key"), ("/v1/api", "login")):
        reply = await priced.call("GET", f"{root}/metrics/{path}?limit=5", headers=ann.headers(credential))
        (one,) = reply["data"]
        assert (one["id"], one["name"], one["calls"], one["failures"]) == (spender, "", 2, 1)
        assert one["cost_usd"] == pytest.approx(COST)
        other = await priced.call("GET", f"{root}/metrics/{path}?chat_id=another", headers=ann.headers(credential))
        assert other["data"] == []


async def test_stats_have_the_contracts_shape(priced: Web, ann: Person) -> None:
    day = today(priced)
    reply = await priced.call("GET", f"/v1/api/stats?from_date={day}&to_date={day}", headers=ann.headers("login"))
    assert reply["data"] == {
        "pv": [[day, 0]],
        "uv": [[day, 0]],
        "speed": [[day, pytest.approx(50, rel=0.03)]],
        "tokens": [[day, 1100]],
        "round": [[day, 0]],
        "thumb_up": [[day, 0]],
    }


async def test_nobody_sees_what_others_asked(priced: Web, ann: Person) -> None:
    bob = await priced.person("bob")
    assert (await priced.call("GET", "/api/v1/metrics", bob))["data"]["models"] == []
    assert (await priced.call("GET", "/api/v1/metrics", bob))["data"]["totals"]["calls"] == 0
    for path in ("chats?chat_id=chat", "sessions?chat_id=chat"):
        assert (await priced.call("GET", f"/api/v1/metrics/{path}", bob))["data"] == []
    stats = await priced.call("GET", "/v1/api/stats", headers=bob.headers("login"))
    assert {number for column in stats["data"].values() for _, number in column} == {0}


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("from_date=soon", "from_date must be a date"),
        ("from_date=2026-02-01&to_date=2026-01-01", "before they begin"),
        ("from_date=2020-01-01&to_date=2026-01-01", "at most 366 days"),
        ("from_date=0001-01-01", "at most 366 days"),
        ("from_date=%00", "from_date must be a date"),
    ],
)
async def test_days_that_cannot_be_meant_are_refused(priced: Web, ann: Person, query: str, told: str) -> None:
    for path in ("/v1/api/stats", "/v1/api/metrics"):
        reply = await priced.call("GET", f"{path}?{query}", headers=ann.headers("login"))
        assert reply["code"] == 101
        assert told in reply["message"]


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "ten", "", "9" * 5000, "١"])
async def test_a_limit_that_does_not_fit_is_refused(priced: Web, ann: Person, limit: str) -> None:
    reply = await priced.call("GET", "/api/v1/metrics/chats", ann, query_string={"limit": limit})
    assert (reply["code"], reply["message"]) == (101, "limit must be 1 to 1000.")


async def test_prometheus_hears_of_calls(priced: Web, ann: Person) -> None:
    text = (await (await priced.send("GET", "/metrics")).get_data()).decode()
    assert 'parley_model_calls_total{model="other",outcome="ok",provider="other"} 1.0' in text
    assert 'parley_model_calls_total{model="other",outcome="model_error",provider="other"} 1.0' in text
    assert f'parley_model_cost_usd_total{{model="other",provider="other"}} {COST}' in text
