"""Root keys: what wraps the workspaces' keys, and never lies in the database.

* One protocol, four methods; each backend has its own module, loaded only when it is configured,
  and most need an extra of this distribution.
* A wrapped key opens only for the context that it was wrapped for. That does not depend on the
  backend: the context's hash stands before the key inside the wrapped plaintext, and is compared
  after unwrapping. A backend with associated data of its own binds the context there too.
* A context holds identifiers only: key services log it in clear.
* Several root keys stand side by side while one replaces another, of whatever kinds: the first
  wraps, all of them unwrap. Which key unwraps is chosen among those that are configured, never by
  what a database row says alone.
* Without a root key nothing starts: there is no plaintext mode.
* A service that is away or refuses us is ``NotReady``: keys in a cache go on. A key that is gone
  or switched off is ``Misconfigured``: somebody wanted that, and the cache lets go of it.

What a backend wraps::

    sha256(context) 32 | key

The context, each part after its length as u32, big-endian::

    "keyturn/wrap/1" | app | deployment_id | workspace | key_id | purpose
"""

import asyncio
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import pack
from typing import Final, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct

from vault.errors import IntegrityError, Misconfigured, NotReady
from vault.secret import Secret

MAX_KEY_SIZE: Final = 128
"""Bytes of a key that every backend can wrap: RSA-2048 with OAEP takes 190, the hash included."""

TRANSIT_PORT: Final = 8200

_HASH_SIZE = 32
# White space in front of the next URI: a file's path may have some of its own.
_BETWEEN = re.compile(r"\s+(?=[a-z][a-z0-9+.-]*://)")


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


class RootKeyDisabled(Misconfigured):
    """The root key is switched off, or about to be destroyed."""


class RootKeyRefused(NotReady):
    """The root key service refuses us: look at its credentials and permissions."""


class Credentials(Struct, frozen=True, kw_only=True):
    """What the settings hold for root keys whose libraries find no credential by themselves."""

    transit_token: Secret | None = None
    transit_secret_id: Secret | None = None
    pkcs11_pin: Secret | None = None


class RootKey(Protocol):
    """A backend.

    It raises ``NotReady`` (or an ``OSError``) while the service is away, ``RootKeyUnknown`` where
    the key is not there, and ``IntegrityError`` where a blob is not what was wrapped for the
    context.
    """

    async def wrap(self, key: bytes, context: WrapContext, by: str | None = None) -> Wrapped:
        """Wrap with the current root key, or with the one that ``by`` names.

        Of a key with versions, the newest one wraps, whichever ``by`` names.
        """
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
    if len(key) > MAX_KEY_SIZE:
        raise ValueError(f"a root key wraps keys of at most {MAX_KEY_SIZE} bytes")
    return hashlib.sha256(context.canonical()).digest() + key


def unbind(bound: bytes, context: WrapContext) -> bytes:
    """Return the key, if it was bound to this context."""
    expected = hashlib.sha256(context.canonical()).digest()
    if not hmac.compare_digest(bound[:_HASH_SIZE], expected):
        raise IntegrityError("This wrapped key belongs somewhere else.")
    return bound[_HASH_SIZE:]


class RootKeys:
    """Several root keys: the first wraps, all of them unwrap."""

    def __init__(self, roots: Sequence[RootKey]) -> None:
        self._roots = tuple(roots)

    async def wrap(self, key: bytes, context: WrapContext, by: str | None = None) -> Wrapped:
        """Wrap with the first, or with the one that knows this id."""
        if by is None:
            return await self._roots[0].wrap(key, context)
        for root in self._roots:
            with suppress(RootKeyUnknown):
                return await root.wrap(key, context, by)
        raise RootKeyUnknown

    async def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        """Ask each that knows this id: two servers may call different keys the same."""
        refusals: list[NotReady | IntegrityError] = []
        for root in self._roots:
            try:
                return await root.unwrap(wrapped, context)
            except RootKeyUnknown:
                continue
            except (NotReady, IntegrityError) as refusal:
                refusals.append(refusal)
        # While one is away nobody can say that the key fits none.
        away = [one for one in refusals if isinstance(one, NotReady)]
        raise next(iter((*away, *refusals)), RootKeyUnknown())

    async def key_info(self) -> KeyInfo:
        """Tell what the first wraps with, and what all of them unwrap."""
        found = await asyncio.gather(*(root.key_info() for root in self._roots))
        known = dict.fromkeys(name for info in found for name in info.known)
        return KeyInfo(found[0].current, tuple(known))

    async def health(self) -> None:
        """Ask all of them: rows may still need each."""
        await asyncio.gather(*(root.health() for root in self._roots))


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say which extra is missing, where an import fails for it."""
    missing = False
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "vault").partition(".")[0] == "vault":
            raise
        missing = True
    if missing:
        raise Misconfigured(f"This kind of root key needs an extra: pip install 'keyturn[{name}]'.")


def _file(uri: SplitResult, _credentials: Credentials) -> RootKey:
    from vault.kms.file import FileRootKey

    if uri.netloc or not uri.path.startswith("/") or uri.query or uri.fragment:
        raise Misconfigured("The root key file is named as file:///absolute/path.")
    return FileRootKey(unquote(uri.path))


def _aws(uri: SplitResult, _credentials: Credentials) -> RootKey:
    with _extra("aws"):
        from vault.kms.aws import open_aws
    return open_aws(uri)


def _transit(uri: SplitResult, credentials: Credentials) -> RootKey:
    with _extra("transit"):
        from vault.kms.transit import open_transit
    return open_transit(uri, credentials)


def _pkcs11(uri: SplitResult, credentials: Credentials) -> RootKey:
    with _extra("pkcs11"):
        from vault.kms.pkcs11 import open_pkcs11
    return open_pkcs11(uri, credentials)


def _gcp(uri: SplitResult, _credentials: Credentials) -> RootKey:
    with _extra("gcp"):
        from vault.kms.gcp import open_gcp
    return open_gcp(uri)


def _azure(uri: SplitResult, _credentials: Credentials) -> RootKey:
    with _extra("azure"):
        from vault.kms.azure import open_azure
    return open_azure(uri)


_BACKENDS: Final[dict[str, Callable[[SplitResult, Credentials], RootKey]]] = {
    "aws-kms": _aws,
    "azure": _azure,
    "file": _file,
    "gcp-kms": _gcp,
    "pkcs11": _pkcs11,
    "transit": _transit,
}


def open_root_key(uris: str | Secret, credentials: Credentials | None = None) -> RootKey:
    """Open the root key that a URI names, or several, with white space between.

    No error repeats a URI: people put credentials into addresses.
    """
    parts = _split(uris)
    roots = [_BACKENDS[one.scheme](one, credentials or Credentials()) for one in parts]
    return roots[0] if len(roots) == 1 else RootKeys(roots)


def kinds_of(uris: str | Secret) -> list[str]:
    """Tell the kinds of root key that are named, the one that wraps first."""
    return [one.scheme for one in _split(uris)]


def own_services(uris: str | Secret) -> list[tuple[str, int]]:
    """Hosts and ports of key services inside the operator's network: no workspace may call them.

    The clouds' are public, and answer only to who has signed a request.
    """
    found = [one for one in _split(uris) if one.scheme == "transit"]
    return [(one.hostname, one.port or TRANSIT_PORT) for one in found if one.hostname]


def folder_of(uris: str | Secret) -> Path | None:
    """The folder of the first root key that is a file, if we can write to it and nobody else."""
    file = next((one for one in _split(uris) if one.scheme == "file"), None)
    if file is None:
        return None
    folder = Path(unquote(file.path)).parent
    try:
        others_write = stat.S_IMODE(folder.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    except OSError:
        return None
    return None if others_write or not os.access(folder, os.W_OK | os.X_OK) else folder


def _split(uris: str | Secret) -> list[SplitResult]:
    text = uris if isinstance(uris, str) else uris.reveal()
    known = ", ".join(f"{scheme}://" for scheme in sorted(_BACKENDS))
    try:
        parts = [urlsplit(one) for one in _BETWEEN.split(text.strip())]
        for one in parts:
            _refuse_credentials(one)
    except ValueError:
        raise Misconfigured(f"The root key's URI cannot be read. It begins with {known}.") from None
    if any(one.scheme not in _BACKENDS for one in parts):
        raise Misconfigured(f"The root key's URI begins with none of: {known}.")
    return parts


def _refuse_credentials(uri: SplitResult) -> None:
    if "@" in uri.netloc and uri.scheme in _BACKENDS:
        raise Misconfigured(
            "The root key's URI holds a credential. Credentials come by the settings or by the "
            "service's own means: docs/howto/root-keys.md."
        )
