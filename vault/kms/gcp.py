"""A root key in Google Cloud KMS: ``gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K``.

Written from Google's documentation and tested against a stand-in of the wire: it has not met the
real service yet.

* The context is the additional authenticated data. CRC-32C of both directions is checked, as
  Google asks, so that a broken wire does not become a broken key.
* Credentials are found as Google's library finds them: workload identity, an attached service
  account, ``GOOGLE_APPLICATION_CREDENTIALS``.
* ``endpoint=https://HOST`` names another address of the service: Private Service Connect.
* The root key's id is ``gcp-kms:`` and the name of the version that wrapped. Rotation in KMS makes
  a new primary version; what older ones wrapped is due for rewrapping.
"""

import re
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import google_crc32c
import requests
from google.api_core import exceptions as google
from google.auth import exceptions as google_auth
from google.cloud import kms

from vault.errors import IntegrityError, Misconfigured, VaultError
from vault.kms import (
    KeyInfo,
    RootKey,
    RootKeyDisabled,
    RootKeyRefused,
    RootKeyUnknown,
    WrapContext,
    Wrapped,
)
from vault.kms.remote import RETRY_AFTER, RemoteRootKey, away, options

FORM: Final = "It is gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K."
TIMEOUT: Final = 2.0
"""Seconds for one request; none is repeated by the library."""
VERSIONS: Final = 1000

_NAME = re.compile(
    r"projects/[a-z0-9.:-]{1,64}/locations/[a-z0-9-]{1,64}"
    r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}(?!\n)$"
)
_VERSION = re.compile(r"[1-9][0-9]{0,8}(?!\n)$")
_ONCE: Final[dict[str, Any]] = {"retry": None, "timeout": TIMEOUT}


class GcpKey:
    """One key in Cloud KMS, with all its versions."""

    service = "Google Cloud KMS"

    def __init__(self, name: str, client: Any) -> None:
        self._name = name
        self._client = client
        self._prefix = f"gcp-kms:{name}/cryptoKeyVersions/"

    def owns(self, root_key_id: str) -> bool:
        rest = root_key_id.removeprefix(self._prefix)
        return rest != root_key_id and _VERSION.match(rest) is not None

    def wrap(self, bound: bytes, context: WrapContext, by: str | None = None) -> Wrapped:  # noqa: ARG002 - there is one key
        data = context.canonical()
        request = {
            "name": self._name,
            "plaintext": bound,
            "plaintext_crc32c": google_crc32c.value(bound),
            "additional_authenticated_data": data,
            "additional_authenticated_data_crc32c": google_crc32c.value(data),
        }
        answer = self._client.encrypt(request=request, **_ONCE)
        verified = (
            answer.verified_plaintext_crc32c
            and answer.verified_additional_authenticated_data_crc32c
        )
        blob, root_key_id = bytes(answer.ciphertext), f"gcp-kms:{answer.name}"
        if not verified or int(answer.ciphertext_crc32c) != google_crc32c.value(blob):
            raise away(self.service, "the data changed on its way")
        if not self.owns(root_key_id):
            raise away(self.service, "it wrapped with another key")
        return Wrapped(blob, root_key_id)

    def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        data = context.canonical()
        request = {
            "name": self._name,
            "ciphertext": wrapped.blob,
            "ciphertext_crc32c": google_crc32c.value(wrapped.blob),
            "additional_authenticated_data": data,
            "additional_authenticated_data_crc32c": google_crc32c.value(data),
        }
        try:
            answer = self._client.decrypt(request=request, **_ONCE)
        except google.BadRequest as error:
            if _status(error) != "INVALID_ARGUMENT":
                raise
            raise IntegrityError("This wrapped key is not what was wrapped here.") from None
        bound = bytes(answer.plaintext)
        if int(answer.plaintext_crc32c) != google_crc32c.value(bound):
            raise away(self.service, "the data changed on its way")
        return bound

    def key_info(self) -> KeyInfo:
        current = self._client.get_crypto_key(request={"name": self._name}, **_ONCE).primary.name
        if not current:
            raise RootKeyDisabled("The root key in Google Cloud KMS has no primary version.")
        request = {"parent": self._name, "filter": "state=ENABLED", "page_size": VERSIONS}
        page = next(self._client.list_crypto_key_versions(request=request, **_ONCE).pages)
        others = (one.name for one in page.crypto_key_versions)
        known = dict.fromkeys(f"gcp-kms:{name}" for name in (current, *others))
        return KeyInfo(f"gcp-kms:{current}", tuple(known))

    def explain(self, error: Exception) -> VaultError | None:
        if isinstance(error, google_auth.TransportError | requests.RequestException):
            return away(self.service, type(error).__name__)
        if isinstance(error, google_auth.GoogleAuthError):
            return _refused(type(error).__name__)
        if isinstance(error, google.GoogleAPICallError):
            return _meaning(error)
        return None


def open_gcp(uri: SplitResult) -> RootKey:
    """Open a key by its URI."""
    name = f"{uri.netloc}{uri.path}"
    endpoint = options(uri.query, frozenset({"endpoint"}), FORM).get("endpoint")
    if not _NAME.match(name) or uri.fragment:
        raise Misconfigured(f"The root key's URI names no key of Google Cloud KMS. {FORM}")
    if endpoint and not _is_origin(endpoint):
        raise Misconfigured(f"The endpoint is an origin, as in https://HOST. {FORM}")
    try:
        client = kms.KeyManagementServiceClient(
            transport="rest", client_options={"api_endpoint": endpoint} if endpoint else None
        )
    except (google_auth.GoogleAuthError, ValueError, OSError) as error:
        reason = type(error).__name__
    else:
        return RemoteRootKey(GcpKey(name, client))
    raise Misconfigured(f"Google's library finds no usable credentials ({reason}).")


def _is_origin(url: str) -> bool:
    parts = urlsplit(url)
    plain_here = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1"}
    bare = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    return (parts.scheme == "https" or plain_here) and bool(parts.hostname) and bare


def _meaning(error: Any) -> VaultError:
    status = _status(error)
    if error.code == HTTPStatus.NOT_FOUND:
        return RootKeyUnknown("Google Cloud KMS does not know the root key.")
    if status == "FAILED_PRECONDITION":
        return RootKeyDisabled("The root key is disabled or destroyed in Google Cloud KMS.")
    if error.code in {400, 401, 403}:
        return _refused(status or str(error.code))
    return away(GcpKey.service, status or str(error.code))


def _status(error: Any) -> str:
    """Return Google's word for what happened; HTTP has one number for several of them."""
    try:
        status = error.response.json()["error"]["status"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
    return status if isinstance(status, str) and re.fullmatch(r"[A-Z_]{1,32}", status) else ""


def _refused(reason: str) -> RootKeyRefused:
    return RootKeyRefused(
        f"Google Cloud KMS refuses us ({reason}): look at the credentials and the key's roles.",
        retry_after=RETRY_AFTER,
    )
