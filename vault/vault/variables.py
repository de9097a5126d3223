"""The door's part for configuration: environments, variables, and what they resolve to.

* A value is sealed before the transaction that stores it, under the generation that it will have;
  who loses the race for that generation tries again.
* A key that is tied to environments sees and writes the values of those alone.
* A secret's value leaves only through ``use_configuration``, with an audit line of its own.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final, TypeVar

from msgspec import Struct

from vault import access, audit, idempotency
from vault.database import Transaction
from vault.environments import FallbackWarning, choose, fallback_warnings
from vault.errors import Conflict, Invalid, Unresolved
from vault.model import (
    MAX_ENVIRONMENTS,
    PRODUCTION,
    AuthRef,
    Caller,
    EnvironmentInfo,
    Once,
    Page,
    SecretRef,
    SettingsOf,
    Value,
    Variable,
    VariableInfo,
    VariableType,
    WorkspaceId,
    new_id,
)
from vault.seal import seal
from vault.secret import Secret
from vault.store import environments as rows
from vault.store.environments import NewValue, ResolvedRow, ValueRow
from vault.vault.door import Door, found, written

T = TypeVar("T")

WRITE_TRIES: Final = 5
_KIND_OF: Final[dict[type, VariableType]] = {
    str: "string",
    SecretRef: "secret",
    AuthRef: "auth_connection",
}


class ResolvedSecret(Struct, frozen=True):
    """A secret's value, on its way into one request."""

    secret_id: str
    name: str
    value: Secret
    allowed_hosts: list[str]


class Resolved(Struct, frozen=True):
    """What a label means in an environment, and where that comes from."""

    label: str
    type: VariableType
    environment: str
    source: str
    value: str | ResolvedSecret | AuthRef

    @property
    def fell_back(self) -> bool:
        return self.source != self.environment


class Meant(Struct, frozen=True):
    """What a label says in an environment; of a secret or an auth connection the name alone."""

    label: str
    type: VariableType
    value: str

    def __repr__(self) -> str:
        return f"Meant({self.label})"


class Configuration(Struct, frozen=True):
    """Everything that one configuration refers to, resolved."""

    environment: str
    labels: Mapping[str, Resolved]
    secrets: Mapping[str, ResolvedSecret]


class Variables(Door):
    """What a workspace configures for itself, per environment."""

    # Environments

    async def list_environments(self, caller: Caller) -> list[EnvironmentInfo]:
        """All but production, which always exists."""
        access.permit(caller, "environment.list")
        every = await self._database.run(caller.workspace, rows.list_environments)
        return [one for one in every if access.within_environments(caller, [one.name])]

    async def create_environment(
        self, caller: Caller, name: str, *, once: Once | None = None
    ) -> EnvironmentInfo:
        access.permit(caller, "environment.write")
        access.permit_environment(caller, name)
        if name == PRODUCTION:
            raise Conflict("The environment 'production' always exists.")

        async def make(tx: Transaction) -> EnvironmentInfo:
            made = await rows.insert_environment(tx, name, caller.actor_id)
            if made is None:
                raise Conflict("An environment with this name already exists.")
            await _refuse_too_many(tx)
            await audit.record(tx, caller, "environment.write", environment=name)
            return made

        return await self._database.run(
            caller.workspace,
            lambda tx: idempotency.once_only(tx, caller, once, EnvironmentInfo, make),
        )

    async def delete_environment(self, caller: Caller, name: str) -> None:
        """Delete an environment, and every variable's value in it."""
        access.permit(caller, "environment.delete")
        access.permit_environment(caller, name)
        if name == PRODUCTION:
            raise Invalid("The environment 'production' cannot be deleted.", pointer="/name")

        async def work(tx: Transaction) -> None:
            found(await rows.delete_environment(tx, name) or None)
            await audit.record(tx, caller, "environment.delete", environment=name)

        await self._database.run(caller.workspace, work)

    async def get_settings(self, caller: Caller) -> SettingsOf:
        access.permit(caller, "settings.read")
        return await self._database.run(caller.workspace, rows.get_settings)

    async def put_settings(self, caller: Caller, settings: SettingsOf) -> SettingsOf:
        access.permit(caller, "settings.write")
        access.permit_everywhere(caller)

        async def work(tx: Transaction) -> SettingsOf:
            await rows.set_settings(tx, settings)
            await audit.record(tx, caller, "settings.write")
            return settings

        return await self._database.run(caller.workspace, work)

    async def fallback_warnings(self, caller: Caller) -> list[FallbackWarning]:
        """Hosts of one environment beside secrets of production; none where nothing falls back."""
        access.permit(caller, "variable.list")
        return await self.fallback_warnings_for(caller)

    async def fallback_warnings_for(self, caller: Caller) -> list[FallbackWarning]:
        """The same, for who has permitted another deed that needs it: labels, and no value."""

        async def work(tx: Transaction) -> list[FallbackWarning]:
            if not (await rows.get_settings(tx)).secret_fallback:
                return []
            names = [one.name for one in await rows.list_environments(tx)]
            return fallback_warnings(await rows.labels(tx), names)

        return await self._database.run(caller.workspace, work)

    async def meant_for(self, caller: Caller, environment: str) -> list[Meant]:
        """What every label says in an environment, its own value or production's, for who has
        permitted another deed that needs it. No secret is opened.
        """

        async def work(tx: Transaction) -> tuple[list[ResolvedRow], dict[str, str]]:
            labels = [one.label for one in await rows.labels(tx)]
            auths = {one.auth_connection_id: one.name for one in await rows.list_auth(tx)}
            return await rows.candidates(tx, labels, [], environment), auths

        every, auths = await self._database.run(caller.workspace, work)
        # Production's first, so that the environment's own takes its place.
        every.sort(key=lambda row: row.environment == environment)
        chosen = {row.label: row for row in every}
        return [
            Meant(row.label, row.type, await self._said(caller.workspace, row, auths))
            for row in chosen.values()
        ]

    async def _said(
        self, workspace: WorkspaceId, row: ResolvedRow, auths: Mapping[str, str]
    ) -> str:
        if row.type == "secret":
            return row.secret_name or ""
        if row.type == "auth_connection":
            return auths.get(row.auth_connection_id or "", "")
        return await self._text(
            workspace, row.variable_id, row.environment, row.generation, row.sealed or b""
        )

    # Variables

    async def create_variable(
        self,
        caller: Caller,
        label: str,
        kind: VariableType,
        values: Mapping[str, Value],
        *,
        once: Once | None = None,
    ) -> Variable:
        access.permit(caller, "variable.write")
        _check_values(caller, kind, values)
        if PRODUCTION not in values:
            raise Invalid("A value for 'production' is required.", pointer="/values")
        variable_id = new_id("envvar")
        ready = await self._ready(caller.workspace, variable_id, 1, values)

        async def make(tx: Transaction) -> VariableInfo:
            info = await rows.insert_variable(tx, variable_id, label, kind, caller.actor_id)
            if info is None:
                raise Conflict("An environment variable with this label already exists.")
            await _put_values(tx, caller, variable_id, 1, ready)
            await audit.record(tx, caller, "variable.write", target=("variable", variable_id))
            return info

        info = await self._database.run(
            caller.workspace,
            lambda tx: idempotency.once_only(tx, caller, once, VariableInfo, make),
        )
        return Variable(info, dict(values))

    async def get_variable(self, caller: Caller, variable_id: str) -> Variable:
        access.permit(caller, "variable.read")

        async def work(tx: Transaction) -> tuple[VariableInfo, list[ValueRow]]:
            info = found(await rows.get_variable(tx, variable_id))
            return info, await rows.values_of(tx, [variable_id])

        info, values = await self._database.run(caller.workspace, work)
        return (await self._variables(caller, [info], values))[0]

    async def list_variables(
        self, caller: Caller, page: Page, *, label: str = "", kind: str = "", environment: str = ""
    ) -> list[Variable]:
        """By age; with ``environment`` only those that have a value there, and only that value."""
        access.permit(caller, "variable.list")
        if environment:
            access.permit_environment(caller, environment)

        async def work(tx: Transaction) -> tuple[list[VariableInfo], list[ValueRow]]:
            infos = await rows.list_variables(
                tx, page, label=label, kind=kind, environment=environment
            )
            return infos, await rows.values_of(tx, [info.variable_id for info in infos])

        infos, values = await self._database.run(caller.workspace, work)
        if environment:
            values = [value for value in values if value.environment == environment]
        return await self._variables(caller, infos, values)

    async def update_variable(
        self, caller: Caller, variable_id: str, changes: Mapping[str, Value | None]
    ) -> Variable:
        """Set the named environments' values; ``None`` removes one; the others stay."""
        access.permit(caller, "variable.write")
        if changes.get(PRODUCTION, "") is None:
            raise Invalid("The value for 'production' cannot be removed.", pointer="/values")

        async def attempt() -> VariableInfo | None:
            current = (await self.get_variable(caller, variable_id)).info
            kept = {name: value for name, value in changes.items() if value is not None}
            _check_values(caller, current.type, kept)
            removed = [name for name, value in changes.items() if value is None]
            for name in removed:
                access.permit_environment(caller, name)
            generation = current.generation + 1
            ready = await self._ready(caller.workspace, variable_id, generation, kept)

            async def work(tx: Transaction) -> VariableInfo | None:
                info = await rows.next_generation(tx, variable_id, generation)
                if info is not None:
                    await _put_values(tx, caller, variable_id, generation, ready)
                    await rows.remove_values(tx, variable_id, removed)
                    target = ("variable", variable_id)
                    await audit.record(tx, caller, "variable.write", target=target)
                return info

            return await self._database.run(caller.workspace, work)

        await written(attempt)
        return await self.get_variable(caller, variable_id)

    async def delete_variable(self, caller: Caller, variable_id: str) -> None:
        access.permit(caller, "variable.delete")
        access.permit_everywhere(caller)

        async def work(tx: Transaction) -> None:
            found(await rows.delete_variable(tx, variable_id) or None)
            await audit.record(tx, caller, "variable.delete", target=("variable", variable_id))

        await self._database.run(caller.workspace, work)

    # Resolution

    async def use_configuration(
        self,
        caller: Caller,
        labels: set[str],
        secret_ids: set[str],
        environment: str,
        *,
        target: tuple[str, str] = ("", ""),
    ) -> Configuration:
        """Resolve all of it for one request, secrets included. One statement, one audit line,
        which names the ``target``: what is stored under a name has one.
        """
        access.permit(caller, "configuration.use")
        return await self._configuration(
            caller, "configuration.use", labels, secret_ids, environment, target
        )

    async def show_configuration(
        self, caller: Caller, labels: set[str], secret_ids: set[str], environment: str
    ) -> Configuration:
        """The same, to be shown masked."""
        access.permit(caller, "configuration.show")
        return await self._configuration(
            caller, "configuration.show", labels, secret_ids, environment
        )

    async def label_values(
        self, caller: Caller, labels: set[str], environment: str
    ) -> dict[str, str | Secret]:
        """What labels say to a conversation in its environment; what has no value is left out.

        One statement, and a line in the record like any other use.
        """
        access.permit(caller, "conversation.prepare")
        if not labels:
            return {}
        settings, candidates = await self._candidates(
            caller, "configuration.use", labels, set(), environment
        )
        found: dict[str, str | Secret] = {}
        for label in sorted(labels):
            with suppress(Unresolved):
                row = choose(
                    candidates, label, environment, secret_fallback=settings.secret_fallback
                )
                value = (await self._resolved(caller.workspace, row, environment)).value
                if isinstance(value, ResolvedSecret):
                    found[label] = value.value
                elif isinstance(value, str):
                    found[label] = value
        return found

    async def _candidates(
        self,
        caller: Caller,
        action: access.Action,
        labels: set[str],
        secret_ids: set[str],
        environment: str,
        target: tuple[str, str] = ("", ""),
    ) -> tuple[SettingsOf, list[ResolvedRow]]:
        async def work(tx: Transaction) -> tuple[SettingsOf, list[ResolvedRow]]:
            settings = await rows.get_settings(tx)
            candidates = await rows.candidates(tx, sorted(labels), sorted(secret_ids), environment)
            await audit.record(tx, caller, action, target=target, environment=environment)
            return settings, candidates

        return await self._database.run(caller.workspace, work)

    async def _configuration(
        self,
        caller: Caller,
        action: access.Action,
        labels: set[str],
        secret_ids: set[str],
        environment: str,
        target: tuple[str, str] = ("", ""),
    ) -> Configuration:
        access.permit_environment(caller, environment)
        settings, candidates = await self._candidates(
            caller, action, labels, secret_ids, environment, target
        )
        chosen = [
            choose(candidates, label, environment, secret_fallback=settings.secret_fallback)
            for label in sorted(labels)
        ]
        by_id = {row.secret_id: row for row in candidates if row.label == ""}
        missing = sorted(secret_ids - by_id.keys())
        if missing:
            raise Invalid(f"There is no secret '{missing[0]}' in this workspace.")
        return Configuration(
            environment,
            {row.label: await self._resolved(caller.workspace, row, environment) for row in chosen},
            {
                secret_id: await self._secret(caller.workspace, by_id[secret_id])
                for secret_id in sorted(secret_ids)
            },
        )

    async def _resolved(
        self, workspace: WorkspaceId, row: ResolvedRow, environment: str
    ) -> Resolved:
        value: str | ResolvedSecret | AuthRef
        if row.type == "secret":
            value = await self._secret(workspace, row)
        elif row.auth_connection_id is not None:
            value = AuthRef(row.auth_connection_id)
        else:
            value = await self._text(
                workspace, row.variable_id, row.environment, row.generation, row.sealed or b""
            )
        return Resolved(row.label, row.type, environment, row.environment, value)

    async def _secret(self, workspace: WorkspaceId, row: ResolvedRow) -> ResolvedSecret:
        secret_id = row.secret_id or ""
        context = rows.secret_context(workspace, secret_id, row.secret_generation or 0)
        value = await self._store.open(workspace, context, row.secret_sealed or b"")
        return ResolvedSecret(
            secret_id, row.secret_name or "", Secret(value), row.allowed_hosts or []
        )

    async def _text(
        self,
        workspace: WorkspaceId,
        variable_id: str,
        environment: str,
        generation: int,
        sealed: bytes,
    ) -> str:
        context = rows.value_context(workspace, variable_id, environment, generation)
        return (await self._store.open(workspace, context, sealed)).decode()

    # What is sealed

    async def _variables(
        self, caller: Caller, infos: list[VariableInfo], values: list[ValueRow]
    ) -> list[Variable]:
        by_variable: dict[str, dict[str, Value]] = {info.variable_id: {} for info in infos}
        for row in values:
            if access.within_environments(caller, [row.environment]):
                by_variable[row.variable_id][row.environment] = await self._value(
                    caller.workspace, row
                )
        return [Variable(info, by_variable[info.variable_id]) for info in infos]

    async def _value(self, workspace: WorkspaceId, row: ValueRow) -> Value:
        if row.secret_id is not None:
            return SecretRef(row.secret_id)
        if row.auth_connection_id is not None:
            return AuthRef(row.auth_connection_id)
        return await self._text(
            workspace, row.variable_id, row.environment, row.generation, row.sealed or b""
        )

    async def _ready(
        self, workspace: WorkspaceId, variable_id: str, generation: int, values: Mapping[str, Value]
    ) -> list[NewValue]:
        key = (await self._store.seal_of(workspace)).key
        ready = []
        for environment, value in values.items():
            if isinstance(value, SecretRef):
                ready.append(NewValue(environment, secret_id=value.secret_id))
            elif isinstance(value, AuthRef):
                ready.append(NewValue(environment, auth_connection_id=value.auth_connection_id))
            else:
                context = rows.value_context(workspace, variable_id, environment, generation)
                ready.append(NewValue(environment, sealed=seal(key, context, value.encode())))
        return ready


async def _put_values(
    tx: Transaction, caller: Caller, variable_id: str, generation: int, ready: list[NewValue]
) -> None:
    missing = await rows.missing_references(
        tx,
        [one.secret_id for one in ready if one.secret_id],
        [one.auth_connection_id for one in ready if one.auth_connection_id],
    )
    if missing:
        raise Invalid("A value refers to something that this workspace does not have.")
    await rows.insert_environments(tx, [one.environment for one in ready], caller.actor_id)
    await _refuse_too_many(tx)
    await rows.put_values(tx, variable_id, generation, ready)


async def _refuse_too_many(tx: Transaction) -> None:
    if len(await rows.list_environments(tx)) >= MAX_ENVIRONMENTS:
        raise Invalid(f"A workspace has at most {MAX_ENVIRONMENTS} environments.")


def _check_values(caller: Caller, kind: VariableType, values: Mapping[str, Value]) -> None:
    for environment, value in values.items():
        access.permit_environment(caller, environment)
        if _KIND_OF[type(value)] != kind:
            raise Invalid(f"The values of this variable are of type '{kind}'.", pointer="/values")
