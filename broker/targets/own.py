"""A workspace of this Keyturn, as a target: through the door, audited as the operator's doing."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from broker.environment_file.document import normal_config
from broker.environment_file.plan import KnownAuth, KnownSecret, KnownVariable, State, Step
from broker.targets import Fields, Hosts
from vault.auth_kinds import AuthConfig, auth_type_of, masked
from vault.errors import Invalid
from vault.model import PRODUCTION, Caller, Page, Value, VariableType
from vault.secret import Secret
from vault.vault import Vault

PAGE: Final = 1_000


class OwnTarget:
    """A workspace of this Keyturn."""

    def __init__(self, vault: Vault, caller: Caller) -> None:
        self._vault = vault
        self._caller = caller

    async def read(self) -> State:
        vault, caller = self._vault, self._caller
        named = [one.name for one in await vault.list_environments(caller)]
        return State(
            environments=[PRODUCTION, *named],
            secrets=await self._secrets(),
            auth_connections=[
                KnownAuth(
                    one.auth_connection_id,
                    one.name,
                    normal_config(auth_type_of(one.config), masked(one.config)),
                    tuple(one.allowed_hosts),
                )
                for one in await vault.list_auth_connections(caller)
            ],
            variables=await self._variables(),
            secret_fallback=(await vault.get_settings(caller)).secret_fallback,
        )

    async def _secrets(self) -> list[KnownSecret]:
        found: list[KnownSecret] = []
        page = Page(PAGE)
        while some := await self._vault.list_secrets(self._caller, page):
            found += [
                KnownSecret(one.secret_id, one.name, tuple(one.allowed_hosts)) for one, _ in some
            ]
            page = Page(PAGE, found[-1].id)
        return found

    async def _variables(self) -> list[KnownVariable]:
        found: list[KnownVariable] = []
        page = Page(PAGE)
        while some := await self._vault.list_variables(self._caller, page):
            found += [
                KnownVariable(one.info.variable_id, one.info.label, one.info.type, one.values)
                for one in some
            ]
            page = Page(PAGE, found[-1].id)
        return found

    async def create_secret(self, name: str, value: Secret, hosts: Hosts) -> str:
        made = await self._vault.create_secret(self._caller, name, value, allowed_hosts=list(hosts))
        return made.secret_id

    async def update_secret(self, secret_id: str, name: str, value: Secret, hosts: Hosts) -> None:
        await self._vault.update_secret(
            self._caller, secret_id, name, value, allowed_hosts=list(hosts)
        )

    async def create_auth(
        self, name: str, config: Mapping[str, Any], secrets: Fields, hosts: Hosts
    ) -> str:
        plain = {**config, **_revealed(secrets)}
        try:
            whole: AuthConfig = msgspec.convert(plain, AuthConfig)
        except msgspec.ValidationError:
            raise Invalid("A field of it is too long or of a wrong kind.") from None
        made = await self._vault.create_auth_connection(
            self._caller, name, whole, allowed_hosts=list(hosts)
        )
        return made.auth_connection_id

    async def update_auth(
        self, auth_id: str, changes: Mapping[str, Any], secrets: Fields, hosts: Hosts
    ) -> None:
        fields = {key: value for key, value in changes.items() if key != "auth_type"}
        await self._vault.update_auth_connection(
            self._caller,
            auth_id,
            changes["auth_type"],
            {**fields, **_revealed(secrets)},
            allowed_hosts=list(hosts),
        )

    async def create_environment(self, name: str) -> None:
        await self._vault.create_environment(self._caller, name)

    async def create_variable(
        self, label: str, kind: VariableType, values: Mapping[str, Value]
    ) -> None:
        await self._vault.create_variable(self._caller, label, kind, values)

    async def update_variable(self, variable_id: str, changes: Mapping[str, Value | None]) -> None:
        await self._vault.update_variable(self._caller, variable_id, changes)

    async def delete(self, step: Step) -> None:
        vault, caller = self._vault, self._caller
        if step.kind == "secret":
            await vault.delete_secret(caller, step.id)
        elif step.kind == "auth_connection":
            await vault.delete_auth_connection(caller, step.id)
        elif step.kind == "variable":
            await vault.delete_variable(caller, step.id)
        else:
            await vault.delete_environment(caller, step.name)


def _revealed(secrets: Fields) -> dict[str, str]:
    return {field: value.reveal() for field, value in secrets.items()}
