"""A root key in Azure Key Vault or Managed HSM: ``azure://VAULT-HOST/keys/NAME``.

Written from Microsoft's documentation and tested against a stand-in of the wire: it has not met
the real service yet.

* The key is an RSA key: Key Vault has no other kind that wraps. RSA wraps for anybody who has the
  public half, so who can write to the database could plant a key of his own. Therefore each blob
  is signed by the same key, which only the vault can do, and the signature is checked first.
* Neither wrapping nor signing takes associated data: the context's hash stands before the key, as
  for every root key, and is signed, too.
* Credentials are found as ``DefaultAzureCredential`` finds them: workload identity, a managed
  identity, the environment.
* The root key's id is ``azure:`` and the URL of the version that wrapped, without its scheme. The
  newest version wraps; what older ones wrapped is due for rewrapping.

What stands in a wrapped key::

    length of the ciphertext u16, big-endian | RSA-OAEP-256(bound key)
    | PS256("keyturn/azure/1" | sha256(context) | ciphertext)
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from struct import pack
from typing import Any, Final
from urllib.parse import SplitResult

from azure.core import exceptions as azure
from azure.identity import DefaultAzureCredential
from azure.keyvault.keys import KeyClient, KeyType
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm, SignatureAlgorithm

from vault.errors import IntegrityError, Misconfigured, VaultError
from vault.kms import KeyInfo, RootKey, RootKeyRefused, RootKeyUnknown, WrapContext, Wrapped
from vault.kms.remote import RETRY_AFTER, RemoteRootKey, away

FORM: Final = "It is azure://MY-VAULT.vault.azure.net/keys/NAME, without a version."
TIMES: Final[dict[str, Any]] = {"connection_timeout": 1, "read_timeout": 1.5, "retry_total": 0}
CURRENT_FOR: Final = 60.0
"""Seconds until the newest version is asked for again."""

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(?!\n)$")
_PATH = re.compile(r"/keys/[A-Za-z0-9-]{1,127}(?!\n)$")
_VERSION = re.compile(r"[A-Za-z0-9]{1,64}(?!\n)$")
_WRAPS: Final = KeyWrapAlgorithm.rsa_oaep_256
_SIGNS: Final = SignatureAlgorithm.ps256
_LABEL: Final = b"keyturn/azure/1"
_LENGTH_SIZE: Final = 2
_RSA: Final = (KeyType.rsa, KeyType.rsa_hsm)


class AzureKey:
    """One key in Key Vault, with all its versions."""

    service = "Azure Key Vault"

    def __init__(
        self,
        host: str,
        name: str,
        credential: Any,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._credential = credential
        self._clock = clock
        self._prefix = f"azure:{host}/keys/{name}/"
        self._keys = KeyClient(f"https://{host}", credential, **TIMES)
        self._versions: dict[str, Any] = {}
        self._current = ""
        self._current_until = clock()
        self._lock = threading.Lock()

    def owns(self, root_key_id: str) -> bool:
        rest = root_key_id.removeprefix(self._prefix)
        return rest != root_key_id and _VERSION.match(rest) is not None

    def wrap(self, bound: bytes, context: WrapContext, by: str | None = None) -> Wrapped:  # noqa: ARG002 - there is one key
        version = self._newest()
        key = self._version(version)
        ciphertext = bytes(key.wrap_key(_WRAPS, bound).encrypted_key)
        signature = bytes(key.sign(_SIGNS, _digest(context, ciphertext)).signature)
        return Wrapped(pack(">H", len(ciphertext)) + ciphertext + signature, self._prefix + version)

    def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        key = self._version(wrapped.root_key_id.removeprefix(self._prefix))
        end = _LENGTH_SIZE + int.from_bytes(wrapped.blob[:_LENGTH_SIZE])
        ciphertext, signature = wrapped.blob[_LENGTH_SIZE:end], wrapped.blob[end:]
        if not ciphertext or not signature:
            raise IntegrityError("This wrapped key is not in a format that this version knows.")
        if not key.verify(_SIGNS, _digest(context, ciphertext), signature).is_valid:
            raise IntegrityError("This wrapped key is not what was wrapped here.")
        try:
            return bytes(key.unwrap_key(_WRAPS, ciphertext).key)
        except azure.HttpResponseError as error:
            if error.status_code != HTTPStatus.BAD_REQUEST:
                raise
            raise IntegrityError("This wrapped key is not what was wrapped here.") from None

    def key_info(self) -> KeyInfo:
        with self._lock:
            self._current_until = self._clock()
        current = self._newest()
        listed = self._keys.list_properties_of_key_versions(self._name)
        enabled = [one.version for one in listed if one.enabled]
        known = dict.fromkeys(f"{self._prefix}{version}" for version in (current, *enabled))
        return KeyInfo(f"{self._prefix}{current}", tuple(known))

    def explain(self, error: Exception) -> VaultError | None:
        if isinstance(error, azure.ClientAuthenticationError):
            return _refused("no credential is accepted")
        if isinstance(error, azure.HttpResponseError):
            return _meaning(error.status_code or 0)
        if isinstance(error, azure.AzureError):
            return away(self.service, type(error).__name__)
        return None

    def _newest(self) -> str:
        with self._lock:
            if self._clock() >= self._current_until:
                found = self._keys.get_key(self._name)
                self._current = str(found.properties.version)
                self._current_until = self._clock() + CURRENT_FOR
            return self._current

    def _version(self, version: str) -> Any:
        """Return what wraps, unwraps and signs by one version. It knows the public half."""
        with self._lock:
            known = self._versions.get(version)
            if known is None:
                key = self._keys.get_key(self._name, version)
                if key.key_type not in _RSA:
                    raise Misconfigured("The root key in Azure Key Vault has to be an RSA key.")
                known = CryptographyClient(key, self._credential, **TIMES)
                self._versions[version] = known
            return known


def open_azure(uri: SplitResult) -> RootKey:
    """Open a key by its URI."""
    if not _HOST.match(uri.netloc) or not _PATH.match(uri.path) or uri.query or uri.fragment:
        raise Misconfigured(f"The root key's URI names no key of Azure Key Vault. {FORM}")
    name = uri.path.rpartition("/")[2]
    credential = DefaultAzureCredential()
    return RemoteRootKey(AzureKey(uri.netloc, name, credential))


def _digest(context: WrapContext, ciphertext: bytes) -> bytes:
    bound_to = hashlib.sha256(context.canonical()).digest()
    return hashlib.sha256(_LABEL + bound_to + ciphertext).digest()


def _meaning(status: int) -> VaultError:
    if status == HTTPStatus.NOT_FOUND:
        return RootKeyUnknown("Azure Key Vault does not know the root key.")
    if status in {400, 401, 403}:
        return _refused(f"HTTP {status}")
    return away(AzureKey.service, f"HTTP {status}")


def _refused(reason: str) -> RootKeyRefused:
    return RootKeyRefused(
        f"Azure Key Vault refuses us ({reason}): look at the identity, its role and the key.",
        retry_after=RETRY_AFTER,
    )
