"""A root key in a hardware module, or in anything that speaks PKCS#11.

``pkcs11:///absolute/path/of/the/library.so?token=LABEL&key=LABEL``; a second ``key`` and more of
them still unwrap. The PIN is ``KEYTURN_PKCS11_PIN``.

* The key is an AES key of 256 bits that never leaves the token: we ask it to encrypt and to
  decrypt by CKM_AES_GCM, with the context as associated data.
* One thread makes all calls, since a session is not made for more. A lost session is opened again;
  where that fails, the library is begun anew, since many do not find a module again that was away.
* A wrong PIN is tried once in the life of the process: tokens lock themselves after a few.
* Libraries answer a tag that does not fit with errors that may mean anything. So the key is made
  to decrypt what it encrypts: if it does, the blob is to blame, and otherwise the token.
* The root key's id is ``pkcs11:``, the token's label and the key's.

What stands in a wrapped key::

    nonce 12 | AES-256-GCM(key, nonce, bound key, associated data = context) | tag 16
"""

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, parse_qs, unquote

import pkcs11
from pkcs11 import exceptions as token_errors

from vault.errors import IntegrityError, Misconfigured, VaultError
from vault.kms import Credentials, KeyInfo, RootKey, RootKeyUnknown, WrapContext, Wrapped
from vault.kms.remote import RemoteRootKey, away
from vault.secret import Secret

FORM: Final = "It is pkcs11:///path/of/the/library.so?token=LABEL&key=LABEL."

_NONCE_SIZE = 12
_TAG_SIZE = 16
_TAG_BITS = 8 * _TAG_SIZE
_PIN_REFUSED = (
    token_errors.PinIncorrect,
    token_errors.PinInvalid,
    token_errors.PinLenRange,
    token_errors.PinExpired,
    token_errors.PinLocked,
)
_MISTAKES: Final[dict[type[Exception], str]] = {
    token_errors.MultipleObjectsReturned: "The PKCS#11 token holds several keys of that label.",
    token_errors.MultipleTokensReturned: "There are several PKCS#11 tokens of that label.",
    token_errors.MechanismInvalid: "The PKCS#11 token does not offer AES-GCM (CKM_AES_GCM).",
}
_Answer = TypeVar("_Answer")


class _Library:
    """Who calls a library now, and how often it was begun: that is for the whole process."""

    def __init__(self) -> None:
        self.turn = threading.Lock()  # no other call may be under way when it is begun anew
        self.begun = 1  # sessions from before it was begun anew are gone


_libraries: Final[defaultdict[str, _Library]] = defaultdict(_Library)


class TokenKey:
    """Keys of one token, the current one first."""

    service = "The PKCS#11 token"

    def __init__(
        self,
        library: str,
        token: str,
        keys: tuple[str, ...],
        pin: Secret | None,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._path = library
        self._library = _libraries[library]
        self._begun = 0
        self._token = token
        self._labels = {f"pkcs11:{token}/{key}": key for key in keys}
        self._pin = pin
        self._random = random
        self._session: Any = None
        self._pin_refused = False

    def owns(self, root_key_id: str) -> bool:
        return root_key_id in self._labels

    def wrap(self, bound: bytes, context: WrapContext, by: str | None = None) -> Wrapped:
        current = by or next(iter(self._labels))
        return Wrapped(self._made(current, bound, context.canonical()), current)

    def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        if len(wrapped.blob) < _NONCE_SIZE + _TAG_SIZE:
            raise IntegrityError("This wrapped key is too short to be one.")
        with contextlib.suppress(pkcs11.PKCS11Error):
            return self._opened(wrapped.root_key_id, wrapped.blob, context.canonical())
        probe = self._made(wrapped.root_key_id, b"probe", b"")
        self._opened(wrapped.root_key_id, probe, b"")
        raise IntegrityError("This wrapped key is not what was wrapped here.")

    def key_info(self) -> KeyInfo:
        """Nobody is asked: a token's keys have no versions."""
        known = tuple(self._labels)
        return KeyInfo(known[0], known)

    def explain(self, error: Exception) -> VaultError | None:
        if isinstance(error, _PIN_REFUSED):
            self._pin_refused = True
            return _pin_problem()
        if isinstance(error, token_errors.NoSuchKey):
            return RootKeyUnknown("The PKCS#11 token holds no key of that label.")
        if type(error) in _MISTAKES:
            return Misconfigured(_MISTAKES[type(error)])
        if isinstance(error, pkcs11.PKCS11Error):
            return away(self.service, type(error).__name__)
        return None

    def _made(self, root_key_id: str, content: bytes, data: bytes) -> bytes:
        nonce = self._random(_NONCE_SIZE)

        def encrypt(key: Any) -> bytes:
            return bytes(key.encrypt(content, **_gcm(nonce, data)))

        return nonce + self._using(root_key_id, encrypt)

    def _opened(self, root_key_id: str, blob: bytes, data: bytes) -> bytes:
        nonce, body = blob[:_NONCE_SIZE], blob[_NONCE_SIZE:]

        def decrypt(key: Any) -> bytes:
            return bytes(key.decrypt(body, **_gcm(nonce, data)))

        return self._using(root_key_id, decrypt)

    def _using(self, root_key_id: str, call: Callable[[Any], _Answer]) -> _Answer:
        """Call with a key of the open session, and once more with one of a new session."""
        label = self._labels[root_key_id]
        with self._library.turn:
            if self._session is not None and self._begun == self._library.begun:
                with contextlib.suppress(pkcs11.PKCS11Error):
                    return call(self._found(label))
                self._close()
            self._session = self._open_or_begin_anew()
            self._begun = self._library.begun
            return call(self._found(label))

    def _found(self, label: str) -> Any:
        return self._session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, label=label)

    def _open_or_begin_anew(self) -> Any:
        if self._pin_refused:
            raise _pin_problem()
        library = _loaded(self._path)
        try:
            return self._open(library)
        except _PIN_REFUSED:
            raise
        except pkcs11.PKCS11Error:
            self._library.begun += 1
            library.reinitialize()
        return self._open(library)

    def _open(self, library: Any) -> Any:
        token = library.get_token(token_label=self._token)
        pin = self._pin.reveal() if self._pin else None
        try:
            return token.open(user_pin=pin)
        except token_errors.UserAlreadyLoggedIn:
            return token.open()  # by another root key of ours: a login is the process's

    def _close(self) -> None:
        session, self._session = self._session, None
        with contextlib.suppress(pkcs11.PKCS11Error):
            session.close()


def open_pkcs11(uri: SplitResult, credentials: Credentials) -> RootKey:
    """Open keys of a token by a URI."""
    given = parse_qs(uri.query, keep_blank_values=True, max_num_fields=16)
    library, tokens, keys = unquote(uri.path), given.pop("token", []), given.pop("key", [])
    named = len(tokens) == 1 and keys and all((*tokens, *keys))
    if uri.netloc or not library.startswith("/") or uri.fragment or given or not named:
        raise Misconfigured(f"The root key's URI names no key of a PKCS#11 token. {FORM}")
    key = TokenKey(library, tokens[0], tuple(dict.fromkeys(keys)), credentials.pkcs11_pin)
    return RemoteRootKey(key, threads=1)


def _loaded(library: str) -> Any:
    try:
        return pkcs11.lib(library)
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        if type(error) in pkcs11.PKCS11Error.__subclasses__():  # it is loaded, and cannot begin
            raise
    raise Misconfigured(f"The PKCS#11 library {library} cannot be loaded.")


def _gcm(nonce: bytes, data: bytes) -> dict[str, Any]:
    return {
        "mechanism": pkcs11.Mechanism.AES_GCM,
        "mechanism_param": pkcs11.GCMParams(nonce, data, _TAG_BITS),
    }


def _pin_problem() -> Misconfigured:
    return Misconfigured(
        "The PKCS#11 token refuses the PIN. It is not tried again before a restart, so that the "
        "token does not lock itself."
    )
