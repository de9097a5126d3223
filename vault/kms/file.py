"""A root key in a file: for one machine, for systemd credentials, for Kubernetes secrets.

* The first key wraps; every key unwraps. To rotate: put a new line first, keep the old ones below
  until everything is rewrapped.
* A key's id follows from its content, so the order of the lines, a copy or another path change
  nothing. The file is read again when an id is missing and at each health check.
* The file is refused if others may read or change it, and it is never overwritten.

The file, at most 64 kB::

    # comments and blank lines
    <44 characters: 32 random bytes in base64>      the current key
    <44 characters>                                 a previous key

or exactly 32 raw bytes. The id is the first 16 hexadecimal digits of
``SHA-256("keyturn/root-key-id/1" || key)``. A wrapped key::

    01 | nonce 12 | AES-256-GCM(key, nonce, bound key, associated data = context) | tag 16

The nonce is random: a root key wraps a key per workspace and rotation, far from the 2**32
messages where random nonces begin to repeat (SP 800-38D, 8.3).
"""

import asyncio
import base64
import binascii
import hashlib
import os
import secrets
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.errors import IntegrityError, Misconfigured
from vault.kms import KeyInfo, RootKeyUnknown, WrapContext, Wrapped, bind, unbind

KEY_SIZE: Final = 32
LINE_LENGTH: Final = 44
MAX_FILE_SIZE: Final = 64 * 1024

_VERSION = b"\x01"
_NONCE_SIZE = 12
_TAG_SIZE = 16
_FEWEST_VALUES = 8
_HEADER = (
    "# Keyturn root keys: the first line wraps, the others still unwrap. Keep a copy elsewhere.\n"
)


class FileRootKey:
    """Root keys from one file, the current one first."""

    def __init__(self, path: str | Path, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self._path = Path(path)
        self._random = random
        self._keys = _load(self._path)

    async def wrap(self, key: bytes, context: WrapContext, by: str | None = None) -> Wrapped:
        """Wrap with the first key of the file, or with the one that ``by`` names."""
        root_key_id = by or next(iter(self._keys))
        root_key = await self._find(root_key_id)
        nonce = self._random(_NONCE_SIZE)
        body = AESGCM(root_key).encrypt(nonce, bind(key, context), context.canonical())
        return Wrapped(_VERSION + nonce + body, root_key_id)

    async def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        """Unwrap with the key that the id names."""
        root_key = await self._find(wrapped.root_key_id)
        blob = wrapped.blob
        if blob[:1] != _VERSION or len(blob) < len(_VERSION) + _NONCE_SIZE + _TAG_SIZE:
            raise IntegrityError("This wrapped key is not in a format that this version knows.")
        nonce, body = blob[1 : 1 + _NONCE_SIZE], blob[1 + _NONCE_SIZE :]
        try:
            bound = AESGCM(root_key).decrypt(nonce, body, context.canonical())
        except InvalidTag:
            raise IntegrityError("This wrapped key is not what was wrapped here.") from None
        return unbind(bound, context)

    async def key_info(self) -> KeyInfo:
        """Tell the ids, in the order of the file as it is now."""
        await self.health()
        known = tuple(self._keys)
        return KeyInfo(known[0], known)

    async def health(self) -> None:
        """Read the file again: a restart would have to."""
        self._keys = await asyncio.to_thread(_load, self._path)

    async def _find(self, root_key_id: str) -> bytes:
        if root_key_id not in self._keys:
            # Another replica may wrap with a new line that we have not read yet.
            await self.health()
        try:
            return self._keys[root_key_id]
        except KeyError:
            raise RootKeyUnknown from None


def new_line(*, random: Callable[[int], bytes] = os.urandom) -> str:
    """Make a root key, as a line of the file."""
    return base64.b64encode(random(KEY_SIZE)).decode()


def create(path: str | Path, *, random: Callable[[int], bytes] = os.urandom) -> bool:
    """Make a root key file; tell whether we did. An existing file is left alone.

    Of two starters one wins, and the other finds a complete file: the content is on disk
    under another name before the final name appears, and a link never replaces anything.
    """
    final = Path(path)
    draft = final.with_name(f".{final.name}.{secrets.token_hex(8)}")
    try:
        _write_new(draft, _HEADER + new_line(random=random) + "\n")
        try:
            final.hardlink_to(draft)
        finally:
            draft.unlink()
        _sync_directory(final.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise Misconfigured(
            f"The root key file {final} cannot be made: {error.strerror}."
        ) from error
    return True


def key_id(key: bytes) -> str:
    """Return a root key's id: it says which key, and nothing about it."""
    return hashlib.sha256(b"keyturn/root-key-id/1" + key).hexdigest()[:16]


def _load(path: Path) -> dict[str, bytes]:
    content = _read(path)
    keys = [content] if len(content) == KEY_SIZE else _parse(path, content)
    if not keys:
        raise Misconfigured(f"The root key file {path} holds no key.")
    for key in keys:
        _refuse_weak(path, key)
    return {key_id(key): key for key in keys}


def _read(path: Path) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer for ever.
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # What was opened is checked, not what the path names a moment later.
            check_protection(path, os.fstat(opened), os.geteuid())
            with os.fdopen(opened, "rb", closefd=False) as file:
                content = file.read(MAX_FILE_SIZE + 1)
        finally:
            os.close(opened)
    except FileNotFoundError:
        raise Misconfigured(
            f"There is no root key file at {path}. Make one with: keyturn key generate --root"
        ) from None
    except OSError as error:
        raise Misconfigured(
            f"The root key file {path} cannot be read: {error.strerror}."
        ) from error
    if len(content) > MAX_FILE_SIZE:
        raise Misconfigured(f"The root key file {path} is too large to be one.")
    return content


def check_protection(path: Path, status: os.stat_result, our_uid: int) -> None:
    """Refuse a key that others can read or change."""
    if not stat.S_ISREG(status.st_mode):
        raise Misconfigured(f"The root key file {path} is not a regular file.")
    open_to = stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    # systemd's LoadCredential (by ACL) and Kubernetes' fsGroup hand a service a file that root
    # owns and the service's group may read: 0440. There is no other way to give it to them.
    if open_to == stat.S_IRGRP and status.st_uid == 0 and our_uid != 0:
        return
    if open_to:
        raise Misconfigured(
            f"The root key file {path} is open to others. Close it with: "
            f"chmod 600 {shlex.quote(str(path))}"
        )


def _parse(path: Path, content: bytes) -> list[bytes]:
    keys = []
    for number, raw in enumerate(content.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith(b"#"):
            continue
        try:
            key = base64.b64decode(line, validate=True)
        except binascii.Error:
            key = b""
        # Encoding again refuses the spellings that differ in unused bits only.
        if len(key) != KEY_SIZE or base64.b64encode(key) != line:
            raise Misconfigured(
                f"Line {number} of the root key file {path} is not 32 bytes in base64 "
                f"({LINE_LENGTH} characters). Make one with: keyturn key generate --root"
            )
        keys.append(key)
    return keys


def _refuse_weak(path: Path, key: bytes) -> None:
    # Not an estimate of entropy: random bytes never look like this, and zeros or typed text do.
    if len(set(key)) < _FEWEST_VALUES or (key.isascii() and key.decode().isprintable()):
        raise Misconfigured(
            f"A key in the root key file {path} is not random. "
            "Make one with: keyturn key generate --root"
        )


def _write_new(path: Path, content: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
