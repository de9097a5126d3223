"""What of the real providers' APIs is never called on behalf of a conversation."""

from datetime import UTC, datetime

import pytest

from vault.oauth.api import api_of
from vault.oauth.app import App, TokenSet
from vault.providers import Catalogue
from vault.secret import Secret

NOW = datetime(2026, 11, 21, tzinfo=UTC)
TOKENS = TokenSet(
    access_token=Secret("access-0123456789"),
    refresh_token=Secret("refresh-0123456789"),
    obtained_at=NOW,
    extras={"instance_url": "https://acme.my.salesforce.com"},
)


@pytest.mark.parametrize(
    ("provider", "values", "base", "never"),
    [
        ("google", {}, "https://www.googleapis.com", {"/token", "/revoke", "/batch"}),
        ("slack", {}, "https://slack.com/api", {"/api/oauth.v2.access", "/api/auth.revoke"}),
        (
            "salesforce",
            {},
            "https://acme.my.salesforce.com",
            {"/services/oauth2/token", "/services/oauth2/revoke"},
        ),
    ],
)
def test_a_provider_has_one_base_and_paths_that_are_never_called(
    provider: str, values: dict[str, str], base: str, never: set[str]
) -> None:
    app = App(provider=Catalogue().get(provider), client_id="app", values=values)
    api = api_of(app, TOKENS)

    assert api is not None
    assert api.base_url.reveal().rstrip("/") == base
    assert never <= set(api.never)
    assert dict(api.headers)["Authorization"].reveal() == "Bearer access-0123456789"
    assert {one.reveal() for one in api.secrets} >= {"access-0123456789", "refresh-0123456789"}
    assert "access" not in repr(api)


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("x", "/2/oauth2/token"),  # the token URL lies below the base URL
        ("hubspot", "/oauth"),
        ("instagram", "/refresh_access_token"),
        ("zendesk", "/oauth/tokens"),
    ],
)
def test_the_gateway_is_told_what_it_never_calls(provider: str, path: str) -> None:
    values = {"subdomain": "acme"}
    api = api_of(App(provider=Catalogue().get(provider), client_id="app", values=values), TOKENS)
    assert api is not None
    assert path in api.never


def test_every_provider_with_a_base_and_a_token_endpoint_keeps_that_endpoint_to_itself() -> None:
    catalogue = Catalogue()
    for provider_id in catalogue.ids():
        provider = catalogue.get(provider_id)
        if provider.api.base_url is None or provider.token is None or provider.token.url is None:
            continue
        if not provider.token.url.startswith("https://") or "{" in provider.token.url:
            continue
        path = "/" + provider.token.url.removeprefix("https://").partition("/")[2]
        app = App(provider=provider, client_id="app")
        try:
            api = api_of(app, TOKENS)
        except Exception:  # noqa: BLE001, S112 - its other addresses need values
            continue
        assert api is None or path.partition("?")[0] in api.never, provider_id
