"""ID tokens: who signed one, for whom, when, and for which sign-in. Pure.

* Which algorithms count is said by the provider's file and by its discovery document; never by the
  token. Only a file opens HS256, whose key is the client's secret and never anything published.
* A key comes from the keys that the issuer publishes. What a token's header offers instead
  (``jwk``, ``jku``, ``x5u``) is not looked at; ``crit`` is refused.
* ``iss`` equals the issuer, character for character. ``aud`` names us; if it names others too,
  ``azp`` has to be us, and wherever ``azp`` stands it is us.
* ``exp`` and ``iat`` have to be there; clocks may differ by ``LEEWAY`` seconds.
* A refusal names the rule that broke and no value.
"""

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from joserfc import jwt
from joserfc.jwk import OctKey
from joserfc.jws import JWSRegistry
from msgspec import Struct
from msgspec.structs import replace

from vault.errors import UpstreamFailed
from vault.oauth.app import Endpoints
from vault.oauth.keys import CURVES, SHARED, Key, public, quiet
from vault.oauth.replies import MAX_TOKEN
from vault.providers.schema import Oidc, Provider
from vault.secret import Secret

LEEWAY: Final = 60  # seconds
MAX_HEADER: Final = 8_192  # characters; some send a chain of certificates along
MAX_TRIED: Final = 8  # keys, for a token that does not name its own
MAX_SUB: Final = 255  # OpenID Connect Core section 2

_TID: Final = "{tid}"
_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_HASHES: Final = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}

Claims = Mapping[str, Any]


class IdTokenRefused(UpstreamFailed):
    """The ID token cannot be believed."""


class Unverified(Struct, frozen=True, kw_only=True):
    """What a token says of itself before anything is checked: enough to find its keys."""

    algorithm: str
    kid: str | None
    tid: str | None

    def __repr__(self) -> str:
        return "Unverified(***)"


def expected(provider: Provider, endpoints: Endpoints | None) -> Oidc | None:
    """What this provider's ID tokens look like, by its file and by what discovery found.

    Discovery adds algorithms with published keys only, so that it cannot open HS256.
    """
    oidc = provider.oidc
    if endpoints is None or (oidc is None and endpoints.jwks_url is None):
        return oidc
    oidc = oidc or Oidc(issuer=endpoints.issuer)
    found = (one for one in endpoints.algorithms if one in CURVES)
    return replace(
        oidc,
        jwks_url=oidc.jwks_url or endpoints.jwks_url,
        algorithms=tuple(dict.fromkeys((*oidc.algorithms, *found))),
    )


def unverified(token: Secret) -> Unverified:
    """Look into a token without believing it."""
    header, claims = _parts(token)
    algorithm, kid, tid = header.get("alg"), header.get("kid"), claims.get("tid")
    if not isinstance(algorithm, str) or not isinstance(kid, str | None):
        raise IdTokenRefused("The ID token's header cannot be read.")
    if not isinstance(tid, str) or _GUID.fullmatch(tid) is None:
        tid = None
    return Unverified(algorithm=algorithm, kid=kid, tid=tid)


def issuer_of(issuer: str, tid: str | None) -> str:
    """The issuer of a token whose ``tid`` is this one; where ``{tid}`` stands, it has to be one."""
    if _TID not in issuer:
        return issuer
    if tid is None:
        raise IdTokenRefused("The ID token does not say which tenant it is of.")
    return issuer.replace(_TID, tid)


def verify(  # noqa: PLR0913 - each is a thing that a token has to fit
    token: Secret,
    *,
    oidc: Oidc,
    issuer: str,
    client_id: str,
    client_secret: Secret | None,
    nonce: str | None,
    keys: Mapping[str, Any],
    now: datetime,
    access_token: Secret | None = None,
) -> Claims:
    """Return a token's claims once all of it has been checked; raises ``IdTokenRefused``.

    ``issuer``: the file's, filled, in which ``{tid}`` may stand. ``keys``: the issuer's JWKS.
    ``nonce`` and ``access_token``: what belongs to the token, ``None`` where there is none.
    """
    said = unverified(token)
    if said.algorithm not in oidc.algorithms or said.algorithm not in SHARED | CURVES.keys():
        raise IdTokenRefused("The ID token is signed with an algorithm that is not expected.")
    issuer = issuer_of(issuer, said.tid)
    if said.algorithm in SHARED:
        claims = _signed_by(token, said.algorithm, _shared(client_secret))
    else:
        claims = _signed_by(token, said.algorithm, _published(said, keys, issuer))
    _check_parties(claims, issuer, client_id)
    _check_times(claims, now.timestamp())
    _check_nonce(claims, nonce, required=oidc.nonce == "required")
    _check_access_token(claims, said.algorithm, access_token)
    return claims


def names_key(keys: Mapping[str, Any], kid: str) -> bool:
    """Is there a key of this name among them?"""
    return any(jwk.get("kid") == kid for jwk in _jwks(keys))


# The signature


def _parts(token: Secret) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims, unverified."""
    whole = token.reveal_bytes()
    pieces = whole.split(b".")
    if len(whole) > MAX_TOKEN or len(pieces) != 3 or len(pieces[0]) > MAX_HEADER:  # noqa: PLR2004 - RFC 7515 section 7.1
        raise IdTokenRefused("This is not a signed JWT of a usual size.")
    header, claims = (_object(piece) for piece in pieces[:2])
    if header is None or claims is None or "crit" in header:
        raise IdTokenRefused("The ID token cannot be read.")
    return header, claims


def _object(piece: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(urlsafe_b64decode(piece + b"=" * (-len(piece) % 4)))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _signed_by(token: Secret, algorithm: str, keys: Iterator[Key]) -> Claims:
    """The claims, if one of these keys made the signature."""
    # Header fields that are not known are to be ignored (RFC 7515 section 4).
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.max_header_length = MAX_HEADER
    tried = 0
    with quiet():
        for key in keys:
            tried += 1
            try:
                return jwt.decode(token.reveal(), key, [algorithm], registry).claims
            except Exception:  # noqa: BLE001, S112 - no reason of a library's opens anything
                continue
    if not tried:
        raise IdTokenRefused("The ID token is signed with a key that its issuer does not publish.")
    raise IdTokenRefused("The signature of the ID token does not hold.")


def _shared(client_secret: Secret | None) -> Iterator[Key]:
    if client_secret:
        yield OctKey.import_key(client_secret.reveal_bytes())


def _published(said: Unverified, keys: Mapping[str, Any], issuer: str) -> Iterator[Key]:
    fitting = [jwk for jwk in _jwks(keys) if _fits(jwk, said, issuer)]
    for jwk in fitting[:MAX_TRIED]:
        try:
            with quiet():
                key = public(jwk)
        except Exception:  # noqa: BLE001, S112 - a key that cannot be read is none (RFC 7517, 5)
            continue
        yield key


def _jwks(keys: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = keys.get("keys")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _fits(jwk: Mapping[str, Any], said: Unverified, issuer: str) -> bool:
    kind, curve = CURVES[said.algorithm]
    uses = jwk.get("key_ops")
    # Microsoft's keys say whose they are: those for private accounts sign for no company.
    owner = jwk.get("issuer")
    return (
        jwk.get("kty") == kind
        and (curve is None or jwk.get("crv") == curve)
        and (said.kid is None or jwk.get("kid") == said.kid)
        and jwk.get("use", "sig") == "sig"
        and (uses is None or (isinstance(uses, list) and "verify" in uses))
        and _same_algorithm(jwk.get("alg", said.algorithm), said.algorithm)
        and (not isinstance(owner, str) or owner.replace("{tenantid}", said.tid or "") == issuer)
    )


def _same_algorithm(one: object, other: str) -> bool:
    edwards = ("EdDSA", "Ed25519")  # the same, in two registries
    return one == other or (one in edwards and other in edwards)


# The claims


def _check_parties(claims: Claims, issuer: str, client_id: str) -> None:
    if claims.get("iss") != issuer:
        raise IdTokenRefused("The ID token was issued by somebody else.")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUB:
        raise IdTokenRefused("The ID token does not say whom it is about.")
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if client_id not in named or not client_id:
        raise IdTokenRefused("The ID token is meant for somebody else.")
    party = claims.get("azp")
    if (party is not None or len(named) > 1) and party != client_id:
        raise IdTokenRefused("The ID token was issued to somebody else.")


def _check_times(claims: Claims, now: float) -> None:
    expires, issued = _time(claims, "exp"), _time(claims, "iat")
    if expires is None or issued is None:
        raise IdTokenRefused("The ID token does not say from when to when it holds.")
    if expires + LEEWAY <= now:
        raise IdTokenRefused("The ID token has expired.")
    not_before = _time(claims, "nbf")
    if max(issued, not_before or issued) - LEEWAY > now:
        raise IdTokenRefused("The ID token is from the future: the clocks differ.")


def _time(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    # A bool is an int, Python's JSON knows NaN and Infinity, and an int can be too large for both.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise IdTokenRefused("A time in the ID token is not a number of seconds.")
    return float(value)


def _check_nonce(claims: Claims, nonce: str | None, *, required: bool) -> None:
    echoed = claims.get("nonce")
    if nonce is None or (echoed is None and not required):
        return
    if not isinstance(echoed, str) or not _equal(echoed, nonce):
        raise IdTokenRefused("The ID token belongs to another sign-in.")


def _check_access_token(claims: Claims, algorithm: str, access_token: Secret | None) -> None:
    said = claims.get("at_hash")
    if said is None or access_token is None:
        return
    # OpenID Connect Core section 3.1.3.6: the hash of the signature; Ed25519's own is SHA-512.
    digest = _HASHES.get(algorithm[2:5], hashlib.sha512)(access_token.reveal_bytes()).digest()
    half = urlsafe_b64encode(digest[: len(digest) // 2]).decode().rstrip("=")
    if not isinstance(said, str) or not _equal(said, half):
        raise IdTokenRefused("The ID token belongs to another access token.")


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(
        one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass")
    )
