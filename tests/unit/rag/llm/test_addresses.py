from collections.abc import AsyncIterator

import aiohttp
import pytest

from rag.core.errors import InvalidInput
from rag.llm.addresses import AddressRefused, check_ip, check_url
from rag.llm.upstream import UpstreamPool
from rag.testing.upstream import FaultyUpstream

NEVER = (
    "169.254.169.254",
    "::ffff:a9fe:a9fe",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::a9fe:a9fe",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "100.100.100.200",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "255.255.255.255",
)
PRIVATE = ("127.0.0.1", "127.9.9.9", "::1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "fd00::1", "::ffff:7f00:1")


@pytest.mark.parametrize("ip", NEVER)
@pytest.mark.parametrize("private", [True, False])
def test_some_addresses_are_refused_to_all(ip: str, private: bool) -> None:
    with pytest.raises(AddressRefused):
        check_ip(ip, private=private)


@pytest.mark.parametrize("ip", PRIVATE)
def test_private_addresses_take_a_permission(ip: str) -> None:
    check_ip(ip, private=True)
    with pytest.raises(AddressRefused):
        check_ip(ip, private=False)


@pytest.mark.parametrize("ip", ["8.8.8.8", "2606:4700::1111"])
def test_public_addresses_are_open(ip: str) -> None:
    check_ip(ip, private=False)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/",
        "localhost:11434",
        "//example.org",
        "",
        "http://",
        "http://[::1",
        "http://host:99999/",
        "http://host:0/",
        "http://user:word@127.0.0.1/",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1/#a",
        "http://127.0.0.1\\@example.org/",
        "http://127.0.0.1/\r\nX-Header: a",
        "http://127.0.0.1/ a",
        "http://" + "a" * 2000,
        "http://" + "a." * 100 + "invalid",
        "http://nobody.invalid/v1",
    ],
)
async def test_what_is_no_base_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        await check_url(url, private=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:11434/v1",
        "http://localhost/v1",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://[::1]:80/v1",
    ],
)
async def test_hosts_are_judged_by_what_they_lead_to(url: str) -> None:
    await check_url(url, private=True)
    with pytest.raises(InvalidInput, match="not allowed"):
        await check_url(url, private=False)


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    made = FaultyUpstream()
    async with made.serving():
        yield made


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_guarded_pool_checks_where_a_connection_goes(upstream: FaultyUpstream, host: str) -> None:
    """By then the name may point elsewhere than when it was set."""
    guarded, plain = UpstreamPool(guarded=True), UpstreamPool()
    await guarded.open()
    await plain.open()
    try:
        url = upstream.url.replace("127.0.0.1", host) + "/models"
        async with plain.session.get(url) as reply:
            assert reply.status == 200
        seen = len(upstream.requests)
        with pytest.raises(aiohttp.ClientConnectorError):
            await guarded.session.get(url)
        assert len(upstream.requests) == seen
    finally:
        await guarded.close()
        await plain.close()
