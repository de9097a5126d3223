"""OAuth's words: token requests, signed assertions, token replies. The only user of joserfc.

* No I/O: a request is built here, a reply is read in ``replies``; ``egress`` carries both.
* What a workspace configures adds to a request and never replaces a part of it that is ours.
* A key that does not fit its algorithm is refused when it is stored, without a word of the
  library's, which quotes the key.
* An assertion's times come from the caller's clock, which is the database's; its ``jti`` is new
  each time.
"""

from base64 import b64encode
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

from joserfc import jwt
from joserfc.errors import JoseError

from vault.auth_kinds import AuthConfig, ClientCredentials, OAuth2Jwt, PrivateKeyJwt
from vault.egress import HEADER_NAME, HEADER_VALUE, OURS, Request, Timeouts
from vault.errors import Invalid
from vault.oauth.keys import imported, key_errors
from vault.oauth.replies import (
    Failure,
    NoToken,
    Outcome,
    TokenReply,
    classify,
    failure_of,
    parse_token_reply,
)
from vault.secret import Secret

__all__ = [
    "Failure",
    "NoToken",
    "Outcome",
    "TokenReply",
    "basic",
    "check_config",
    "classify",
    "client_credentials",
    "failure_of",
    "jwt_request",
    "parse_token_reply",
    "signed_jwt",
    "token_request",
    "verified_claims",
]

# A read timeout below the provider's slowest answer loses tokens that were already issued.
TIMEOUTS: Final = Timeouts(connect=5, read=60, total=75)
JWT_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT_CLIENT: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_ACCEPT: Final = ("Accept", "application/json")
_FORM: Final = frozenset(
    {
        "grant_type",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
        "assertion",
    }
)
_CLAIMS: Final = frozenset({"iss", "aud", "sub", "iat", "exp", "nbf", "jti"})
_JOSE: Final = frozenset({"alg", "kid", "crit", "b64"})


# Requests


def client_credentials(config: ClientCredentials) -> Request:
    """The token request of a client for itself (RFC 6749 section 4.4)."""
    form = dict(config.extra_params) | {"grant_type": "client_credentials"}
    headers: list[tuple[str, str | Secret]] = [
        (name, Secret(value)) for name, value in config.custom_headers.items()
    ]
    if config.basic_auth_in_header:
        headers.append(("Authorization", basic(config.client_id, config.client_secret)))
    else:
        form |= {"client_id": config.client_id, "client_secret": config.client_secret}
    return token_request(config.token_url, _with_scopes(form, config.scopes), headers)


def jwt_request(config: OAuth2Jwt, *, now: datetime, jti: str) -> Request:
    """The token request with a signed assertion: as the grant, or as the client's proof."""
    as_grant = config.jwt_usage == "authorization_grant"
    # Google reads the scopes of a grant from the assertion, most others from the form.
    claims = {"scope": " ".join(config.scopes)} if as_grant and config.scopes else {}
    assertion = signed_jwt(config, now=now, jti=jti, claims=claims).reveal()
    if as_grant:
        form = {"grant_type": JWT_GRANT, "assertion": assertion}
    else:
        form = {
            "grant_type": "client_credentials",
            "client_id": config.subject,  # RFC 7523 section 3: the subject is the client
            "client_assertion_type": JWT_CLIENT,
            "client_assertion": assertion,
        }
    return token_request(config.token_url, _with_scopes(form, config.scopes))


def token_request(
    url: str, form: Mapping[str, str], headers: Collection[tuple[str, str | Secret]] = ()
) -> Request:
    """Any POST to a token endpoint."""
    return Request(
        method="POST",
        url=url,
        headers=(
            ("Content-Type", "application/x-www-form-urlencoded"),
            *(() if any(name.lower() == "accept" for name, _ in headers) else (_ACCEPT,)),
            *headers,
        ),
        body=Secret(urlencode(form)),
        timeout=TIMEOUTS,
    )


def basic(client_id: str, client_secret: str) -> Secret:
    """A client's Basic header: both parts form-encoded first (RFC 6749 section 2.3.1)."""
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return Secret("Basic " + b64encode(pair.encode()).decode())


def _with_scopes(form: dict[str, str], scopes: list[str]) -> dict[str, str]:
    return form | {"scope": " ".join(scopes)} if scopes else form


# Assertions


def signed_jwt(
    config: OAuth2Jwt | PrivateKeyJwt,
    *,
    now: datetime,
    jti: str,
    claims: Mapping[str, str] | None = None,
) -> Secret:
    """Sign who we say we are, for ``expiration_seconds`` from ``now``."""
    issued = int(now.timestamp())
    payload: dict[str, Any] = {
        **(claims or {}),
        **config.extra_params,
        "iss": config.issuer,
        "aud": config.audience,
        "sub": config.subject,
        "iat": issued,
        "exp": issued + config.expiration_seconds,
        "jti": jti,
    }
    header: dict[str, Any] = {"typ": "JWT", **config.extra_headers, "alg": config.algorithm}
    if config.key_id is not None:
        header["kid"] = config.key_id
    with key_errors(config.algorithm, "/secret_key"):
        key = imported(config.secret_key, config.algorithm)
        return Secret(jwt.encode(header, payload, key, algorithms=[config.algorithm]))


def verified_claims(
    unverified_jwt: str, key_text: str, algorithms: Collection[str]
) -> Mapping[str, Any]:
    """The claims of a JWT whose signature one of our ``algorithms`` confirms; times unchecked."""
    for algorithm in algorithms:
        try:
            with key_errors(algorithm):
                key = imported(key_text, algorithm)
            token = jwt.decode(unverified_jwt, key, algorithms=[algorithm])
        except (Invalid, JoseError, ValueError, TypeError):
            continue
        return token.claims
    raise Invalid("The signature of this JWT does not hold.")


# What can be refused when it is stored


def check_config(config: AuthConfig) -> None:
    """Refuse a configuration whose token request or signature could never be made."""
    if isinstance(config, ClientCredentials):
        _refuse(config.extra_params, _FORM, "/extra_params")
        _check_headers(config)
    elif isinstance(config, OAuth2Jwt | PrivateKeyJwt):
        _refuse(config.extra_params, _CLAIMS, "/extra_params")
        _refuse(config.extra_headers, _JOSE, "/extra_headers")
        signed_jwt(config, now=datetime.fromtimestamp(0, UTC), jti="")  # only to see that it can


def _refuse(given: Collection[str], ours: frozenset[str], pointer: str) -> None:
    if taken := sorted(ours & {name.lower() for name in given}):
        raise Invalid(f"{taken[0]} is set by Keyturn and cannot be given here.", pointer=pointer)


def _check_headers(config: ClientCredentials) -> None:
    ours = OURS | {"content-type"} | ({"authorization"} if config.basic_auth_in_header else set())
    _refuse(config.custom_headers, ours, "/custom_headers")
    for name, value in config.custom_headers.items():
        encoded = value.encode("utf-8", "surrogatepass")
        if not (HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(encoded)):
            raise Invalid("A header holds what none may hold.", pointer="/custom_headers")
