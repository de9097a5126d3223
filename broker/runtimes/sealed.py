"""A conversation inside a token that only its runtime can open: a signed JWT, encrypted.

* Inside is a JWS (``Ed25519``, RFC 9864) by the workspace's signing key: who, for which agent, in
  which environment, with which variables. Outside is a JWE (``ECDH-ES``, ``A256GCM``) for the
  profile's ``public_key``: the browser that carries it reads nothing but its length.
* Opening proves nothing, since everybody may encrypt for a public key. The signature does; so the
  runtime verifies it, ``iss``, ``aud``, ``exp``, and that it has not seen this ``jti`` before.
* ``iss`` is the address of the workspace's public keys, so one text is pinned and fetched from.
* It lives five minutes, by the database's clock, and is at most 8 kB: a header carries it. What
  is larger, or has no public key, travels as an opaque token that is redeemed.
* ``public_key`` is a JWK on P-256, P-384, P-521 or X25519; whatever else it holds is not looked at,
  but a private part is refused, so that nobody trusts us with it by mistake.

Pure: keys and times come from the caller.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from joserfc import jwe, jws
from joserfc.jwk import ECKey, OKPKey
from msgspec import Struct

from vault.errors import Invalid
from vault.model import new_id
from vault.secret import Secret

LIFETIME: Final = timedelta(minutes=5)
MAX_TOKEN: Final = 8 * 1024  # bytes
SIGNED_TYPE: Final = "keyturn-conversation+jwt"

_SIGNATURE: Final = "Ed25519"
_AGREEMENT: Final = "ECDH-ES"
_ENCRYPTION: Final = "A256GCM"
_CURVES: Final[dict[str, type[ECKey | OKPKey]]] = {
    "P-256": ECKey,
    "P-384": ECKey,
    "P-521": ECKey,
    "X25519": OKPKey,
}
_PUBLIC: Final = ("kty", "crv", "x", "y")
_POINTER: Final = "/public_key"
_MAX_KID: Final = 200

Scalar = str | bool | int | float


class SigningKey(Struct, frozen=True):
    """What signs for a workspace; ``private`` is a JWK."""

    key_id: str
    private: Secret


class Contents(Struct, frozen=True, kw_only=True):
    """What a token says, and to whom. Its repr shows none of the values."""

    issuer: str
    agent_id: str
    user_id: str
    environment: str
    variables: Mapping[str, Scalar]

    def __repr__(self) -> str:
        return f"Contents({self.agent_id})"


def new_signing_key() -> tuple[SigningKey, str]:
    """A fresh key, and the ``x`` that is its public half."""
    key = OKPKey.generate_key("Ed25519")
    held = key.as_dict(private=True)
    private = {name: held[name] for name in ("kty", "crv", "x", "d")}
    return SigningKey(new_id("ksk"), Secret(json.dumps(private))), str(held["x"])


def public_jwk(key_id: str, x: str) -> dict[str, str]:
    """How a key stands in the workspace's JWKS."""
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": x,
        "kid": key_id,
        "use": "sig",
        "alg": _SIGNATURE,
    }


def check_public_key(jwk: Mapping[str, Any]) -> None:
    """Refuse what no token could be encrypted for; ``Invalid`` says why."""
    if "d" in jwk:
        raise Invalid("This is a private key: send its public part only.", pointer=_POINTER)
    if str(jwk.get("crv")) not in _CURVES:
        raise Invalid(
            f"A public key is a JWK on one of the curves {', '.join(_CURVES)}.", pointer=_POINTER
        )
    kid = jwk.get("kid")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= _MAX_KID):
        raise Invalid(f"A key's kid is a text of at most {_MAX_KID} characters.", pointer=_POINTER)
    # Tried out: a point may lie on the curve, or look so, and still agree on nothing.
    _encrypted(b"", jwk)


def sealed_token(
    contents: Contents, key: SigningKey, recipient: Mapping[str, Any], now: datetime
) -> Secret | None:
    """Sign for the agent, and encrypt for its runtime; ``None`` where that is too large."""
    issued = int(now.timestamp())
    claims = {
        "iss": contents.issuer,
        "aud": contents.agent_id,
        "sub": contents.user_id,
        "jti": new_id("jti"),
        "iat": issued,
        "exp": issued + int(LIFETIME.total_seconds()),
        "environment": contents.environment,
        "variables": dict(contents.variables),
    }
    token = _encrypted(_signed(msgspec.json.encode(claims), key), recipient)
    return Secret(token) if len(token) <= MAX_TOKEN else None


def _signed(claims: bytes, key: SigningKey) -> bytes:
    header = {"typ": SIGNED_TYPE, "alg": _SIGNATURE, "kid": key.key_id}
    private = OKPKey.import_key(json.loads(key.private.reveal()))
    return jws.serialize_compact(header, claims, private, algorithms=[_SIGNATURE]).encode()


def _encrypted(signed: bytes, recipient: Mapping[str, Any]) -> str:
    header = {"alg": _AGREEMENT, "enc": _ENCRYPTION, "cty": "JWT"}
    if (kid := recipient.get("kid")) is not None:
        header["kid"] = kid
    try:
        key = _CURVES[recipient["crv"]].import_key(
            {name: recipient[name] for name in _PUBLIC if name in recipient}
        )
        return jwe.encrypt_compact(header, signed, key, algorithms=[_AGREEMENT, _ENCRYPTION])
    except Exception:  # noqa: BLE001 - whatever it is, its text may quote the key or the token
        raise Invalid("Nothing can be encrypted for this public key.", pointer=_POINTER) from None
