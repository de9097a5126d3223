"""Where an environment file is compared with and applied to: this Keyturn, another, ElevenLabs.

* ``own`` goes through the door as the operator. ``remote`` speaks the ElevenLabs API, which another
  Keyturn speaks too.
* ``apply`` makes a plan's steps in order and stops at the first that fails; applying again goes on
  from there. A deletion that is refused is reported, and does not stop the others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from broker.environment_file.document import VALUE, Named
from broker.environment_file.plan import Plan, State, Step
from broker.environment_file.values import Values
from vault.errors import Conflict, Invalid, NotFound, VaultError
from vault.model import AuthRef, SecretRef, Value, VariableType
from vault.secret import Secret

Fields = Mapping[str, Secret]
Hosts = Sequence[str]


class Target(Protocol):
    """What can be asked of a workspace, wherever it is. Each creating method returns the id."""

    async def read(self) -> State: ...
    async def create_secret(self, name: str, value: Secret, hosts: Hosts) -> str: ...
    async def update_secret(
        self, secret_id: str, name: str, value: Secret, hosts: Hosts
    ) -> None: ...
    async def create_auth(
        self, name: str, config: Mapping[str, Any], secrets: Fields, hosts: Hosts
    ) -> str: ...
    async def update_auth(
        self, auth_id: str, changes: Mapping[str, Any], secrets: Fields, hosts: Hosts
    ) -> None: ...
    async def create_environment(self, name: str) -> None: ...
    async def create_variable(
        self, label: str, kind: VariableType, values: Mapping[str, Value]
    ) -> None: ...
    async def update_variable(
        self, variable_id: str, changes: Mapping[str, Value | None]
    ) -> None: ...
    async def delete(self, step: Step) -> None: ...


class Refused(Struct, frozen=True):
    """A deletion that the target did not make, and why."""

    step: Step
    reason: str


class Stopped(VaultError):
    """Applying stopped before its end; apply the same file again to go on."""

    def __init__(self, done: int, step: Step, error: VaultError) -> None:
        super().__init__(error.message)
        self.done = done
        self.step = step


async def apply(
    plan: Plan, target: Target, values: Values, report: Callable[[Step], None]
) -> list[Refused]:
    """Make every step; ``report`` hears of each that is done."""
    ids = dict(plan.ids)
    refused = []
    for done, step in enumerate(plan.steps):
        try:
            await _make(step, target, values, ids)
        except (Conflict, Invalid) as error:
            if step.action != "delete":
                raise Stopped(done, step, error) from None
            refused.append(Refused(step, error.message))
            continue
        except NotFound as error:
            if step.action != "delete":
                raise Stopped(done, step, error) from None
        except VaultError as error:
            raise Stopped(done, step, error) from None
        report(step)
    return refused


async def _make(step: Step, target: Target, values: Values, ids: dict[Named, str]) -> None:
    if step.action == "delete":
        await target.delete(step)
    elif step.kind == "environment":
        await target.create_environment(step.name)
    elif step.kind == "variable":
        await _make_variable(step, target, ids)
    elif named := step.named:
        made = await _make_credential(step, target, values.get(named, {}))
        ids[named] = made or step.id


async def _make_credential(step: Step, target: Target, fields: Fields) -> str | None:
    hosts = step.allowed_hosts or ()
    if step.kind == "secret" and step.action == "create":
        return await target.create_secret(step.name, fields[VALUE], hosts)
    if step.kind == "secret":
        await target.update_secret(step.id, step.name, fields[VALUE], hosts)
    elif step.action == "create":
        return await target.create_auth(step.name, step.config, fields, hosts)
    else:
        await target.update_auth(step.id, step.config, fields, hosts)
    return None


async def _make_variable(step: Step, target: Target, ids: Mapping[Named, str]) -> None:
    values = {name: _value(one, ids) for name, one in step.values.items()}
    if step.action == "update":
        await target.update_variable(step.id, values)
        return
    if step.action == "replace":
        await target.delete(step)
    kept = {name: one for name, one in values.items() if one is not None}
    await target.create_variable(step.name, step.type, kept)


def _value(value: str | Named | None, ids: Mapping[Named, str]) -> Value | None:
    if not isinstance(value, Named):
        return value
    return SecretRef(ids[value]) if value.kind == "secret" else AuthRef(ids[value])
