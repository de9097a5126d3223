"""A root key in AWS KMS: ``aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID``.

* The key is named by its ARN, never by an alias: who may move an alias could choose the key. Only
  the keys that are configured unwrap, whatever a row or a ciphertext says.
* The context is the encryption context, too: it stands in CloudTrail, and key policies may ask
  for it.
* Credentials are found as boto3 finds them: an instance or pod role, IRSA, SSO, the environment.
* The root key's id is ``aws-kms:`` and the key's own id, which the replicas of a multi-region key
  share. AWS's yearly rotation keeps it: nothing is to be rewrapped then.
"""

import re
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import SplitResult

import boto3
from botocore import exceptions as aws
from botocore.config import Config

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
from vault.kms.remote import RETRY_AFTER, RemoteRootKey, away

FORM: Final = "It is aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID, by the key's ARN and no alias."
MAX_BLOB: Final = 6144
"""Bytes that Decrypt takes."""
_PROBE: Final = b"probe"

_ARN = re.compile(
    r"arn:aws[a-z-]{0,20}:kms:([a-z0-9-]{1,32}):[0-9]{12}:key/([A-Za-z0-9-]{1,64})(?!\n)$"
)
_TIMES = Config(
    connect_timeout=1,
    read_timeout=1.5,
    retries={"mode": "standard", "total_max_attempts": 2},
    max_pool_connections=8,
)
_DENIED: Final = "AccessDeniedException"
_NOT_WRAPPED_HERE = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_AWAY = frozenset(
    {"DependencyTimeoutException", "KMSInternalException", "KeyUnavailableException"}
    | {"LimitExceededException", "TooManyRequestsException"}
)


class AwsKey:
    """One key in AWS KMS."""

    service = "AWS KMS"

    def __init__(self, arn: str, client: Any) -> None:
        self._arn = arn
        self._client = client
        self._id = f"aws-kms:{arn.rpartition('/')[2]}"

    def owns(self, root_key_id: str) -> bool:
        return root_key_id == self._id

    def wrap(self, bound: bytes, context: WrapContext, by: str | None = None) -> Wrapped:  # noqa: ARG002 - there is one key
        answer = self._client.encrypt(
            KeyId=self._arn, Plaintext=bound, EncryptionContext=_named(context)
        )
        return Wrapped(bytes(answer["CiphertextBlob"]), self._id)

    def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        if len(wrapped.blob) > MAX_BLOB:
            raise IntegrityError("This wrapped key is too long to be one.")
        try:
            return self._decrypted(wrapped.blob, context)
        except aws.ClientError as error:
            if _code(error) != _DENIED:
                raise
        # It says the same of a blob that names another key and of a policy that refuses us. So the
        # key is made to open what it wraps now: if it does, the blob is to blame.
        self._decrypted(self.wrap(_PROBE, context).blob, context)
        raise IntegrityError("This wrapped key is not what was wrapped here.")

    def _decrypted(self, blob: bytes, context: WrapContext) -> bytes:
        answer = self._client.decrypt(
            KeyId=self._arn, CiphertextBlob=blob, EncryptionContext=_named(context)
        )
        return bytes(answer["Plaintext"])

    def key_info(self) -> KeyInfo:
        return KeyInfo(self._id, (self._id,))

    def explain(self, error: Exception) -> VaultError | None:
        if isinstance(error, aws.ClientError):
            return _meaning(error)
        if isinstance(error, aws.ConnectionError | aws.HTTPClientError):
            return away(self.service, type(error).__name__)
        if isinstance(error, aws.BotoCoreError):  # no credentials, mostly, or broken ones
            return RootKeyRefused(
                f"AWS KMS cannot be asked ({type(error).__name__}): look at the credentials.",
                retry_after=RETRY_AFTER,
            )
        return None


def open_aws(uri: SplitResult) -> RootKey:
    """Open a key by its URI."""
    arn = f"{uri.netloc}{uri.path}"
    found = _ARN.match(arn)
    if found is None or uri.query or uri.fragment:
        raise Misconfigured(f"The root key's URI names no key of AWS KMS. {FORM}")
    try:
        client = boto3.session.Session().client("kms", region_name=found[1], config=_TIMES)
    except (aws.BotoCoreError, ValueError) as error:
        reason = type(error).__name__
    else:
        return RemoteRootKey(AwsKey(arn, client))
    raise Misconfigured(f"AWS's library cannot be set up ({reason}): look at its settings.")


def _named(context: WrapContext) -> dict[str, str]:
    """Return the encryption context. An empty part is left out: KMS stores no empty values."""
    parts = {
        "app": context.app,
        "deployment_id": context.deployment_id,
        "workspace": context.workspace,
        "key_id": context.key_id,
        "purpose": context.purpose,
    }
    return {name: value for name, value in parts.items() if value}


def _meaning(error: aws.ClientError) -> VaultError:
    code = _code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    shown = code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) else str(status)
    if code in _NOT_WRAPPED_HERE:
        return IntegrityError("This wrapped key is not what was wrapped here.")
    if code == "NotFoundException":
        return RootKeyUnknown("AWS KMS does not know the root key: was it deleted?")
    if code == "DisabledException":
        return RootKeyDisabled("The root key is disabled in AWS KMS.")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or "Throttl" in code or code in _AWAY:
        return away("AWS KMS", shown)
    return RootKeyRefused(
        f"AWS KMS refuses us ({shown}): look at the credentials, the key's policy and its state.",
        retry_after=RETRY_AFTER,
    )


def _code(error: aws.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
