"""Each kind of auth connection against a provider on a real port, and what the vault says of it."""

from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest
from conftest import Tenant
from support.jwts import keys, own_jwt, parts, traded_jwt
from support.sandbox import Provider, providing

from broker.sandbox import ClientKey, Faults, Issuing
from vault import oauth
from vault.auth_kinds import (
    Algorithm,
    AuthConfig,
    Basic,
    Bearer,
    ClientCredentials,
    CustomHeader,
)
from vault.authenticate import Credentials
from vault.egress import Egress, Request, parse_allow
from vault.embedded import Embedded
from vault.errors import (
    CredentialRefused,
    EgressDenied,
    Forbidden,
    IntegrityError,
    Invalid,
    NotFound,
    ProviderUnavailable,
)
from vault.model import AuthConnection, Page
from vault.vault import Vault

SECRET = "s3ntinel secret:+%"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        found.register("client", secret=SECRET)
        yield found


@pytest.fixture
async def superuser(postgres: Embedded) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres.dsn().reveal())
    yield connection
    await connection.close()


def client(provider: Provider, **fields: Any) -> ClientCredentials:
    return ClientCredentials(
        **{
            "provider": "p",
            "client_id": "client",
            "client_secret": SECRET,
            "token_url": provider.token_url,
            **fields,
        }
    )


async def connect(vault: Vault, tenant: Tenant, config: AuthConfig, *hosts: str) -> AuthConnection:
    return await vault.create_auth_connection(tenant.caller, "c", config, allowed_hosts=list(hosts))


async def status(vault: Vault, tenant: Tenant, made: AuthConnection) -> tuple[str, str | None]:
    every = await vault.list_auth_connections(tenant.caller)
    [one] = [one for one in every if one.auth_connection_id == made.auth_connection_id]
    return one.status, one.status_detail


def revealed(credentials: Credentials) -> dict[str, str]:
    return {name: value.reveal() for name, value in credentials.headers}


async def who(provider: Provider, credentials: Credentials) -> int:
    egress = Egress(allow=parse_allow("127.0.0.1", development=True))
    request = Request(method="GET", url=f"{provider.base}/whoami", headers=credentials.headers)
    try:
        return (await egress.call("tool", request)).status
    finally:
        await egress.aclose()


# The seven kinds


@pytest.mark.parametrize("in_header", [False, True])
async def test_client_credentials_fetch_a_token_that_the_provider_knows(
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    in_header: bool,  # noqa: FBT001
) -> None:
    config = client(
        provider,
        basic_auth_in_header=in_header,
        scopes=["a", "b"],
        extra_params={"audience": "x"},
        custom_headers={"X-Extra": "y"},
    )
    made = await connect(vault, tenant, config, "api.example.com")
    got = await vault.credentials(tenant.caller, made.auth_connection_id)
    assert await who(provider, got) == 200
    assert got.allowed_hosts == ("api.example.com",)
    assert got.tls is None
    assert got.yields_bearer is not None
    assert revealed(got) == {"Authorization": f"Bearer {got.yields_bearer.reveal()}"}
    [seen] = provider.token_calls
    assert (seen.fields["scope"], seen.fields["audience"]) == ("a b", "x")
    assert ("client_secret" in seen.fields) is not in_header
    assert seen.headers["x-extra"] == provider.state.fingerprint("y")
    again = await vault.credentials(tenant.caller, made.auth_connection_id)
    assert revealed(again) == revealed(got)
    assert again.version == got.version
    assert len(provider.token_calls) == 1


@pytest.mark.parametrize("algorithm", ["HS256", "RS384", "PS512", "ES256"])
@pytest.mark.parametrize("usage", ["authorization_grant", "client_authentication"])
async def test_a_signed_assertion_is_traded_for_a_token(
    vault: Vault, tenant: Tenant, provider: Provider, algorithm: Algorithm, usage: str
) -> None:
    private, public = keys(algorithm)
    provider.register("iss", keys=[ClientKey(algorithm, public)])
    config = traded_jwt(
        subject="iss",
        token_url=provider.token_url,
        algorithm=algorithm,
        secret_key=private,
        jwt_usage=usage,
    )
    made = await connect(vault, tenant, config)
    got = await vault.credentials(tenant.caller, made.auth_connection_id)
    assert await who(provider, got) == 200
    assert await status(vault, tenant, made) == ("active", None)


async def test_an_id_token_is_taken_where_it_is_asked_for(
    vault: Vault, tenant: Tenant, provider: Provider
) -> None:
    provider.register("iss", keys=[ClientKey("HS256", "a shared secret")])
    provider.state.issuing = Issuing(fields={"access_token": "not this one"})
    config = traded_jwt(token_url=provider.token_url, token_response_field="id_token")
    made = await connect(vault, tenant, config)
    got = await vault.credentials(tenant.caller, made.auth_connection_id)
    assert await who(provider, got) == 200


async def test_a_private_key_jwt_is_signed_anew_for_each_request(
    vault: Vault, tenant: Tenant
) -> None:
    private, public = keys("ES256")
    made = await connect(vault, tenant, own_jwt(algorithm="ES256", secret_key=private))
    seen = set()
    for _ in range(2):
        got = await vault.credentials(tenant.caller, made.auth_connection_id)
        assert got.yields_bearer is not None
        token = got.yields_bearer.reveal()
        assert revealed(got) == {"Authorization": f"Bearer {token}"}
        assert oauth.verified_claims(token, public, ["ES256"])["iss"] == "iss"
        claims = parts(token)[1]
        assert claims["exp"] - claims["iat"] == 3600
        seen.add(claims["jti"])
    assert len(seen) == 2


async def test_basic_bearer_and_custom_headers_are_what_they_say(
    vault: Vault, tenant: Tenant
) -> None:
    async def headers(config: AuthConfig) -> tuple[Mapping[str, str], bool]:
        made = await connect(vault, tenant, config)
        got = await vault.credentials(tenant.caller, made.auth_connection_id)
        return revealed(got), got.yields_bearer is not None

    basic, yields = await headers(Basic(provider="p", username="ädä", password="pa:ss"))
    scheme, _, encoded = basic["Authorization"].partition(" ")
    assert (scheme, b64decode(encoded).decode(), yields) == ("Basic", "ädä:pa:ss", False)
    assert await headers(Bearer(provider="p", token="tok")) == (
        {"Authorization": "Bearer tok"},
        True,
    )
    custom = CustomHeader(provider="p", header_name="X-Api-Key", token="tok")
    assert await headers(custom) == ({"X-Api-Key": "tok"}, False)


# What is refused when it is stored


async def test_a_token_url_that_may_not_be_called_is_refused(
    vault: Vault, tenant: Tenant, provider: Provider
) -> None:
    for url in ("http://10.0.0.1/token", "https://169.254.169.254/", "ftp://x.example/", "x"):
        with pytest.raises(EgressDenied):
            await connect(vault, tenant, client(provider, token_url=url))
        with pytest.raises(EgressDenied):
            await connect(vault, tenant, traded_jwt(token_url=url))
    assert await vault.list_auth_connections(tenant.caller) == []


@pytest.mark.parametrize(
    "config",
    [
        Bearer(provider="p", token="line\r\nbreak"),
        Bearer(provider="p", token="tökn"),
        Basic(provider="p", username="a:b", password="c"),
        CustomHeader(provider="p", header_name="Host", token="x"),
        CustomHeader(provider="p", header_name="X-Key", token="\x00"),
        own_jwt(algorithm="RS256", secret_key="no pem"),
    ],
)
async def test_what_could_never_authenticate_is_refused(
    vault: Vault, tenant: Tenant, config: AuthConfig
) -> None:
    with pytest.raises(Invalid):
        await connect(vault, tenant, config)


async def test_a_change_is_checked_like_the_beginning(vault: Vault, tenant: Tenant) -> None:
    made = await connect(vault, tenant, traded_jwt())
    with pytest.raises(Invalid):
        await vault.update_auth_connection(
            tenant.caller, made.auth_connection_id, None, {"algorithm": "RS256"}
        )


# Who may, and what the record says


async def test_credentials_need_the_scope_and_the_workspace(
    vault: Vault, tenant: Tenant, stranger: Tenant
) -> None:
    made = await connect(vault, tenant, Bearer(provider="p", token="tok"))
    unscoped = type(tenant.caller)(
        kind="key", actor_id="k", workspace=tenant.id, scopes=frozenset({"manage", "mint"})
    )
    operator = type(tenant.caller).operator("op").within(tenant.id)
    for nobody in (unscoped, operator):
        with pytest.raises(Forbidden):
            await vault.credentials(nobody, made.auth_connection_id)
        with pytest.raises(Forbidden):
            await vault.credential_rejected(nobody, made.auth_connection_id, "1.0")
        with pytest.raises(Forbidden):
            await vault.credential_accepted(nobody, made.auth_connection_id, "1.0")
    with pytest.raises(NotFound):
        await vault.credentials(stranger.caller, made.auth_connection_id)
    with pytest.raises(NotFound):
        await vault.credential_rejected(stranger.caller, made.auth_connection_id, "1.0")
    assert await status(vault, tenant, made) == ("active", None)


async def test_every_use_leaves_a_line_and_so_does_every_fetch(
    vault: Vault, tenant: Tenant, provider: Provider
) -> None:
    made = await connect(vault, tenant, client(provider))
    for _ in range(2):
        await vault.credentials(tenant.caller, made.auth_connection_id)
    events = await vault.audit_events(tenant.caller, Page(20))
    target = made.auth_connection_id
    lines = [(one.action, one.outcome) for one in events if one.target_id == target]
    assert lines == [
        ("auth_connection.use", "ok"),
        ("auth_connection.fetch", "ok"),
        ("auth_connection.use", "ok"),
        ("auth_connection.write", "ok"),
    ]


# Refusals


async def test_a_wrong_secret_is_told_as_such_and_a_right_one_heals(
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    capsys: pytest.CaptureFixture[str],
    superuser: asyncpg.Connection,
) -> None:
    made = await connect(vault, tenant, client(provider, client_secret="wr0ng s3ntinel"))
    errors = []
    for _ in range(3):
        with pytest.raises(CredentialRefused) as caught:
            await vault.credentials(tenant.caller, made.auth_connection_id)
        errors.append(caught.value)
    assert len(provider.token_calls) == 1  # a refusal is not tried again for a while
    found = await status(vault, tenant, made)
    assert found == ("credential_invalid", "The token endpoint answered 401 with invalid_client.")
    shown = capsys.readouterr()
    for text in (*map(repr, errors), repr(found), shown.out, shown.err):
        assert "s3ntinel" not in text
    await vault.update_auth_connection(
        tenant.caller, made.auth_connection_id, None, {"client_secret": SECRET}
    )
    assert (
        await who(provider, await vault.credentials(tenant.caller, made.auth_connection_id)) == 200
    )
    assert await status(vault, tenant, made) == ("active", None)


@pytest.mark.parametrize(
    ("faults", "wanted", "error"),
    [
        (Faults(status=400, body='{"error": "invalid_grant"}'), "revoked", CredentialRefused),
        (Faults(status=401), "credential_invalid", CredentialRefused),
        (Faults(status=400, body='{"error":"invalid_scope"}'), "refresh_failed", CredentialRefused),
        (Faults(status=500, body="s3ntinel"), "refresh_failed", ProviderUnavailable),
        (Faults(status=403, body='{"detail":"s3ntinel"}'), "refresh_failed", ProviderUnavailable),
        (Faults(status=400, body='{"error":"s3ntinel"}'), "refresh_failed", ProviderUnavailable),
        (Faults(status=200, body='{"access_token":""}'), "refresh_failed", ProviderUnavailable),
        (Faults(status=302), "refresh_failed", ProviderUnavailable),
        (Faults(drop="before"), "refresh_failed", ProviderUnavailable),
        (Faults(drop="after"), "refresh_failed", ProviderUnavailable),
        (Faults(answer="truncated"), "refresh_failed", ProviderUnavailable),
        (Faults(answer="huge"), "refresh_failed", ProviderUnavailable),
    ],
)
async def test_every_failure_has_its_status_and_its_error(
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    faults: Faults,
    wanted: str,
    error: type[Exception],
) -> None:
    provider.register("iss", keys=[ClientKey("HS256", "a shared secret")])
    provider.misbehave(faults)
    made = await connect(vault, tenant, traded_jwt(token_url=provider.token_url))
    with pytest.raises(error) as caught:
        await vault.credentials(tenant.caller, made.auth_connection_id)
    found, detail = await status(vault, tenant, made)
    assert found == wanted
    assert detail
    assert "s3ntinel" not in repr(caught.value) + detail
    with pytest.raises(error):  # the next one is told the same, without a call
        await vault.credentials(tenant.caller, made.auth_connection_id)


@pytest.mark.parametrize("said", [600, "+600"])
async def test_nobody_calls_before_the_endpoint_allows_it(
    vault: Vault, tenant: Tenant, provider: Provider, said: int | str
) -> None:
    provider.misbehave(Faults(status=429, retry_after=said))
    made = await connect(vault, tenant, client(provider))
    for _ in range(5):
        with pytest.raises(ProviderUnavailable) as caught:
            await vault.credentials(tenant.caller, made.auth_connection_id)
        assert caught.value.retry_after is not None
        # A date has whole seconds; and some have passed since.
        assert 500 <= caught.value.retry_after <= 602
    provider.misbehave(None)
    with pytest.raises(ProviderUnavailable):
        await vault.credentials(tenant.caller, made.auth_connection_id)
    assert provider.token_calls == []  # the fault answered, and once only: see test_sandbox


# What an upstream says of them


async def test_a_refused_token_is_replaced_once_and_then_the_connection_is_to_blame(
    vault: Vault, tenant: Tenant, provider: Provider
) -> None:
    made = await connect(vault, tenant, client(provider))
    auth_id = made.auth_connection_id
    first = await vault.credentials(tenant.caller, auth_id)
    for _ in range(3):  # several requests that used the same token
        await vault.credential_rejected(tenant.caller, auth_id, first.version)
    second = await vault.credentials(tenant.caller, auth_id)
    assert revealed(second) != revealed(first)
    await vault.credential_rejected(tenant.caller, auth_id, first.version)  # late
    assert (await vault.credentials(tenant.caller, auth_id)).version == second.version
    assert await status(vault, tenant, made) == ("active", None)
    for _ in range(3):
        await vault.credential_rejected(tenant.caller, auth_id, second.version)
    assert (await vault.credentials(tenant.caller, auth_id)).version == second.version
    assert len(provider.token_calls) == 2
    assert await status(vault, tenant, made) == (
        "credential_invalid",
        "An upstream refused this credential.",
    )
    await vault.credential_accepted(tenant.caller, auth_id, second.version)
    assert await status(vault, tenant, made) == ("active", None)


async def test_a_late_refusal_leaves_the_token_that_came_since(
    vault: Vault, tenant: Tenant, provider: Provider, superuser: asyncpg.Connection
) -> None:
    made = await connect(vault, tenant, client(provider))
    auth_id = made.auth_connection_id
    first = await vault.credentials(tenant.caller, auth_id)
    await superuser.execute(
        "update vault.auth_connection_tokens set refresh_at = now() where auth_connection_id = $1",
        auth_id,
    )
    second = await vault.credentials(tenant.caller, auth_id)
    assert second.version != first.version
    await vault.credential_rejected(tenant.caller, auth_id, first.version)
    assert (await vault.credentials(tenant.caller, auth_id)).version == second.version
    assert await status(vault, tenant, made) == ("active", None)


async def test_a_refused_static_credential_is_told_and_an_accepted_one_too(
    vault: Vault, tenant: Tenant
) -> None:
    made = await connect(vault, tenant, Bearer(provider="p", token="tok"))
    auth_id = made.auth_connection_id
    got = await vault.credentials(tenant.caller, auth_id)
    for _ in range(2):
        await vault.credential_rejected(tenant.caller, auth_id, got.version)
    assert (await status(vault, tenant, made))[0] == "credential_invalid"
    events = await vault.audit_events(tenant.caller, Page(20), action="auth_connection.rejected")
    assert [one.outcome for one in events] == ["credential_invalid"]
    await vault.update_auth_connection(tenant.caller, auth_id, None, {"token": "new"})
    await vault.credential_rejected(tenant.caller, auth_id, got.version)  # it meant the old one
    assert await status(vault, tenant, made) == ("active", None)


@pytest.mark.parametrize("version", ["", "1", "x.y", "1.", "-1.0", "1.0.0"])
async def test_a_version_that_was_never_given_is_refused(
    vault: Vault, tenant: Tenant, version: str
) -> None:
    made = await connect(vault, tenant, Bearer(provider="p", token="tok"))
    with pytest.raises(Invalid):
        await vault.credential_rejected(tenant.caller, made.auth_connection_id, version)


# At rest


async def test_a_token_lies_sealed_and_opens_in_its_place_only(
    vault: Vault, tenant: Tenant, provider: Provider, superuser: asyncpg.Connection
) -> None:
    one = await connect(vault, tenant, client(provider))
    other = await connect(vault, tenant, client(provider))
    got = await vault.credentials(tenant.caller, one.auth_connection_id)
    await vault.credentials(tenant.caller, other.auth_connection_id)
    assert got.yields_bearer is not None
    row = await superuser.fetchrow(
        "select * from vault.auth_connection_tokens where auth_connection_id = $1",
        one.auth_connection_id,
    )
    assert got.yields_bearer.reveal_bytes() not in row["sealed_token"]
    await superuser.execute(
        "update vault.auth_connection_tokens set sealed_token = $2 where auth_connection_id = $1",
        other.auth_connection_id,
        row["sealed_token"],
    )
    with pytest.raises(IntegrityError):
        await vault.credentials(tenant.caller, other.auth_connection_id)


async def test_a_void_token_cannot_be_made_valid_in_the_database(
    vault: Vault, tenant: Tenant, provider: Provider, superuser: asyncpg.Connection
) -> None:
    made = await connect(vault, tenant, client(provider))
    auth_id = made.auth_connection_id
    await vault.credentials(tenant.caller, auth_id)
    await vault.update_auth_connection(tenant.caller, auth_id, None, {"scopes": ["less"]})
    await superuser.execute(
        "update vault.auth_connection_tokens set config_generation = 2"
        " where auth_connection_id = $1",
        auth_id,
    )
    with pytest.raises(IntegrityError):
        await vault.credentials(tenant.caller, auth_id)
