"""A root key in the Transit engine of OpenBao or HashiCorp Vault.

``transit://HOST[:8200]/MOUNT/KEY`` with the options

* ``auth``: ``token`` (the default: ``KEYTURN_TRANSIT_TOKEN``, else as hvac finds one, in
  ``VAULT_TOKEN`` or ``~/.vault-token``), ``approle`` (with ``role``, and
  ``KEYTURN_TRANSIT_SECRET_ID``), ``kubernetes`` (with ``role``, and the pod's own token or that in
  ``jwt``) or ``agent`` (a proxy beside us adds the token); ``at``: where that method is mounted;
* ``namespace``; ``ca``: a file of certificates to trust; ``tls=off``: plain http, on loopback only.

Promises:

* A token is renewed, or got anew by logging in again, at half its life and when it is refused.
* The key is looked up before anything is wrapped: Transit makes a key that is not there for who
  may create it, and a misspelt name would become a root key that nobody backs up.
* The context is the associated data; a derived key gets it as its context, too.
* No proxy variable or ``.netrc`` is read, and no redirect is followed: both would carry the token
  elsewhere.
* The root key's id is ``transit:``, namespace, mount and key, and the version that wrapped. After
  ``rotate`` in Transit, what older versions wrapped is due for rewrapping.

What Transit makes is kept as bytes, ``vault:vN:`` before them taken away: N stands in the id.
"""

import base64
import math
import re
import threading
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast
from urllib.parse import SplitResult, unquote

import hvac
import requests
from hvac import exceptions as transit
from msgspec import Struct

from vault.errors import IntegrityError, Misconfigured, VaultError
from vault.kms import (
    TRANSIT_PORT,
    Credentials,
    KeyInfo,
    RootKey,
    RootKeyRefused,
    RootKeyUnknown,
    WrapContext,
    Wrapped,
)
from vault.kms.remote import RETRY_AFTER, RemoteRootKey, away, options

FORM: Final = "It is transit://HOST/MOUNT/KEY; docs/howto/root-keys.md lists the options."
TIMES: Final = (1.0, 1.5)
"""Seconds to connect, and between two bytes of an answer."""
POD_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
MAX_JWT: Final = 64 * 1024

Auth = Literal["token", "approle", "kubernetes", "agent"]
_OPTIONS = frozenset({"auth", "role", "at", "jwt", "namespace", "ca", "tls"})
_AEAD = frozenset({"aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"})
_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]+={0,2})(?!\n)$")
_SEGMENTS = re.compile(r"[A-Za-z0-9._-]{1,128}(/[A-Za-z0-9._-]{1,128})+(?!\n)$")
_SHORTEST = 1.0
_Answer = TypeVar("_Answer")


class Place(Struct, frozen=True, kw_only=True):
    """What a URI says."""

    url: str
    mount: str
    key: str
    auth: Auth = "token"
    role: str = ""
    at: str = ""
    jwt: Path = POD_TOKEN
    namespace: str | None = None
    ca: str | None = None

    @property
    def prefix(self) -> str:
        """What the ids of this key's versions begin with."""
        return f"transit:{'/'.join(filter(None, (self.namespace, self.mount, self.key)))}:"


class TransitKey:
    """One key of a Transit engine, with all its versions."""

    service = "Transit"

    def __init__(
        self,
        place: Place,
        credentials: Credentials,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._login = _Login(place, credentials, clock)
        self._derived: bool | None = None

    def owns(self, root_key_id: str) -> bool:
        version = root_key_id.removeprefix(self._place.prefix)
        return version != root_key_id and version.isascii() and version.isdecimal()

    def wrap(self, bound: bytes, context: WrapContext, by: str | None = None) -> Wrapped:  # noqa: ARG002 - there is one key
        answer = self._ask("encrypt_data", plaintext=_text(bound), **self._bound_to(context))
        found = _CIPHERTEXT.match(answer["ciphertext"])
        if found is None:
            raise away(self.service, "an answer in a format that is not known")
        return Wrapped(base64.b64decode(found[2]), f"{self._place.prefix}{found[1]}")

    def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        version = int(wrapped.root_key_id.removeprefix(self._place.prefix))
        ciphertext = f"vault:v{version}:{_text(wrapped.blob)}"
        try:
            answer = self._ask("decrypt_data", ciphertext=ciphertext, **self._bound_to(context))
        except transit.InvalidRequest as error:
            if error.json is None:
                raise
        else:
            return base64.b64decode(answer["plaintext"])
        # The same 400 for a blob that does not fit and for a version that is not there any more.
        if wrapped.root_key_id not in self.key_info().known:
            raise RootKeyUnknown("Transit does not unwrap by this version of the root key.")
        raise IntegrityError("This wrapped key is not what was wrapped here.")

    def key_info(self) -> KeyInfo:
        key = self._described()
        latest, oldest = int(key["latest_version"]), max(1, int(key["min_decryption_version"]))
        known = tuple(f"{self._place.prefix}{one}" for one in range(latest, oldest - 1, -1))
        return KeyInfo(known[0], known)

    def explain(self, error: Exception) -> VaultError | None:
        if isinstance(error, transit.Forbidden | transit.Unauthorized):
            return RootKeyRefused(
                "Transit refuses us: look at the token and its policy.", retry_after=RETRY_AFTER
            )
        if isinstance(error, transit.InvalidPath) and error.json is not None:
            return RootKeyUnknown("Transit has no such key: was it deleted, or is it misspelt?")
        if isinstance(error, transit.InvalidRequest) and error.json is not None:
            return RootKeyRefused(
                "Transit refuses the request: look at the key's type and at how we log in.",
                retry_after=RETRY_AFTER,
            )
        if isinstance(error, transit.VaultDown):
            return away(self.service, "it is sealed, or being set up")
        if isinstance(error, transit.VaultError | requests.RequestException):
            return away(self.service, type(error).__name__)
        return None

    def _bound_to(self, context: WrapContext) -> dict[str, str]:
        if self._derived is None:
            self._described()
        data = _text(context.canonical())
        return {"associated_data": data, **({"context": data} if self._derived else {})}

    def _described(self) -> dict[str, Any]:
        key = self._ask("read_key")
        if key["type"] not in _AEAD or key.get("convergent_encryption"):
            raise Misconfigured(
                "The root key in Transit has to be of an AEAD type, such as aes256-gcm96, and not "
                "convergent."
            )
        self._derived = bool(key["derived"])
        return key

    def _ask(self, action: str, **words: str) -> dict[str, Any]:
        def call(client: Any) -> dict[str, Any]:
            do = getattr(client.secrets.transit, action)
            answer = do(name=self._place.key, mount_point=self._place.mount, **words)
            return cast("dict[str, Any]", answer["data"])

        return self._login.using(call)


class _Login:
    """A client with a token that lives."""

    def __init__(self, place: Place, credentials: Credentials, clock: Callable[[], float]) -> None:
        self._place = place
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()
        self._client = self._new_client()
        self._due = clock()

    def using(self, call: Callable[[Any], _Answer]) -> _Answer:
        """Call with a token; once more with a new one, if it is refused and we can get another."""
        used = self._ready()
        try:
            return call(self._client)
        except transit.Forbidden:
            if self._place.auth == "agent":
                raise
        with self._lock:
            if self._client.token == used:  # else another thread was faster
                self._sign_in()
        return call(self._client)

    def _ready(self) -> str:
        with self._lock:
            if self._clock() >= self._due:
                self._sign_in()
            return str(self._client.token)

    def _sign_in(self) -> None:
        seconds = self._by_method()
        self._due = self._clock() + (max(seconds / 2, _SHORTEST) if seconds else math.inf)

    def _by_method(self) -> float:
        """Get a token or renew it; return for how many seconds. 0 is for ever."""
        place, auth = self._place, self._client.auth
        if place.auth == "agent":
            return 0
        if place.auth == "token":
            return self._renewed()
        self._client.token = None
        if place.auth == "approle":
            secret = self._credentials.transit_secret_id
            answer = auth.approle.login(
                role_id=place.role,
                secret_id=secret.reveal() if secret else None,
                mount_point=place.at or "approle",
            )
        else:
            answer = auth.kubernetes.login(
                role=place.role, jwt=_jwt(place.jwt), mount_point=place.at or "kubernetes"
            )
        return float(answer["auth"]["lease_duration"])

    def _renewed(self) -> float:
        given = self._credentials.transit_token
        if given is None:
            # An agent may have written another one.
            self._client.token = hvac.utils.get_token_from_env()
        try:
            found = self._client.auth.token.lookup_self()["data"]
            if not found["renewable"]:
                return float(found["ttl"])
            return float(self._client.auth.token.renew_self()["auth"]["lease_duration"])
        except transit.Forbidden:  # a policy may leave this out; using the token will tell
            return 60

    def _new_client(self) -> Any:
        session = requests.Session()
        session.trust_env = False
        given = self._credentials.transit_token if self._place.auth == "token" else None
        return hvac.Client(
            url=self._place.url,
            token=given.reveal() if given else "",
            verify=self._place.ca or True,
            timeout=TIMES,
            session=session,
            namespace=self._place.namespace,
            allow_redirects=False,
        )


def open_transit(uri: SplitResult, credentials: Credentials) -> RootKey:
    """Open a key by its URI."""
    place = read_place(uri)
    if place.auth == "approle" and not place.role:
        raise Misconfigured("auth=approle needs the role's id, as in role=...")
    if place.auth == "kubernetes" and not place.role:
        raise Misconfigured("auth=kubernetes needs the role's name, as in role=...")
    if credentials.transit_token and place.auth != "token":
        raise Misconfigured(f"auth={place.auth} and KEYTURN_TRANSIT_TOKEN exclude each other.")
    return RemoteRootKey(TransitKey(place, credentials))


def read_place(uri: SplitResult) -> Place:
    """Read a URI."""
    given = options(uri.query, _OPTIONS, FORM)
    path = unquote(uri.path).strip("/")
    try:
        host, port = uri.hostname, uri.port or TRANSIT_PORT
    except ValueError:
        host, port = None, 0
    if not host or uri.fragment or not _SEGMENTS.match(path):
        raise Misconfigured(f"The root key's URI names no key of Transit. {FORM}")
    auth, tls = given.pop("auth", "token"), given.pop("tls", "on")
    if auth not in {"token", "approle", "kubernetes", "agent"} or tls not in {"on", "off"}:
        raise Misconfigured(f"The root key's URI has an option with an unknown value. {FORM}")
    if tls == "off" and not _is_loopback(host):
        raise Misconfigured("tls=off is for Transit at 127.0.0.1 or [::1] only.")
    mount, _, key = path.rpartition("/")
    return Place(
        url=f"{'https' if tls == 'on' else 'http'}://{f'[{host}]' if ':' in host else host}:{port}",
        mount=mount,
        key=key,
        auth=cast("Auth", auth),
        role=given.get("role", ""),
        at=given.get("at", ""),
        jwt=Path(given.get("jwt", POD_TOKEN)),
        namespace=given.get("namespace"),
        ca=given.get("ca"),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _jwt(path: Path) -> str:
    """Read the pod's token: it is exchanged while we run, so it is read for each login."""
    try:
        with path.open(encoding="ascii") as file:
            return file.read(MAX_JWT).strip()
    except (OSError, ValueError):
        pass
    raise RootKeyRefused("The pod's token for Transit cannot be read.", retry_after=RETRY_AFTER)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
