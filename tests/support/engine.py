"""Apps for the engine's tests: one of every provider, with all that it asks for."""

import json
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from vault.egress import Reply, Request
from vault.oauth.app import App, Endpoints, ExtraToken, TokenSet
from vault.oauth.requests import Attempt
from vault.providers import Catalogue
from vault.providers.check import captured
from vault.providers.schema import Provider
from vault.secret import Secret

NOW: Final = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CATALOGUE: Final = Catalogue()
ACTIVE: Final = [one.id for one in CATALOGUE.all() if one.status != "unsupported"]
REDIRECT: Final = "https://keyturn.example/oauth/x/callback"

# Values of the right form, where the file has no example.
VALUES: Final = {
    "account_host": "acme.snowflakecomputing.com",
    "account_sid": "AC" + "0" * 32,
    "api_key": "1234567:" + "a" * 35,
    "application_id": "amzn1.sellerapps.app.0a1b",
    "bot_id": "1234567",
    "bot_token": "1234567:" + "a" * 35,
    "consumer_key": "ck_" + "0" * 40,
    "consumer_secret": "cs_" + "0" * 40,
    "fhir_base": "fhir.hospital.org/api/FHIR/R4",
    "installation_id": "123",
    "key_id": "ABCDE12345",
    "login_customer_id": "1234567890",
    "team_id": "ABCDE12345",
    "token_secret": "ts",
}


def _pem(key: Any) -> str:
    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.decode()


RSA: Final = _pem(rsa.generate_private_key(65537, 2048))
EC: Final = _pem(ec.generate_private_key(ec.SECP256R1()))


def app_of(name: str, **changes: Any) -> App:
    """An integration of this provider with everything filled in."""
    provider = CATALOGUE.get(name)
    made: dict[str, Any] = {
        "provider": provider,
        "client_id": "client-1",
        "client_secrets": (Secret("s3cret"),),
        "values": values_of(provider),
        "redirect_uri": REDIRECT,
        "endpoints": endpoints_of(provider),
    }
    return App(**made | changes)


def values_of(provider: Provider) -> dict[str, str | Secret]:
    found: dict[str, str | Secret] = {}
    for name, one in provider.variables.items():
        if name == "private_key_pem":
            signed = provider.assertion
            found[name] = Secret(EC if signed and signed.algorithm == "ES256" else RSA)
        elif one.kind == "url":
            found[name] = one.example or f"https://server.example/{name.replace('_', '-')}"
        else:
            value = one.example or one.default or VALUES.get(name, "value")
            found[name] = Secret(value) if one.kind == "secret" else value
    return found


def endpoints_of(provider: Provider) -> Endpoints | None:
    if provider.discovery is None:
        return None
    base = "https://found.example"
    return Endpoints(
        issuer=base,
        authorize_url=f"{base}/authorize",
        token_url=f"{base}/token",
        revoke_url=f"{base}/revoke",
        userinfo_url=f"{base}/userinfo",
        jwks_url=f"{base}/jwks",
    )


def tokens_of(provider: Provider, **changes: Any) -> TokenSet:
    """Tokens of this provider with every extra, so that nothing stays open."""
    extras = dict.fromkeys(captured(provider), "extra")
    host = next((one.removeprefix("*.") for one in provider.api.hosts), "api.example")
    for name in extras:
        if name in ("host", "dc"):
            extras[name] = f"x.{host}" if name == "host" else "us1"
        elif name in provider.variables:
            extras[name] = provider.variables[name].default or VALUES[name]
        elif "{" + name + "}" in (provider.api.base_url or "").split("/")[0]:
            extras[name] = f"https://x.{host}"
    made: dict[str, Any] = {
        "access_token": Secret("at-1"),
        "refresh_token": Secret("rt-1"),
        "obtained_at": datetime(2026, 1, 1, tzinfo=UTC),
        "extras": extras,
        "more": {
            one.name: ExtraToken(access_token=Secret("xat-1"), refresh_token=Secret("xrt-1"))
            for one in provider.reply.more
        },
    }
    return TokenSet(**made | changes)


def attempt(secret: str | None = "s3cret") -> Attempt:  # noqa: S107 - of a test
    return Attempt(now=NOW, jti="jti_1", secret=Secret(secret) if secret else None)


def fields(request: Request) -> dict[str, Any]:
    """All parameters of a request, wherever they travel."""
    found: dict[str, Any] = dict(parse_qsl(urlsplit(request.url).query, keep_blank_values=True))
    body = request.body.reveal() if isinstance(request.body, Secret) else ""
    kind = said(request, "Content-Type")
    if kind == "application/json":
        found |= json.loads(body)
    elif kind is not None:
        found |= dict(parse_qsl(body, keep_blank_values=True, strict_parsing=bool(body)))
    else:
        assert not body
    return found


def said(request: Request, name: str) -> str | None:
    """A header of a request."""
    found = [value for one, value in request.headers if one.lower() == name.lower()]
    assert len(found) <= 1
    return shown(found[0]) if found else None


def shown(value: str | Secret) -> str:
    return value.reveal() if isinstance(value, Secret) else value


def reply(body: Any = None, status: int = 200, *, raw: bytes | None = None, **more: str) -> Reply:
    content = json.dumps(body).encode() if raw is None else raw
    headers = tuple((name.replace("_", "-"), value) for name, value in more.items())
    return Reply(status=status, headers=headers, body=content)
