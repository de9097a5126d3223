"""Rows of environments, variables, secrets and auth connections, and what is sealed in them.

Nothing is sealed or opened while a transaction is open: a flow prepares what it writes, and opens
what it read, outside (``vault.store``).
"""

from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from vault.auth_kinds import AuthConfig
from vault.database import Transaction
from vault.model import (
    AuthStatus,
    EnvironmentInfo,
    Page,
    SecretInfo,
    SettingsOf,
    Usage,
    VariableInfo,
    VariableType,
    WorkspaceId,
)
from vault.seal import Context
from vault.sql import Nothing, Query


class ValueRow(Struct, frozen=True):
    """One value of a variable, as its row holds it: sealed text, or a reference."""

    variable_id: str
    environment: str
    generation: int
    sealed: bytes | None
    secret_id: str | None
    auth_connection_id: str | None


class AuthRow(Struct, frozen=True):
    auth_connection_id: str
    name: str
    auth_type: str
    generation: int
    sealed: bytes
    allowed_hosts: list[str]
    status: AuthStatus
    status_detail: str | None
    status_updated_at: datetime


class ResolvedRow(Struct, frozen=True):
    """One candidate for a label: the asked environment's value, or production's."""

    label: str
    variable_id: str
    type: VariableType
    environment: str
    generation: int
    sealed: bytes | None
    secret_id: str | None
    secret_name: str | None
    secret_generation: int | None
    secret_sealed: bytes | None
    allowed_hosts: list[str] | None
    auth_connection_id: str | None


class LabelRow(Struct, frozen=True):
    label: str
    type: VariableType
    environments: list[str]


class NewValue(Struct, frozen=True):
    """A value that is ready to be written."""

    environment: str
    sealed: bytes | None = None
    secret_id: str | None = None
    auth_connection_id: str | None = None


class _Id(Struct, frozen=True):
    id: str


class _UsageRow(Struct, frozen=True):
    id: str
    variable_id: str
    label: str
    environments: list[str]


class _Name(Struct, frozen=True):
    name: str


environment_list: Final = Query("environments", "list", EnvironmentInfo)
environment_insert: Final = Query("environments", "insert", EnvironmentInfo)
_environment_insert_named: Final = Query("environments", "insert_named", Nothing)
_environment_delete: Final = Query("environments", "delete", _Name)
_environment_delete_values: Final = Query("environments", "delete_values", Nothing)
_settings_get: Final = Query("environments", "settings", SettingsOf)
_settings_set: Final = Query("environments", "set_settings", Nothing)
_variable_insert: Final = Query("variables", "insert", VariableInfo)
_variable_get: Final = Query("variables", "get", VariableInfo)
_variable_list: Final = Query("variables", "list", VariableInfo)
_variable_values: Final = Query("variables", "values", ValueRow)
_variable_next: Final = Query("variables", "next_generation", VariableInfo)
_variable_put_values: Final = Query("variables", "put_values", Nothing)
_variable_remove_values: Final = Query("variables", "remove_values", Nothing)
_variable_delete: Final = Query("variables", "delete", _Id)
_variable_delete_every: Final = Query("variables", "delete_every", Nothing)
_variable_resolve: Final = Query("variables", "resolve", ResolvedRow)
_variable_labels: Final = Query("variables", "labels", LabelRow)
_secret_insert: Final = Query("secrets", "insert", SecretInfo)
_secret_get: Final = Query("secrets", "get", SecretInfo)
_secret_list: Final = Query("secrets", "list", SecretInfo)
_secret_update: Final = Query("secrets", "update", SecretInfo)
_secret_delete: Final = Query("secrets", "delete", _Id)
_secret_existing: Final = Query("secrets", "existing", _Id)
_secret_used_by: Final = Query("secrets", "used_by", _UsageRow)
_auth_insert: Final = Query("auth_connections", "insert", AuthRow)
_auth_get: Final = Query("auth_connections", "get", AuthRow)
_auth_list: Final = Query("auth_connections", "list", AuthRow)
_auth_update: Final = Query("auth_connections", "update", AuthRow)
_auth_set_status: Final = Query("auth_connections", "set_status", Nothing)
_auth_delete: Final = Query("auth_connections", "delete", _Id)
_auth_existing: Final = Query("auth_connections", "existing", _Id)
_auth_used_by: Final = Query("auth_connections", "used_by", _UsageRow)

config_bytes: Final = msgspec.msgpack.Encoder().encode
config_from: Final = msgspec.msgpack.Decoder(AuthConfig).decode


# Contexts


def value_context(
    workspace: WorkspaceId, variable_id: str, environment: str, generation: int
) -> Context:
    return Context(
        workspace=workspace,
        table="environment_values",
        row=variable_id,
        field="sealed",
        generation=generation,
        environment=environment,
    )


def secret_context(workspace: WorkspaceId, secret_id: str, generation: int) -> Context:
    return Context(
        workspace=workspace, table="secrets", row=secret_id, field="sealed", generation=generation
    )


def auth_context(workspace: WorkspaceId, auth_connection_id: str, generation: int) -> Context:
    return Context(
        workspace=workspace,
        table="auth_connections",
        row=auth_connection_id,
        field="sealed",
        generation=generation,
    )


# Environments


async def list_environments(tx: Transaction) -> list[EnvironmentInfo]:
    return await environment_list.all(tx, workspace_id=tx.workspace)


async def insert_environment(tx: Transaction, name: str, created_by: str) -> EnvironmentInfo | None:
    return await environment_insert.maybe(
        tx, workspace_id=tx.workspace, name=name, created_by=created_by
    )


async def insert_environments(tx: Transaction, names: list[str], created_by: str) -> None:
    await _environment_insert_named.run(
        tx, workspace_id=tx.workspace, names=names, created_by=created_by
    )


async def delete_environment(tx: Transaction, name: str) -> bool:
    """Delete an environment with every value in it."""
    await _environment_delete_values.run(tx, workspace_id=tx.workspace, name=name)
    deleted = await _environment_delete.maybe(tx, workspace_id=tx.workspace, name=name)
    return deleted is not None


async def get_settings(tx: Transaction) -> SettingsOf:
    found = await _settings_get.maybe(tx, workspace_id=tx.workspace)
    return found or SettingsOf(secret_fallback=True)


async def set_settings(tx: Transaction, settings: SettingsOf) -> None:
    await _settings_set.run(
        tx,
        workspace_id=tx.workspace,
        secret_fallback=settings.secret_fallback,
        return_origins=settings.return_origins,
    )


# Variables


async def insert_variable(
    tx: Transaction, variable_id: str, label: str, kind: VariableType, created_by: str
) -> VariableInfo | None:
    return await _variable_insert.maybe(
        tx,
        workspace_id=tx.workspace,
        variable_id=variable_id,
        label=label,
        type=kind,
        created_by=created_by,
    )


async def get_variable(tx: Transaction, variable_id: str) -> VariableInfo | None:
    return await _variable_get.maybe(tx, workspace_id=tx.workspace, variable_id=variable_id)


async def list_variables(
    tx: Transaction, page: Page, *, label: str, kind: str, environment: str
) -> list[VariableInfo]:
    return await _variable_list.all(
        tx,
        workspace_id=tx.workspace,
        after=page.after,
        limit=page.limit,
        label=label,
        type=kind,
        environment=environment,
    )


async def values_of(tx: Transaction, variable_ids: list[str]) -> list[ValueRow]:
    return await _variable_values.all(tx, workspace_id=tx.workspace, variable_ids=variable_ids)


async def next_generation(
    tx: Transaction, variable_id: str, generation: int
) -> VariableInfo | None:
    """Take the next generation; ``None`` if somebody else took it."""
    return await _variable_next.maybe(
        tx, workspace_id=tx.workspace, variable_id=variable_id, generation=generation
    )


async def put_values(
    tx: Transaction, variable_id: str, generation: int, values: list[NewValue]
) -> None:
    await _variable_put_values.run(
        tx,
        workspace_id=tx.workspace,
        variable_id=variable_id,
        generation=generation,
        environments=[value.environment for value in values],
        sealed=[value.sealed for value in values],
        secret_ids=[value.secret_id for value in values],
        auth_connection_ids=[value.auth_connection_id for value in values],
    )


async def remove_values(tx: Transaction, variable_id: str, environments: list[str]) -> None:
    await _variable_remove_values.run(
        tx, workspace_id=tx.workspace, variable_id=variable_id, environments=environments
    )


async def delete_variable(tx: Transaction, variable_id: str) -> bool:
    deleted = await _variable_delete.maybe(tx, workspace_id=tx.workspace, variable_id=variable_id)
    return deleted is not None


async def delete_every_variable(tx: Transaction) -> None:
    await _variable_delete_every.run(tx, workspace_id=tx.workspace)


async def candidates(
    tx: Transaction, labels: list[str], secret_ids: list[str], environment: str
) -> list[ResolvedRow]:
    """All that these labels can resolve to in this environment, and these secrets, in one go."""
    return await _variable_resolve.all(
        tx,
        workspace_id=tx.workspace,
        labels=labels,
        secret_ids=secret_ids,
        environment=environment,
    )


async def labels(tx: Transaction) -> list[LabelRow]:
    return await _variable_labels.all(tx, workspace_id=tx.workspace)


# Secrets


async def insert_secret(
    tx: Transaction,
    secret_id: str,
    name: str,
    sealed: bytes,
    allowed_hosts: list[str],
    created_by: str,
) -> SecretInfo:
    return await _secret_insert.one(
        tx,
        workspace_id=tx.workspace,
        secret_id=secret_id,
        name=name,
        sealed=sealed,
        allowed_hosts=allowed_hosts,
        created_by=created_by,
    )


async def get_secret(tx: Transaction, secret_id: str) -> SecretInfo | None:
    return await _secret_get.maybe(tx, workspace_id=tx.workspace, secret_id=secret_id)


async def list_secrets(tx: Transaction, page: Page, *, prefix: str) -> list[SecretInfo]:
    return await _secret_list.all(
        tx, workspace_id=tx.workspace, after=page.after, limit=page.limit, prefix=prefix
    )


async def update_secret(
    tx: Transaction,
    secret_id: str,
    generation: int,
    name: str,
    sealed: bytes,
    allowed_hosts: list[str] | None,
) -> SecretInfo | None:
    return await _secret_update.maybe(
        tx,
        workspace_id=tx.workspace,
        secret_id=secret_id,
        generation=generation,
        name=name,
        sealed=sealed,
        allowed_hosts=allowed_hosts,
    )


async def delete_secret(tx: Transaction, secret_id: str) -> bool:
    deleted = await _secret_delete.maybe(tx, workspace_id=tx.workspace, secret_id=secret_id)
    return deleted is not None


async def secrets_used_by(tx: Transaction, ids: list[str]) -> dict[str, list[Usage]]:
    return _by_id(await _secret_used_by.all(tx, workspace_id=tx.workspace, ids=ids))


# Auth connections


async def insert_auth(
    tx: Transaction,
    auth_connection_id: str,
    name: str,
    auth_type: str,
    sealed: bytes,
    allowed_hosts: list[str],
    created_by: str,
) -> AuthRow:
    return await _auth_insert.one(
        tx,
        workspace_id=tx.workspace,
        auth_connection_id=auth_connection_id,
        name=name,
        auth_type=auth_type,
        sealed=sealed,
        allowed_hosts=allowed_hosts,
        created_by=created_by,
    )


async def get_auth(tx: Transaction, auth_connection_id: str) -> AuthRow | None:
    return await _auth_get.maybe(
        tx, workspace_id=tx.workspace, auth_connection_id=auth_connection_id
    )


async def list_auth(tx: Transaction) -> list[AuthRow]:
    return await _auth_list.all(tx, workspace_id=tx.workspace)


async def update_auth(
    tx: Transaction,
    auth_connection_id: str,
    generation: int,
    sealed: bytes,
    allowed_hosts: list[str] | None,
) -> AuthRow | None:
    return await _auth_update.maybe(
        tx,
        workspace_id=tx.workspace,
        auth_connection_id=auth_connection_id,
        generation=generation,
        sealed=sealed,
        allowed_hosts=allowed_hosts,
    )


async def set_auth_status(
    tx: Transaction,
    auth_connection_id: str,
    generation: int,
    status: AuthStatus,
    detail: str | None,
) -> None:
    await _auth_set_status.run(
        tx,
        workspace_id=tx.workspace,
        auth_connection_id=auth_connection_id,
        generation=generation,
        status=status,
        status_detail=detail,
    )


async def delete_auth(tx: Transaction, auth_connection_id: str) -> bool:
    deleted = await _auth_delete.maybe(
        tx, workspace_id=tx.workspace, auth_connection_id=auth_connection_id
    )
    return deleted is not None


async def auth_used_by(tx: Transaction, ids: list[str]) -> dict[str, list[Usage]]:
    return _by_id(await _auth_used_by.all(tx, workspace_id=tx.workspace, ids=ids))


async def missing_references(
    tx: Transaction, secret_ids: list[str], auth_connection_ids: list[str]
) -> list[str]:
    """Which of these secrets and auth connections this workspace does not have."""
    there = await _secret_existing.all(tx, workspace_id=tx.workspace, ids=secret_ids)
    there += await _auth_existing.all(tx, workspace_id=tx.workspace, ids=auth_connection_ids)
    return sorted({*secret_ids, *auth_connection_ids} - {one.id for one in there})


def _by_id(rows: list[_UsageRow]) -> dict[str, list[Usage]]:
    found: dict[str, list[Usage]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(Usage(row.variable_id, row.label, row.environments))
    return found
