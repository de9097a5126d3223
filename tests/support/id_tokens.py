"""ID tokens of every kind, signed by hand: nothing here is of the library that verifies them."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vault.secret import Secret

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ISSUER = "https://id.example.com"
CLIENT = "client-1"

Signer = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | bytes

RSA = rsa.generate_private_key(65_537, 2_048)
OTHER_RSA = rsa.generate_private_key(65_537, 2_048)
SHORT_RSA = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - to see that it is refused
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
K256 = ec.generate_private_key(ec.SECP256K1())
ED25519 = ed25519.Ed25519PrivateKey.generate()

SIGNERS: dict[str, Signer] = {
    "RS256": RSA,
    "RS384": RSA,
    "RS512": RSA,
    "PS256": RSA,
    "PS384": RSA,
    "PS512": RSA,
    "ES256": P256,
    "ES384": P384,
    "ES512": P521,
    "ES256K": K256,
    "EdDSA": ED25519,
    "Ed25519": ED25519,
}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def claims(**changed: Any) -> dict[str, Any]:
    """Usual claims; a change to ``None`` leaves one out."""
    at = int(NOW.timestamp())
    usual = {"iss": ISSUER, "sub": "s-1", "aud": CLIENT, "exp": at + 600, "iat": at, "nonce": "n-1"}
    return {name: value for name, value in (usual | changed).items() if value is not None}


def signed(
    says: Mapping[str, Any] | bytes,
    signer: Signer = RSA,
    algorithm: str = "RS256",
    **header: Any,
) -> Secret:
    head = {"alg": algorithm, **header}
    payload = says if isinstance(says, bytes) else json.dumps(says).encode()
    text = f"{encoded(json.dumps(head).encode())}.{encoded(payload)}"
    return Secret(f"{text}.{encoded(_signature(text.encode(), signer, algorithm))}")


def _signature(data: bytes, signer: Signer, algorithm: str) -> bytes:
    if isinstance(signer, ed25519.Ed25519PrivateKey):
        return signer.sign(data)
    size = algorithm[2:5]
    if isinstance(signer, bytes):
        return hmac.new(signer, data, getattr(hashlib, f"sha{size}")).digest()
    digest: hashes.HashAlgorithm = {
        "256": hashes.SHA256(),
        "384": hashes.SHA384(),
        "512": hashes.SHA512(),
    }[size]
    if isinstance(signer, rsa.RSAPrivateKey):
        if algorithm.startswith("PS"):
            salt = padding.PSS(padding.MGF1(digest), digest.digest_size)
            return signer.sign(data, salt, digest)
        return signer.sign(data, padding.PKCS1v15(), digest)
    width = (signer.curve.key_size + 7) // 8
    r, s = decode_dss_signature(signer.sign(data, ec.ECDSA(digest)))
    return r.to_bytes(width, "big") + s.to_bytes(width, "big")


def jwk(signer: Signer, **more: Any) -> dict[str, Any]:
    """The public key, as an issuer publishes it."""
    assert not isinstance(signer, bytes)
    if isinstance(signer, ed25519.Ed25519PrivateKey):
        raw = signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": encoded(raw), **more}
    if isinstance(signer, rsa.RSAPrivateKey):
        both = signer.public_key().public_numbers()
        return {"kty": "RSA", "n": _number(both.n), "e": _number(both.e), **more}
    point = signer.public_key().public_numbers()
    width = (signer.curve.key_size + 7) // 8
    x, y = (encoded(one.to_bytes(width, "big")) for one in (point.x, point.y))
    name = signer.curve.name
    return {"kty": "EC", "crv": _CURVES.get(name, name), "x": x, "y": y, **more}


def jwks(*keys: dict[str, Any]) -> dict[str, Any]:
    return {"keys": list(keys)}


def encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))
