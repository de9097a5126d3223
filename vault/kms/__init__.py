"""Root keys: what wraps the workspaces' keys, and never lies in the database.

* One protocol, four methods; each backend has its own module, loaded only when it is configured.
* A wrapped key opens only for the context that it was wrapped for. That does not depend on the
  backend: the context's hash stands before the key inside the wrapped plaintext, and is compared
  after unwrapping. A backend with associated data of its own binds the context there too.
* A context holds identifiers only: key services log it in clear.
* Without a root key nothing starts: there is no plaintext mode.

What a backend wraps::

    sha256(context) 32 | key

The context, each part after its length as u32, big-endian::

    "keyturn/wrap/1" | app | deployment_id | workspace | key_id | purpose
"""

import hashlib
import hmac
import os
import stat
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Final, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct

from vault.errors import IntegrityError, Misconfigured
from vault.secret import Secret

_HASH_SIZE = 32


class WrapContext(Struct, frozen=True, kw_only=True):
    """What a wrapped key is for.

    ``key_id`` is hexadecimal; it and the workspace are empty for the deployment's own secrets.
    """

    deployment_id: str
    purpose: str
    workspace: str = ""
    key_id: str = ""
    app: str = "keyturn"

    def canonical(self) -> bytes:
        """Return the one spelling of this context as bytes."""
        parts = ("keyturn/wrap/1", self.app, self.deployment_id, self.workspace, self.key_id)
        encoded = [part.encode() for part in (*parts, self.purpose)]
        return b"".join(pack(">I", len(part)) + part for part in encoded)


class Wrapped(Struct, frozen=True):
    """A key that only its root key opens."""

    blob: bytes
    root_key_id: str


class KeyInfo(Struct, frozen=True):
    """Which root key wraps now, and which ones still unwrap."""

    current: str
    known: tuple[str, ...]


class RootKeyUnknown(Misconfigured):
    """A key was wrapped by a root key that is not configured here: was the root key replaced?"""


class RootKey(Protocol):
    """A backend.

    It raises ``NotReady`` (or an ``OSError``) while the service is away, ``RootKeyUnknown`` where
    the key is not there, and ``IntegrityError`` where a blob is not what was wrapped for the
    context.
    """

    async def wrap(self, key: bytes, context: WrapContext) -> Wrapped:
        """Wrap with the current root key."""
        ...

    async def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        """Unwrap with the root key that wrapped it."""
        ...

    async def key_info(self) -> KeyInfo:
        """Tell which keys there are."""
        ...

    async def health(self) -> None:
        """Return if wrapping would work now; raise why it would not."""
        ...


def bind(key: bytes, context: WrapContext) -> bytes:
    """Put the context's hash before the key: what a backend has to wrap."""
    return hashlib.sha256(context.canonical()).digest() + key


def unbind(bound: bytes, context: WrapContext) -> bytes:
    """Return the key, if it was bound to this context."""
    expected = hashlib.sha256(context.canonical()).digest()
    if not hmac.compare_digest(bound[:_HASH_SIZE], expected):
        raise IntegrityError("This wrapped key belongs somewhere else.")
    return bound[_HASH_SIZE:]


def folder_of(uri: str | Secret) -> Path | None:
    """The folder of a root key that is a file, if nobody else can write to it and we can."""
    parts = urlsplit(uri if isinstance(uri, str) else uri.reveal())
    if parts.scheme != "file":
        return None
    folder = Path(unquote(parts.path)).parent
    try:
        others_write = stat.S_IMODE(folder.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    except OSError:
        return None
    return None if others_write or not os.access(folder, os.W_OK | os.X_OK) else folder


def _file(uri: SplitResult) -> RootKey:
    from vault.kms.file import FileRootKey

    if uri.netloc or not uri.path.startswith("/") or uri.query or uri.fragment:
        raise Misconfigured("The root key file is named as file:///absolute/path.")
    return FileRootKey(unquote(uri.path))


_BACKENDS: Final[dict[str, Callable[[SplitResult], RootKey]]] = {"file": _file}


def open_root_key(uri: str | Secret) -> RootKey:
    """Open the root key that a URI names. The URI may hold a credential, so no error repeats it."""
    text = uri if isinstance(uri, str) else uri.reveal()
    known = ", ".join(f"{scheme}://" for scheme in sorted(_BACKENDS))
    try:
        parts = urlsplit(text)
    except ValueError:
        raise Misconfigured(f"The root key's URI cannot be read. It begins with {known}.") from None
    backend = _BACKENDS.get(parts.scheme)
    if backend is None:
        raise Misconfigured(f"The root key's URI begins with none of: {known}.")
    return backend(parts)
