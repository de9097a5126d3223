"""The door's part for using auth connections: what a request needs, and what became of it.

* Whoever may use a configuration may use the auth connections that it names. The line in the
  record is durable before a credential leaves; fetching a token is a line of its own.
* A credential that an upstream refused is told once: a fetched token is dropped, so that the next
  call fetches another, and if that is refused too the auth connection is ``credential_invalid``.
"""

import time
from collections import OrderedDict
from functools import cached_property
from typing import Final

from msgspec.structs import replace

from vault import access, audit
from vault.auth_kinds import AuthConfig, ClientCredentials, OAuth2Jwt
from vault.authenticate import (
    WAIT_SECONDS,
    Changed,
    Credentials,
    Job,
    Tokens,
    ready_made,
    with_token,
)
from vault.database import Transaction
from vault.egress.certificates import ClientCertificate
from vault.errors import Invalid, ProviderUnavailable
from vault.model import AuthStatus, Caller, WorkspaceId
from vault.store import auth_tokens
from vault.store import environments as rows
from vault.store.auth_tokens import InUse
from vault.vault.door import WRITE_TRIES, Door, found

__all__ = ["Authentication", "Credentials"]

MAX_CERTIFICATES: Final = 64  # with a TLS context each
_Place = tuple[WorkspaceId, str, int]


class Authentication(Door):
    """The use of a workspace's auth connections."""

    @cached_property
    def _tokens(self) -> Tokens:
        return Tokens(self._database, self._store, self._egress)

    @cached_property
    def _certificates(self) -> OrderedDict[_Place, ClientCertificate]:
        return OrderedDict()

    async def credentials(
        self, caller: Caller, auth_connection_id: str, *, wait: float = WAIT_SECONDS
    ) -> Credentials:
        """What authenticates one request; waits up to ``wait`` seconds for a token.

        Raises ``CredentialRefused`` where somebody has to act, ``ProviderUnavailable`` where
        trying again may help.
        """
        access.permit(caller, "configuration.use")
        give_up = time.monotonic() + wait
        for _ in range(WRITE_TRIES):
            row = await self._in_use(caller, auth_connection_id)
            config = await self._config_in_use(caller.workspace, auth_connection_id, row)
            if not isinstance(config, ClientCredentials | OAuth2Jwt):
                made = ready_made(config, row)
                place = (caller.workspace, auth_connection_id, row.generation)
                return replace(made, tls=self._kept(place, made.tls)) if made.tls else made
            job = Job(caller, auth_connection_id, row.generation, config)
            left = max(give_up - time.monotonic(), 0)
            token = await self._tokens.current(job, row, wait=left)
            if not isinstance(token, Changed):
                return with_token(row, token)
        raise ProviderUnavailable("This auth connection is being changed by many at once.")

    async def credential_rejected(
        self, caller: Caller, auth_connection_id: str, version: str
    ) -> None:
        """An upstream answered 401 to credentials of this ``version``."""
        access.permit(caller, "configuration.use")
        generation, token_generation = _version(version)

        async def work(tx: Transaction) -> None:
            if token_generation and await auth_tokens.drop(
                tx, auth_connection_id, generation, token_generation
            ):
                await _record(tx, caller, auth_connection_id, "dropped")
                return
            row = found(await auth_tokens.in_use(tx, auth_connection_id))
            replaced = token_generation and (
                row.token_generation != token_generation or row.sealed_token is None
            )
            if row.generation != generation or replaced or row.status == "credential_invalid":
                return
            status: AuthStatus = "credential_invalid"
            detail = "An upstream refused this credential."
            await rows.set_auth_status(tx, auth_connection_id, generation, status, detail)
            await _record(tx, caller, auth_connection_id, status)

        await self._database.run(caller.workspace, work)

    async def credential_accepted(
        self, caller: Caller, auth_connection_id: str, version: str
    ) -> None:
        """An upstream took credentials of this ``version`` that it or another had refused."""
        access.permit(caller, "configuration.use")
        generation, _ = _version(version)

        async def work(tx: Transaction) -> None:
            row = found(await auth_tokens.in_use(tx, auth_connection_id))
            if row.generation == generation and row.status == "credential_invalid":
                await rows.set_auth_status(tx, auth_connection_id, generation, "active", None)
                await _record(tx, caller, auth_connection_id, "active")

        await self._database.run(caller.workspace, work)

    async def end_fetching(self) -> None:
        """Let the token calls that are under way end; begin no more."""
        await self._tokens.drain()

    def _kept(self, place: _Place, certificate: ClientCertificate) -> ClientCertificate:
        """Return the one that already has its context, if it is of the same generation."""
        kept = self._certificates.setdefault(place, certificate)
        self._certificates.move_to_end(place)
        if len(self._certificates) > MAX_CERTIFICATES:
            self._certificates.popitem(last=False)
        return kept

    async def _in_use(self, caller: Caller, auth_connection_id: str) -> InUse:
        async def work(tx: Transaction) -> InUse:
            row = found(await auth_tokens.in_use(tx, auth_connection_id))
            target = ("auth_connection", auth_connection_id)
            await audit.record(tx, caller, "auth_connection.use", target=target)
            return row

        return await self._database.run(caller.workspace, work)

    async def _config_in_use(
        self, workspace: WorkspaceId, auth_connection_id: str, row: InUse
    ) -> AuthConfig:
        context = rows.auth_context(workspace, auth_connection_id, row.generation)
        config: AuthConfig = rows.config_from(
            await self._store.open(workspace, context, row.sealed)
        )
        return config


async def _record(tx: Transaction, caller: Caller, auth_connection_id: str, outcome: str) -> None:
    target = ("auth_connection", auth_connection_id)
    await audit.record(tx, caller, "auth_connection.rejected", target=target, outcome=outcome)


def _version(version: str) -> tuple[int, int]:
    generation, _, token_generation = version.partition(".")
    if not (generation.isdecimal() and token_generation.isdecimal()):
        raise Invalid("This is not the version of credentials.")
    return int(generation), int(token_generation)
