"""How an auth connection authenticates a request: ready-made, signed on the spot, or fetched.

* A token is fetched once for all who wait, in all processes: the lease is committed before the
  call, no transaction or connection is held during it, and only the newest lease may save.
* The call belongs to nobody who waits: it is a task of its own, and a caller that goes away leaves
  it running. ``drain`` lets it end, or gives its lease back.
* A token is served until its last tenth (at most a minute) begins. From there on the next one is
  fetched while it still serves, also when that fails; past its end it is never served.
* A token belongs to the configuration that fetched it: a change voids it.
* After a failure nobody calls before ``next_try_at``, and the connection's status says why.
* What may be shown of a failure is its class; never an answer's text.
"""

import asyncio
import contextlib
import random
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, TypeVar

import msgspec
import structlog
from msgspec import Struct

from vault import audit, oauth
from vault.auth_kinds import (
    AuthConfig,
    Basic,
    Bearer,
    ClientCredentials,
    CustomHeader,
    MutualTls,
    OAuth2Jwt,
    PrivateKeyJwt,
)
from vault.database import Database, Transaction
from vault.egress import HEADER_VALUE, OURS, Egress
from vault.egress.certificates import ClientCertificate
from vault.errors import (
    CredentialRefused,
    IntegrityError,
    Invalid,
    NotReady,
    ProviderUnavailable,
    VaultError,
)
from vault.model import AuthStatus, Caller, new_id
from vault.oauth import Failure
from vault.seal import SealingKey, seal
from vault.secret import Secret
from vault.store import Store, auth_tokens, environments
from vault.store.auth_tokens import Claim, InUse, SealedToken, TokenContent

LEASE_SECONDS: Final = 90.0  # longer than a call may take, so that its end means a dead holder
WAIT_SECONDS: Final = 30.0  # for a token, where there is none
LIVE_WAIT_SECONDS: Final = 3.0  # for the next token, where the present one still serves
SAVE_SECONDS: Final = 60.0  # for a database that went away during the call
DRAIN_SECONDS: Final = 10.0
DEFAULT_LIFETIME: Final = 3_600  # seconds, where the token endpoint says nothing
MAX_MARGIN: Final = 60.0
MARGIN_SHARE: Final = 0.1
MAX_PAUSE: Final = 900.0
REFUSED_PAUSE: Final = 60.0  # a refusal lasts until somebody acts
POLL_SECONDS: Final = (0.05, 0.5)  # while another process fetches: at first, and at most

T = TypeVar("T")
Fetching = ClientCredentials | OAuth2Jwt

_REFUSED_CLIENT: Final = frozenset(
    {
        "invalid_client",
        "unauthorized_client",
        "incorrect_client_credentials",
        "invalid_client_id",
        "bad_client_secret",
    }
)
_log = structlog.get_logger("keyturn.authenticate")


class Credentials(Struct, frozen=True, kw_only=True):
    """What one request needs, and where it may go with it. ``allowed_hosts`` empty: anywhere.

    ``version`` names exactly these credentials, for saying what became of them.
    """

    headers: tuple[tuple[str, Secret], ...]
    tls: ClientCertificate | None
    allowed_hosts: tuple[str, ...]
    yields_bearer: Secret | None
    version: str


class Token(Struct, frozen=True):
    """A fetched token; ``generation`` is the fence under which it was saved, 0 for none."""

    value: Secret
    generation: int


class Job(Struct, frozen=True):
    """Whose token is wanted, and what fetches it."""

    caller: Caller
    auth_connection_id: str
    generation: int
    config: Fetching

    @property
    def target(self) -> tuple[str, str]:
        return ("auth_connection", self.auth_connection_id)

    def __repr__(self) -> str:
        return f"Job({self.auth_connection_id})"


class Changed(Struct, frozen=True):
    """The auth connection is not what it was when the fetch began: look again."""


Ending = Token | Failure | Changed


# What can be said when it is stored


def check(egress: Egress, config: AuthConfig) -> None:
    """Refuse a configuration that could never authenticate a request."""
    if isinstance(config, ClientCredentials | OAuth2Jwt):
        egress.vet_url("provider", config.token_url)
    oauth.check_config(config)
    if isinstance(config, MutualTls):
        _certificate(config).check()
    if isinstance(config, Basic) and ":" in config.username:
        raise Invalid("A user name in Basic cannot hold a colon.", pointer="/username")
    if isinstance(config, CustomHeader) and config.header_name.lower() in OURS:
        raise Invalid("This header cannot be chosen.", pointer="/header_name")
    if isinstance(config, CustomHeader | Bearer):
        encoded = config.token.encode("utf-8", "surrogatepass")
        if HEADER_VALUE.fullmatch(encoded) is None:
            raise Invalid("The token holds what a header cannot carry.", pointer="/token")


# Credentials that need no call


def ready_made(config: AuthConfig, row: InUse) -> Credentials:
    """Authenticate with what the configuration itself holds."""
    if isinstance(config, Basic):
        pair = b64encode(f"{config.username}:{config.password}".encode()).decode()
        return _credentials(row, headers=(("Authorization", Secret(f"Basic {pair}")),))
    if isinstance(config, Bearer):
        return with_token(row, Token(Secret(config.token), 0))
    if isinstance(config, CustomHeader):
        return _credentials(row, headers=((config.header_name, Secret(config.token)),))
    if isinstance(config, PrivateKeyJwt):
        signed = oauth.signed_jwt(config, now=row.now, jti=new_id("jti"))
        return with_token(row, Token(signed, 0))
    if isinstance(config, MutualTls):
        return _credentials(row, tls=_certificate(config))
    raise TypeError("this kind fetches its token")


def with_token(row: InUse, token: Token) -> Credentials:
    """Authenticate with a bearer token."""
    header = Secret(f"Bearer {token.value.reveal()}")
    return _credentials(
        row,
        headers=(("Authorization", header),),
        yields_bearer=token.value,
        token_generation=token.generation,
    )


def _credentials(
    row: InUse,
    *,
    headers: tuple[tuple[str, Secret], ...] = (),
    tls: ClientCertificate | None = None,
    yields_bearer: Secret | None = None,
    token_generation: int = 0,
) -> Credentials:
    return Credentials(
        headers=headers,
        tls=tls,
        allowed_hosts=tuple(row.allowed_hosts),
        yields_bearer=yields_bearer,
        version=f"{row.generation}.{token_generation}",
    )


def _certificate(config: MutualTls) -> ClientCertificate:
    return ClientCertificate(
        certificate=Secret(config.client_certificate),
        key=Secret(config.client_key),
        authority=Secret(config.ca_certificate) if config.ca_certificate else None,
        passphrase=Secret(config.key_passphrase) if config.key_passphrase else None,
    )


# Tokens that are fetched


class Tokens:
    """The tokens of all workspaces' auth connections, as this process serves and fetches them."""

    def __init__(self, database: Database, store: Store, egress: Egress) -> None:
        self._database = database
        self._store = store
        self._egress = egress
        self._owner = new_id("holder")
        self._flights: dict[tuple[str, str, int], asyncio.Task[Ending]] = {}
        self._draining = False

    async def current(self, job: Job, row: InUse, *, wait: float) -> Token | Changed:
        """The token to use now; fetched first if there is none, or if it is about to end."""
        live = await self._live(job, row)
        if live and (row.fresh or row.leased or row.pause_left):
            return live
        if row.pause_left:
            raise _error(_failure_of(row))
        started = time.monotonic()
        ending: Ending
        try:
            ending = await self._awaited(job, min(wait, LIVE_WAIT_SECONDS) if live else wait)
        except VaultError:
            if live is None:
                raise
            ending = live
        if isinstance(ending, Failure):
            if live is None or time.monotonic() - started >= row.seconds_left:
                raise _error(ending)
            return live
        return ending

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Begin no more; let what is under way end, or give its lease back."""
        self._draining = True
        tasks = set(self._flights.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _live(self, job: Job, row: InUse) -> Token | None:
        if row.sealed_token is None or row.seconds_left <= 0:
            return None
        return await self._opened(job, row.sealed_token, row.token_generation)

    async def _opened(self, job: Job, sealed: bytes, generation: int) -> Token:
        workspace = job.caller.workspace
        context = auth_tokens.token_context(workspace, job.auth_connection_id, generation)
        content = auth_tokens.content_from(await self._store.open(workspace, context, sealed))
        if content.config_generation != job.generation:
            raise IntegrityError("A token was moved to another state of its auth connection.")
        return Token(Secret(content.token), generation)

    async def _awaited(self, job: Job, wait: float) -> Ending:
        """Wait for the one fetch of this process. Neither a deadline nor a cancel ends it."""
        task = self._flight(job)
        await asyncio.wait({task}, timeout=wait)
        if task.cancelled():
            raise NotReady("The service is shutting down.")
        if not task.done():
            return Failure(outcome="ambiguous", detail="The token endpoint takes its time.")
        return task.result()

    def _flight(self, job: Job) -> asyncio.Task[Ending]:
        key = (job.caller.workspace, job.auth_connection_id, job.generation)
        if key not in self._flights:
            if self._draining:
                raise NotReady("The service is shutting down.")
            task = asyncio.create_task(self._fly(job))
            self._flights[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return self._flights[key]

    def _landed(self, key: tuple[str, str, int], task: asyncio.Task[Ending]) -> None:
        del self._flights[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            # Said here because all who waited may be gone.
            _log.warning("token_not_fetched", auth_connection=key[1], exc_info=error)

    async def _fly(self, job: Job) -> Ending:
        """Fetch, or see how somebody else's fetch ends."""
        # What seals the token is at hand before the call: a key service that is away must not
        # cost us a token that was already issued.
        key = (await self._store.seal_of(job.caller.workspace)).key
        give_up = time.monotonic() + LEASE_SECONDS + WAIT_SECONDS
        pause, longest = POLL_SECONDS
        while time.monotonic() < give_up:
            if claim := await self._run(job, lambda tx: self._claim(tx, job)):
                return await self._fetched(job, claim, key)
            if ending := await self._seen(job):
                return ending
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
        return Failure(outcome="ambiguous", detail="Another process does not finish its call.")

    async def _seen(self, job: Job) -> Ending | None:
        """What others have done; ``None`` while they are at it."""
        row = await self._run(job, lambda tx: auth_tokens.in_use(tx, job.auth_connection_id))
        if row is None or row.generation != job.generation:
            return Changed()
        if row.fresh:
            return await self._live(job, row) or Changed()
        if row.leased or not row.pause_left:
            return None
        return _failure_of(row)

    async def _claim(self, tx: Transaction, job: Job) -> Claim | None:
        return await auth_tokens.claim(
            tx,
            job.auth_connection_id,
            job.generation,
            owner=self._owner,
            lease=timedelta(seconds=LEASE_SECONDS),
        )

    async def _fetched(self, job: Job, claim: Claim, key: SealingKey) -> Ending:
        try:
            called = await self._called(job, claim)
            if isinstance(called, Failure):
                return await self._failed(job, claim, called)
            return await self._saved(job, claim, called, key)
        except BaseException:
            with contextlib.suppress(VaultError):
                await self._run(
                    job,
                    lambda tx: auth_tokens.release(tx, job.auth_connection_id, claim.fence),
                )
            raise

    async def _called(self, job: Job, claim: Claim) -> oauth.TokenReply | Failure:
        """The one call. No transaction is open, no connection held."""
        config, field, asserted = job.config, "access_token", False
        try:
            if isinstance(config, OAuth2Jwt):
                request = oauth.jwt_request(config, now=claim.lease_at, jti=new_id("jti"))
                field, asserted = config.token_response_field, True
            else:
                request = oauth.client_credentials(config)
            reply = await self._egress.call("provider", request)
            return oauth.parse_token_reply(
                reply, now=claim.lease_at, token_field=field, asserted=asserted
            )
        except VaultError as error:
            return oauth.failure_of(error)

    async def _saved(
        self, job: Job, claim: Claim, reply: oauth.TokenReply, key: SealingKey
    ) -> Token | Changed:
        lifetime = reply.expires_in or DEFAULT_LIFETIME
        if reply.odd_lifetime:
            _log.warning("odd_token_lifetime", auth_connection=job.auth_connection_id)
        context = auth_tokens.token_context(
            job.caller.workspace, job.auth_connection_id, claim.fence
        )
        content = TokenContent(reply.access_token.reveal_bytes(), job.generation)
        sealed = SealedToken(
            sealed=seal(key, context, auth_tokens.content_bytes(content)),
            refresh_after=timedelta(seconds=lifetime - min(MAX_MARGIN, MARGIN_SHARE * lifetime)),
            lifetime=timedelta(seconds=lifetime),
        )

        async def work(tx: Transaction) -> bool:
            if not await auth_tokens.save(
                tx, job.auth_connection_id, job.generation, claim.fence, sealed
            ):
                return False
            await _note(tx, job, "active", None)
            return True

        saved = await self._patiently(job, work)
        return Token(reply.access_token, claim.fence) if saved else Changed()

    async def _failed(self, job: Job, claim: Claim, failure: Failure) -> Failure | Changed:
        status = _status_of(failure)
        pause = timedelta(seconds=_pause(failure, claim.attempts))
        _log.warning(
            "token_fetch_failed",
            auth_connection=job.auth_connection_id,
            outcome=failure.outcome,
            status=failure.status,
        )

        async def work(tx: Transaction) -> bool:
            if not await auth_tokens.fail(
                tx,
                job.auth_connection_id,
                job.generation,
                claim.fence,
                outcome=failure.outcome,
                pause=pause,
            ):
                return False
            await _note(tx, job, status, failure.detail)
            return True

        return failure if await self._patiently(job, work) else Changed()

    async def _patiently(self, job: Job, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Write what the call brought, also when the database has to come back first."""
        give_up = time.monotonic() + SAVE_SECONDS
        while True:
            try:
                return await self._run(job, work)
            except NotReady:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(POLL_SECONDS[1])

    async def _run(self, job: Job, work: Callable[[Transaction], Awaitable[T]]) -> T:
        return await self._database.run(job.caller.workspace, work)


async def _note(tx: Transaction, job: Job, status: AuthStatus, detail: str | None) -> None:
    await environments.set_auth_status(tx, job.auth_connection_id, job.generation, status, detail)
    outcome = "ok" if status == "active" else status
    await audit.record(tx, job.caller, "auth_connection.fetch", target=job.target, outcome=outcome)


def _status_of(failure: Failure) -> AuthStatus:
    if failure.outcome == "dead":
        return "revoked"
    named = failure.error in _REFUSED_CLIENT
    if failure.outcome == "client" and (named or (failure.error is None and failure.status)):
        return "credential_invalid"
    return "refresh_failed"


def _failure_of(row: InUse) -> Failure:
    """The failure that keeps everybody waiting, as its row tells of it."""
    return Failure(
        outcome=msgspec.convert(row.last_failure or "transient", oauth.Outcome),
        detail=row.status_detail or "The token endpoint failed a moment ago.",
        retry_after=row.pause_left,
    )


def _pause(failure: Failure, attempts: int) -> float:
    """Seconds until the next try: doubling, spread, and never sooner than we were asked."""
    longest = min(MAX_PAUSE, 2.0 ** min(attempts, 20))
    pause = longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, hides nothing
    if failure.outcome in ("dead", "client"):
        pause = max(pause, REFUSED_PAUSE)
    return max(pause, failure.retry_after or 0)


def _error(failure: Failure) -> VaultError:
    if failure.outcome in ("dead", "client"):
        return CredentialRefused(failure.detail)
    return ProviderUnavailable(failure.detail, retry_after=failure.retry_after or 2)
