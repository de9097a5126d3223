"""Keys of every kind, and auth connections that sign with them."""

import json
from base64 import urlsafe_b64decode
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from vault.auth_kinds import Algorithm, OAuth2Jwt, PrivateKeyJwt

RSA_2048 = rsa.generate_private_key(65_537, 2_048)
RSA_1024 = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - to see that it is refused
EC_KEYS = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
}
SHARED = "a shared secret of the usual length, 44 bytes"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def pem(key: Private, passphrase: bytes | None = None) -> str:
    locked = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked).decode()


def public_pem(key: Private) -> str:
    found = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found.decode()


def keys(algorithm: Algorithm) -> tuple[str, str]:
    """What signs, and what verifies."""
    if algorithm.startswith("HS"):
        return SHARED, SHARED
    key: Private = EC_KEYS[algorithm] if algorithm.startswith("ES") else RSA_2048
    return pem(key), public_pem(key)


def own_jwt(**fields: Any) -> PrivateKeyJwt:
    return PrivateKeyJwt(
        **{
            "provider": "p",
            "issuer": "iss",
            "audience": "https://aud.example",
            "subject": "sub",
            "secret_key": "a shared secret",
            **fields,
        }
    )


def traded_jwt(**fields: Any) -> OAuth2Jwt:
    own = own_jwt()
    return OAuth2Jwt(
        **{
            "provider": "p",
            "issuer": own.issuer,
            "audience": own.audience,
            "subject": own.subject,
            "secret_key": own.secret_key,
            "token_url": "https://auth.example.com/token",
            **fields,
        }
    )


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = token.split(".")
    decoded = [json.loads(urlsafe_b64decode(one + "==")) for one in (header, claims)]
    return decoded[0], decoded[1]
