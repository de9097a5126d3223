"""The door's part for workspace-level credentials: secrets and auth connections.

* A secret's value goes in and never comes out here: it leaves through a resolved configuration.
* What something refers to cannot be deleted, and the refusal says what refers to it.
* They reach every environment, so a key that is tied to some environments leaves them alone.
"""

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from vault import access, audit, authenticate, idempotency
from vault.auth_kinds import CHANGEABLE, AuthConfig, auth_type_of
from vault.database import Transaction
from vault.errors import Conflict, Invalid
from vault.model import (
    AuthConnection,
    Caller,
    Once,
    Page,
    SecretInfo,
    Usage,
    WorkspaceId,
    new_id,
)
from vault.seal import seal
from vault.secret import Secret
from vault.store import connections as connection_rows
from vault.store import environments as rows
from vault.store.environments import AuthRow
from vault.vault.door import Door, found, written


class Secrets(Door):
    """A workspace's own credentials."""

    # Secrets

    async def create_secret(
        self,
        caller: Caller,
        name: str,
        value: Secret,
        *,
        allowed_hosts: list[str],
        once: Once | None = None,
    ) -> SecretInfo:
        access.permit(caller, "secret.write")
        access.permit_everywhere(caller)
        secret_id = new_id("secret")
        sealed = await self._sealed_secret(caller.workspace, secret_id, 1, value)

        async def make(tx: Transaction) -> SecretInfo:
            made = await rows.insert_secret(
                tx, secret_id, name, sealed, allowed_hosts, caller.actor_id
            )
            await audit.record(tx, caller, "secret.write", target=("secret", secret_id))
            return made

        return await self._database.run(
            caller.workspace,
            lambda tx: idempotency.once_only(tx, caller, once, SecretInfo, make),
        )

    async def get_secret(self, caller: Caller, secret_id: str) -> tuple[SecretInfo, list[Usage]]:
        """What is known of it, and what uses it. The value is never returned."""
        access.permit(caller, "secret.read")

        async def work(tx: Transaction) -> tuple[SecretInfo, list[Usage]]:
            info = found(await rows.get_secret(tx, secret_id))
            return info, (await rows.secrets_used_by(tx, [secret_id])).get(secret_id, [])

        return await self._database.run(caller.workspace, work)

    async def list_secrets(
        self, caller: Caller, page: Page, *, prefix: str = ""
    ) -> list[tuple[SecretInfo, list[Usage]]]:
        access.permit(caller, "secret.list")

        async def work(tx: Transaction) -> list[tuple[SecretInfo, list[Usage]]]:
            infos = await rows.list_secrets(tx, page, prefix=prefix)
            usages = await rows.secrets_used_by(tx, [info.secret_id for info in infos])
            return [(info, usages.get(info.secret_id, [])) for info in infos]

        return await self._database.run(caller.workspace, work)

    async def update_secret(
        self,
        caller: Caller,
        secret_id: str,
        name: str,
        value: Secret,
        *,
        allowed_hosts: list[str] | None = None,
    ) -> SecretInfo:
        access.permit(caller, "secret.write")
        access.permit_everywhere(caller)

        async def attempt() -> SecretInfo | None:
            current, _ = await self.get_secret(caller, secret_id)
            generation = current.generation + 1
            sealed = await self._sealed_secret(caller.workspace, secret_id, generation, value)

            async def work(tx: Transaction) -> SecretInfo | None:
                made = await rows.update_secret(
                    tx, secret_id, generation, name, sealed, allowed_hosts
                )
                if made:
                    target = ("secret", secret_id)
                    await audit.record(tx, caller, "secret.write", target=target)
                return made

            return await self._database.run(caller.workspace, work)

        return await written(attempt)

    async def delete_secret(self, caller: Caller, secret_id: str) -> None:
        """Delete a secret that nothing refers to any more."""
        access.permit(caller, "secret.delete")
        access.permit_everywhere(caller)

        async def work(tx: Transaction) -> None:
            found(await rows.get_secret(tx, secret_id))
            _refuse_in_use((await rows.secrets_used_by(tx, [secret_id])).get(secret_id))
            if named := await connection_rows.integrations_using_secret(tx, secret_id):
                raise Conflict(f"It is in use by integrations: {', '.join(named[:10])}.")
            found(await rows.delete_secret(tx, secret_id) or None)
            await audit.record(tx, caller, "secret.delete", target=("secret", secret_id))

        await self._database.run(caller.workspace, work)

    # Auth connections

    async def create_auth_connection(
        self,
        caller: Caller,
        name: str,
        config: AuthConfig,
        *,
        allowed_hosts: list[str],
        once: Once | None = None,
    ) -> AuthConnection:
        access.permit(caller, "auth_connection.write")
        access.permit_everywhere(caller)
        authenticate.check(self._egress, config)
        auth_id = new_id("authconn")
        sealed = await self._sealed_config(caller.workspace, auth_id, 1, config)

        async def make(tx: Transaction) -> AuthRow:
            row = await rows.insert_auth(
                tx, auth_id, name, auth_type_of(config), sealed, allowed_hosts, caller.actor_id
            )
            target = ("auth_connection", auth_id)
            await audit.record(tx, caller, "auth_connection.write", target=target)
            # What is remembered holds no secret, sealed or not; the same request brings it again.
            return replace(row, sealed=b"")

        row = await self._database.run(
            caller.workspace, lambda tx: idempotency.once_only(tx, caller, once, AuthRow, make)
        )
        return _auth_connection(row, config, [])

    async def list_auth_connections(self, caller: Caller) -> list[AuthConnection]:
        access.permit(caller, "auth_connection.list")

        async def work(tx: Transaction) -> tuple[list[AuthRow], dict[str, list[Usage]]]:
            every = await rows.list_auth(tx)
            return every, await rows.auth_used_by(tx, [row.auth_connection_id for row in every])

        every, usages = await self._database.run(caller.workspace, work)
        return [
            _auth_connection(
                row,
                await self._config(caller.workspace, row),
                usages.get(row.auth_connection_id, []),
            )
            for row in every
        ]

    async def update_auth_connection(
        self,
        caller: Caller,
        auth_id: str,
        auth_type: str | None,
        changes: Mapping[str, object],
        *,
        allowed_hosts: list[str] | None = None,
    ) -> AuthConnection:
        """Change what may be changed of its kind; the status starts over."""
        access.permit(caller, "auth_connection.write")
        access.permit_everywhere(caller)

        async def attempt() -> AuthConnection | None:
            row = await self._auth_row(caller.workspace, auth_id)
            if auth_type not in (None, row.auth_type):
                raise Invalid("The kind of an auth connection cannot change.", pointer="/auth_type")
            config = _changed(await self._config(caller.workspace, row), changes)
            authenticate.check(self._egress, config)
            generation = row.generation + 1
            sealed = await self._sealed_config(caller.workspace, auth_id, generation, config)

            async def work(tx: Transaction) -> tuple[AuthRow, list[Usage]] | None:
                made = await rows.update_auth(tx, auth_id, generation, sealed, allowed_hosts)
                if made is None:
                    return None
                target = ("auth_connection", auth_id)
                await audit.record(tx, caller, "auth_connection.write", target=target)
                return made, (await rows.auth_used_by(tx, [auth_id])).get(auth_id, [])

            new = await self._database.run(caller.workspace, work)
            return _auth_connection(new[0], config, new[1]) if new else None

        return await written(attempt)

    async def delete_auth_connection(self, caller: Caller, auth_id: str) -> None:
        """Delete an auth connection that nothing refers to any more."""
        access.permit(caller, "auth_connection.delete")
        access.permit_everywhere(caller)

        async def work(tx: Transaction) -> None:
            found(await rows.get_auth(tx, auth_id))
            _refuse_in_use((await rows.auth_used_by(tx, [auth_id])).get(auth_id))
            found(await rows.delete_auth(tx, auth_id) or None)
            target = ("auth_connection", auth_id)
            await audit.record(tx, caller, "auth_connection.delete", target=target)

        await self._database.run(caller.workspace, work)

    async def _sealed_secret(
        self, workspace: WorkspaceId, secret_id: str, generation: int, value: Secret
    ) -> bytes:
        key = (await self._store.seal_of(workspace)).key
        context = rows.secret_context(workspace, secret_id, generation)
        return seal(key, context, value.reveal_bytes())

    async def _sealed_config(
        self, workspace: WorkspaceId, auth_id: str, generation: int, config: AuthConfig
    ) -> bytes:
        key = (await self._store.seal_of(workspace)).key
        context = rows.auth_context(workspace, auth_id, generation)
        return seal(key, context, rows.config_bytes(config))

    async def _auth_row(self, workspace: WorkspaceId, auth_id: str) -> AuthRow:
        return found(await self._database.run(workspace, lambda tx: rows.get_auth(tx, auth_id)))

    async def _config(self, workspace: WorkspaceId, row: AuthRow) -> AuthConfig:
        context = rows.auth_context(workspace, row.auth_connection_id, row.generation)
        config: AuthConfig = rows.config_from(
            await self._store.open(workspace, context, row.sealed)
        )
        return config


def _refuse_in_use(usages: list[Usage] | None) -> None:
    if usages:
        named = ", ".join(f"{one.label} ({', '.join(one.environments)})" for one in usages[:10])
        raise Conflict(f"It is in use by environment variables: {named}.")


def _changed(config: AuthConfig, changes: Mapping[str, object]) -> AuthConfig:
    changeable = CHANGEABLE.get(type(config))
    if changeable is None:
        raise Invalid("An auth connection of this kind cannot be changed; make a new one.")
    fixed = sorted(changes.keys() - changeable)
    if fixed:
        raise Invalid(f"The field {fixed[0]} cannot be changed.", pointer=f"/{fixed[0]}")
    changed: AuthConfig = msgspec.structs.replace(
        config, **{name: _merged(getattr(config, name), value) for name, value in changes.items()}
    )
    return changed


def _merged(old: object, new: object) -> object:
    """Of parameters and headers, those that are not named stay, and ``None`` removes one."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {name: value for name, value in {**old, **new}.items() if value is not None}


def _auth_connection(row: AuthRow, config: AuthConfig, usages: list[Usage]) -> AuthConnection:
    return AuthConnection(
        auth_connection_id=row.auth_connection_id,
        name=row.name,
        config=config,
        allowed_hosts=row.allowed_hosts,
        status=row.status,
        status_detail=row.status_detail,
        status_updated_at=row.status_updated_at,
        used_by=usages,
    )
