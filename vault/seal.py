"""Plaintext becomes sealed bytes, and sealed bytes become plaintext again, or an error.

* Every record has its own key, derived from a fresh salt: no message limit, and a repeated nonce
  under one salt is as unlikely as a repeated 28-byte random number.
* A record opens only where it was sealed: workspace, table, row, field, generation and environment
  are authenticated. The caller builds that ``Context`` from the authenticated request, never from
  the row that came back, so a row that was moved or rolled back does not open.
* A record opens under one key only: AES-GCM alone does not commit to its key ("invisible
  salamanders"), so a commitment is derived with the key and compared before anything is decrypted.
* Whatever is wrong, the error is an ``IntegrityError``, and there is never a wrong plaintext.
* No I/O, no cache, no plaintext mode. Only this file and ``vault/kms/file.py`` build an ``AESGCM``.

The bytes, version 1 (``docs/reference/format.md`` has a decoder)::

    01 | key_id 16 | salt 16 | commitment 32 | nonce 12 | ciphertext | tag 16

The keys::

    workspace key 32 --HKDF "keyturn/enc/1"--> data key
    data key || user's key 32 --HKDF "keyturn/usr/1"--> owner key of a user's rows
                                                        (of other rows: the data key)
    owner key --HKDF-Expand "keyturn/rec/1" || salt--> record key 32 || commitment 32

The associated data: each part after its length as u32, big-endian, because ``a|b`` + ``c`` and
``a`` + ``b|c`` are the same bytes without::

    "keyturn/1" | 01 | key_id | workspace | table | row | field | generation u64 | environment
                | commitment
"""

import os
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from hmac import compare_digest
from struct import Struct as Packing
from typing import Final, NoReturn, Self, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from vault.errors import IntegrityError

KEY_SIZE: Final = 32
KEY_ID_SIZE: Final = 16
SALT_SIZE: Final = 16
COMMITMENT_SIZE: Final = 32
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
BLIND_INDEX_SIZE: Final = 16

_VERSION = b"\x01"
_SALT_AT = len(_VERSION) + KEY_ID_SIZE
_HEADER = Packing(f">{_SALT_AT}x {SALT_SIZE}s {COMMITMENT_SIZE}s {NONCE_SIZE}s")
_BODY_AT = _HEADER.size
_FRESH_SIZE = SALT_SIZE + NONCE_SIZE
_MIN_SIZE = _BODY_AT + TAG_SIZE
OVERHEAD: Final = _MIN_SIZE

_ZEROS = bytes(2 * KEY_SIZE)
_SHA256 = SHA256()
_u32 = Packing(">I").pack
_u64 = Packing(">Q").pack
_salt_commitment_nonce = _HEADER.unpack_from


class UnknownKey(IntegrityError):
    """A sealed value asks for a key that is not the one given."""


class Context(Struct, frozen=True, kw_only=True):
    """Who and where. Two records with the same context are two states of one field."""

    workspace: str
    table: str
    row: str
    field: str
    generation: int
    environment: str = ""


@final
class KeyMaterial(bytearray):
    """Key bytes that are zeroed when the last holder lets go, and that nothing prints.

    Wiping on release, not on eviction: a request that still holds an evicted key must not
    seal with zeros. Copies inside OpenSSL and the interpreter are out of our reach.
    """

    def __del__(self) -> None:
        self[:] = bytes(len(self))

    def __repr__(self) -> str:
        return "KeyMaterial(***)"

    __str__ = __repr__

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("key material is not serializable")


@final
class Keyed:
    """HMAC-SHA256 with a key that is scheduled once, for whoever hashes often with it."""

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes | bytearray) -> None:
        self._keyed = HMAC(key, _SHA256)

    def hash(self, message: bytes) -> bytes:
        one = self._keyed.copy()
        one.update(message)
        return one.finalize()

    def __repr__(self) -> str:
        return "Keyed(***)"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a Keyed is not serializable")


@final
class SealingKey:
    """What seals and opens the rows of one workspace, or of one user in it."""

    __slots__ = ("_keyed", "_owner", "head", "key_id")

    def __init__(self, key_id: bytes, owner: KeyMaterial) -> None:
        self.key_id = key_id
        self.head = _VERSION + key_id  # what begins everything that it seals
        self._owner = owner
        self._keyed = HMAC(owner, _SHA256)

    @classmethod
    def from_workspace_key(cls, key_id: bytes, key: bytes) -> Self:
        """Derive what we use from the workspace's key; the key itself is not kept."""
        if len(key_id) != KEY_ID_SIZE:
            raise _wrong_size("key id", KEY_ID_SIZE)
        if len(key) != KEY_SIZE:
            raise _wrong_size("workspace key", KEY_SIZE)
        return cls(key_id, _derive(key, b"keyturn/enc/1"))

    def for_user(self, user_key: bytes) -> "SealingKey":
        """Return the key of this user's rows: without the user's own key they cannot be opened."""
        if len(user_key) != KEY_SIZE:
            raise _wrong_size("user key", KEY_SIZE)
        both = self._owner + user_key
        owner = _derive(both, b"keyturn/usr/1")
        both[:] = _ZEROS  # here and not by its last holder: a user's key is made for every request
        return SealingKey(self.key_id, owner)

    def record_keys(self, salt: bytes) -> tuple[bytes, bytes]:
        """Return the record's key and its commitment.

        They are the two blocks of HKDF-Expand (RFC 5869, section 2.3), made with one HMAC that has
        the key already: a user's key opens many records at a time.
        """
        info = b"keyturn/rec/1" + salt
        first = self._keyed.copy()
        first.update(info + b"\x01")
        record_key = first.finalize()
        second = self._keyed.copy()
        second.update(record_key + info + b"\x02")
        return record_key, second.finalize()

    def __repr__(self) -> str:
        return f"SealingKey({self.key_id.hex()}, ***)"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a SealingKey is not serializable")


def seal(
    key: SealingKey,
    context: Context,
    plaintext: bytes,
    *,
    random: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """Seal; ``random`` gives salt and nonce in one go, and is another one for vectors only."""
    fresh = random(_FRESH_SIZE)
    if len(fresh) != _FRESH_SIZE:
        raise _wrong_size("salt and nonce", _FRESH_SIZE)
    salt, nonce = fresh[:SALT_SIZE], fresh[SALT_SIZE:]
    record_key, commitment = key.record_keys(salt)
    associated = _associated_data(key.key_id, context, commitment)
    body = AESGCM(record_key).encrypt(nonce, plaintext, associated)
    return b"".join((key.head, salt, commitment, nonce, body))


def open_sealed(key: SealingKey, context: Context, sealed: bytes) -> bytes:
    """Open what ``seal`` made for this key and context, and nothing else."""
    if not sealed.startswith(key.head) or len(sealed) < _MIN_SIZE:
        key_id_of(sealed)  # which says what is wrong, unless it is the key
        raise UnknownKey
    salt, claimed, nonce = _salt_commitment_nonce(sealed)
    record_key, commitment = key.record_keys(salt)
    if not compare_digest(commitment, claimed):
        raise IntegrityError
    associated = _associated_data(key.key_id, context, commitment)
    try:
        return AESGCM(record_key).decrypt(nonce, sealed[_BODY_AT:], associated)
    except InvalidTag:
        raise IntegrityError from None


def key_id_of(sealed: bytes) -> bytes:
    """Return the id of the key that a sealed value asks for: which one to fetch, no more."""
    if sealed[:1] != _VERSION:
        raise IntegrityError("This value is sealed in a format that this version does not know.")
    if len(sealed) < _MIN_SIZE:
        raise IntegrityError("This sealed value is cut short.")
    return sealed[len(_VERSION) : _SALT_AT]


def blind_index(index_key: Keyed, field: str, value: str) -> bytes:
    """Return 16 bytes that equal values of one field share; never made of a token.

    The value is normalised (NFC) first: a name typed on two keyboards is one name.
    """
    message = _prefixed((field.encode(), unicodedata.normalize("NFC", value).encode()))
    return index_key.hash(message)[:BLIND_INDEX_SIZE]


def _associated_data(key_id: bytes, context: Context, commitment: bytes) -> bytes:
    row = context.row.encode()
    return b"".join(
        (
            _before_row(key_id, context.workspace, context.table),
            _u32(len(row)),
            row,
            _after_row(context.field, context.generation, context.environment),
            commitment,
        )
    )


# Of many records only the row is another one. What is remembered here is no secret.


@lru_cache(maxsize=4_096)
def _before_row(key_id: bytes, workspace: str, table: str) -> bytes:
    return _prefixed((b"keyturn/1", _VERSION, key_id, workspace.encode(), table.encode()))


@lru_cache(maxsize=4_096)
def _after_row(field: str, generation: int, environment: str) -> bytes:
    parts = (field.encode(), _u64(generation), environment.encode())
    return _prefixed(parts) + _u32(COMMITMENT_SIZE)


def _prefixed(parts: tuple[bytes, ...]) -> bytes:
    return b"".join([_u32(len(part)) + part for part in parts])


def _derive(key: bytes | bytearray, label: bytes) -> KeyMaterial:
    material = KeyMaterial(KEY_SIZE)
    HKDF(_SHA256, KEY_SIZE, salt=None, info=label).derive_into(key, material)
    return material


def _wrong_size(name: str, size: int) -> ValueError:
    return ValueError(f"a {name} has {size} bytes")
