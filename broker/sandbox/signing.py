"""Keys and JWTs: written out by hand, so that what checks our ID tokens is checked by another's.

* Every algorithm has its key; ``rotate`` makes new ones under new names, and the JWKS shows those
  of the last two times.
* ``HS256`` signs with the client's secret, where a dialect says so (OpenID Connect Core 10.1).
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from broker.sandbox.knobs import IdAlgorithm

PUBLISHED: Final[tuple[IdAlgorithm, ...]] = ("RS256", "ES256", "ES256K", "EdDSA")
UNPUBLISHED: Final = -1
_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {"ES256": ec.SECP256R1(), "ES256K": ec.SECP256K1()}
_COORDINATE: Final = 32  # bytes

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Keys:
    """The signing keys of one sandbox."""

    def __init__(self) -> None:
        self._times = 0

    def rotate(self) -> None:
        self._times += 1

    def jwks(self) -> dict[str, Any]:
        """RFC 7517."""
        times = range(max(0, self._times - 1), self._times + 1)
        return {"keys": [_jwk(one, time) for time in times for one in PUBLISHED]}

    def sign(
        self,
        claims: Mapping[str, Any],
        algorithm: IdAlgorithm,
        *,
        secret: str = "",
        signed_by: Literal["published", "other", "none"] = "published",
    ) -> str:
        """A JWT; ``other`` and ``none`` are those that nobody may believe."""
        if signed_by == "none":
            return _encoded({"alg": "none", "typ": "JWT"}) + "." + _encoded(claims) + "."
        head = {"alg": algorithm, "typ": "JWT"}
        if algorithm != "HS256":
            head["kid"] = _name(algorithm, self._times)
        signed = f"{_encoded(head)}.{_encoded(claims)}"
        if algorithm == "HS256":
            key = secret if signed_by == "published" else secret + "?"
            signature = hmac.digest(key.encode(), signed.encode(), hashlib.sha256)
        else:
            time = self._times if signed_by == "published" else UNPUBLISHED
            signature = _signature(_key(algorithm, time), signed.encode())
        return f"{signed}.{_base64(signature)}"


def half_hash(text: str) -> str:
    """``at_hash`` (OpenID Connect Core 3.1.3.6)."""
    return _base64(hashlib.sha256(text.encode()).digest()[:16])


@cache
def _key(algorithm: IdAlgorithm, time: int) -> Private:  # noqa: ARG001 - it is of the cache's key
    """The same key for every sandbox of a process: making one is slow, and nothing is secret."""
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(_CURVES[algorithm])


def _signature(key: Private, signed: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signed, padding.PKCS1v15(), SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(signed)
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(SHA256())))
    return r.to_bytes(_COORDINATE) + s.to_bytes(_COORDINATE)  # RFC 7518 section 3.4


def _jwk(algorithm: IdAlgorithm, time: int) -> dict[str, str]:
    key = _key(algorithm, time).public_key()
    found = {"use": "sig", "alg": algorithm, "kid": _name(algorithm, time)}
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return found | {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return found | {"kty": "OKP", "crv": "Ed25519", "x": _base64(raw)}
    point = key.public_numbers()
    return found | {
        "kty": "EC",
        "crv": {"ES256": "P-256", "ES256K": "secp256k1"}[algorithm],
        "x": _base64(point.x.to_bytes(_COORDINATE)),
        "y": _base64(point.y.to_bytes(_COORDINATE)),
    }


def _name(algorithm: str, time: int) -> str:
    return f"{algorithm.lower()}-{time}"


def _number(value: int) -> str:
    return _base64(value.to_bytes((value.bit_length() + 7) // 8))


def _encoded(part: Mapping[str, Any]) -> str:
    return _base64(json.dumps(part, separators=(",", ":")).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
