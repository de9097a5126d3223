"""Keys for JWTs: which key fits which algorithm, and what a refused one may say. Pure.

* A key fits one family of algorithms and no other: a shared secret never verifies what a public
  key should, and the other way round.
* RSA keys below 2048 bits neither sign nor verify (RFC 7518 section 3.3), and absurdly long ones,
  which only cost time, do not verify either.
* A key that does not fit is refused without a word of the library's, which quotes the key.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from vault.errors import Invalid

Key = OctKey | RSAKey | ECKey | OKPKey

MIN_RSA_BITS: Final = 2_048
MAX_RSA_BITS: Final = 8_192

# What a JWK has to be for an algorithm; RSA has no curve.
CURVES: Final[dict[str, tuple[str, str | None]]] = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "ES256K": ("EC", "secp256k1"),  # RFC 8812
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),  # RFC 9864: EdDSA's name since 2025
}
# Tried in this order where nobody says which; the first that the key fits.
USUAL: Final = ("RS256", "ES256", "ES384", "ES512", "EdDSA")
SHARED: Final = frozenset({"HS256", "HS384", "HS512"})

_KINDS: Final = {
    "HS": "a shared secret as plain text",
    "RS": "a private RSA key of at least 2048 bits as unencrypted PEM",
    "PS": "a private RSA key of at least 2048 bits as unencrypted PEM",
    "ES": "a private key of the matching curve (P-256, P-384, P-521) as unencrypted PEM",
    "Ed": "a private Ed25519 key as unencrypted PEM",
}


def imported(text: str, algorithm: str) -> Key:
    """The key in this text, for this algorithm. Call it inside ``key_errors``."""
    if algorithm in SHARED:
        if "-----BEGIN" in text:
            raise ValueError("a PEM is no shared secret")  # the usual confusion of algorithms
        return OctKey.import_key(text)
    kind, _ = CURVES[algorithm]
    if kind == "EC":
        return ECKey.import_key(text)
    if kind == "OKP":
        return OKPKey.import_key(text)
    return _sized(RSAKey.import_key(text))


def signing_key(text: str, algorithm: str | None, pointer: str) -> tuple[Key, str | None, str]:
    """A key that signs, the name that it has if it is a JWK, and the algorithm to use.

    Without an ``algorithm`` it is the JWK's ``alg``, or the first of ``USUAL`` that the key fits.
    """
    jwk = None if algorithm in SHARED else _jwk(text)
    said, name = (jwk or {}).get("alg"), (jwk or {}).get("kid")
    named = algorithm or (said if isinstance(said, str) and said in CURVES else None)
    for one in (named,) if named else USUAL:
        with suppress(Invalid), key_errors(one):
            key = _private(jwk, one) if jwk else imported(text, one)
            if key.is_private and (one in SHARED or _curve(key) == CURVES[one][1]):
                return key, name if isinstance(name, str) else None, one
    with key_errors(named or "RS256", pointer):
        raise ValueError("none fits")


def public(jwk: Mapping[str, Any]) -> Key:
    """The public key of a JWK; nothing else of it is looked at. Call it inside ``key_errors``."""
    kind = jwk["kty"]
    if kind == "EC":
        return ECKey.import_key({name: jwk[name] for name in ("kty", "crv", "x", "y")})
    if kind == "OKP":
        return OKPKey.import_key({name: jwk[name] for name in ("kty", "crv", "x")})
    return _sized(RSAKey.import_key({name: jwk[name] for name in ("kty", "n", "e")}))


def _jwk(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _private(jwk: dict[str, Any], algorithm: str) -> Key:
    kinds: dict[str | None, type[RSAKey | ECKey | OKPKey]] = {
        "RSA": RSAKey,
        "EC": ECKey,
        "OKP": OKPKey,
    }
    if jwk.get("kty") != CURVES[algorithm][0]:
        raise ValueError("another kind of key")
    # What the key says it is for would make the library refuse it in its own words.
    own = {name: value for name, value in jwk.items() if name not in ("use", "key_ops", "alg")}
    key = kinds[jwk.get("kty")].import_key(own)
    return _sized(key) if isinstance(key, RSAKey) else key


def _curve(key: Key) -> str | None:
    return key.curve_name if isinstance(key, ECKey | OKPKey) else None


def _sized(key: RSAKey) -> RSAKey:
    if not MIN_RSA_BITS <= key.raw_value.key_size <= MAX_RSA_BITS:
        raise ValueError("not between the shortest and the longest")
    return key


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's warnings: of short shared secrets, and of EdDSA's old name.

    The provider chose them; we cannot.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def key_errors(algorithm: str, pointer: str | None = None) -> Iterator[None]:
    """Say that a key does not fit without a word of the library's, which quotes it."""
    try:
        with quiet():
            yield
    except Exception:  # noqa: BLE001 - whatever it is, its text may quote the key
        raise Invalid(
            f"This key cannot sign with {algorithm}: it needs {_KINDS[algorithm[:2]]}.",
            pointer=pointer,
        ) from None
