"""Open a sealed value, written from docs/reference/format.md alone: it imports nothing of ours."""

import hashlib
import hmac
import struct
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def extract(key: bytes) -> bytes:
    return hmac.digest(bytes(32), key, "sha256")


def expand(key: bytes, info: bytes, size: int) -> bytes:
    block = out = b""
    for number in range(1, -(-size // hashlib.sha256().digest_size) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        out += block
    return out[:size]


def derive(key: bytes, label: bytes) -> bytes:
    return expand(extract(key), label, 32)


def decode(
    key_id: bytes, key: bytes, user_key: bytes, where: dict[str, Any], sealed: bytes
) -> bytes:
    """``user_key`` is empty for a row that belongs to no user."""
    if sealed[0] != 1 or sealed[1:17] != key_id or len(sealed) < 93:
        raise ValueError("not version 1, another key, or cut short")
    salt, commitment = sealed[17:33], sealed[33:65]
    owner = derive(key, b"keyturn/enc/1")
    if user_key:
        owner = derive(owner + user_key, b"keyturn/usr/1")
    derived = expand(owner, b"keyturn/rec/1" + salt, 64)
    if not hmac.compare_digest(derived[32:], commitment):
        raise ValueError("the commitment is another key's")
    parts = [b"keyturn/1", b"\x01", key_id]
    parts += [where[name].encode() for name in ("workspace", "table", "row", "field")]
    parts += [struct.pack(">Q", where["generation"]), where["environment"].encode(), commitment]
    associated = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return AESGCM(derived[:32]).decrypt(sealed[65:77], sealed[77:], associated)
