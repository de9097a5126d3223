"""Every provider of the catalogue, in the provider's own dialect, over real sockets."""

import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from support.dialects import FILE, alone, others, recorded
from support.engine import CATALOGUE
from support.sandbox import Provider as Running
from support.sandbox import providing
from support.walks import differences

IDS = sorted(recorded())
ALONE = [
    "generic-jwt-bearer",
    "generic-oauth2-client-credentials",
    "github-app-installation",
    "google-service-account",
    "microsoft-app-only",
    "salesforce-jwt",
    "zoom-s2s",
]


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[Running]:
    async with providing() as found:
        yield found


@pytest.fixture
def running(sandbox: Running) -> Running:
    sandbox.state.reset()
    return sandbox


@pytest.mark.parametrize("name", IDS)
async def test_consent_tokens_renewal_and_revocation(name: str, running: Running) -> None:
    assert await differences(running, recorded()[name]) == []


@pytest.mark.parametrize("name", ALONE)
async def test_tokens_for_the_app_itself(name: str, running: Running) -> None:
    assert await differences(running, alone()[name]) == []


def test_every_record_of_the_facts_is_in_the_fixture() -> None:
    assert len(recorded()) == 118
    assert sorted(alone()) == ALONE
    assert Counter(others().values()) == {
        "api_key": 8,
        "basic": 4,
        "custom_headers": 1,
        "link_exchange": 1,
        "oauth1": 1,
        "telegram_login": 1,
    }
    spoken = {one.provider for one in recorded().values()}
    assert len(spoken) == 118
    assert spoken == {one.id for one in CATALOGUE.all() if one.mode == "authorization_code"}


def test_a_record_is_a_line() -> None:
    lines = FILE.read_text().splitlines()
    told = [json.loads(line.removesuffix(","))["id"] for line in lines if line.startswith('{"')]
    assert told == [*others(), *alone(), *recorded()]


@pytest.mark.parametrize("name", IDS)
def test_a_dialect_is_whole(name: str) -> None:
    one = recorded()[name]
    does = Counter(endpoint.does for endpoint in one.dialect.endpoints)
    assert (does["authorize"], does["exchange"]) == (1, 1)
    assert does["revoke"] <= 1
    assert does["refresh"] or not one.expected.refresh_token
    shapes = {endpoint.does: endpoint.request for endpoint in one.dialect.endpoints}
    assert "{redirect_uri}" in shapes["authorize"].query.values()
    assert "{code}" in {**shapes["exchange"].query, **shapes["exchange"].body}.values()
    assert "{state}" in shapes["authorize"].query.values()
