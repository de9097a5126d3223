"""Environments and environment variables, as ElevenLabs keeps them.

* ``production`` is in every variable and cannot be deleted; ``null`` removes another value.
* A label and a type stay as they were made. A variable that a tool, an MCP server or the webhook
  of the settings names cannot be deleted; agents are not looked at, as there.
* An environment is known as soon as a value names it, and takes its values with it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from broker.sandbox.elevenlabs.account import (
    PRODUCTION,
    Account,
    Variable,
    new_id,
)
from broker.sandbox.elevenlabs.wire import (
    Answer,
    Refused,
    Request,
    Route,
    Unprocessable,
    not_found,
    page,
)

LABEL: Final = re.compile(r"^[a-z][a-z0-9_]{0,63}(?!\n)$")
ENVIRONMENT: Final = re.compile(r"^[A-Za-z0-9_-]{1,64}(?!\n)$")
REFERENCES: Final = {"secret": "secret_id", "auth_connection": "auth_connection_id"}
VARIABLE_TYPES: Final = ("string", "secret", "auth_connection")


class NewVariable(Struct):
    label: str
    values: dict[str, Any]
    type: Literal["string", "secret", "auth_connection"]


class Values(Struct):
    values: dict[str, Any]


class NewEnvironment(Struct):
    name: str


async def list_environments(request: Request) -> Answer:
    found = request.account.environments
    names = [PRODUCTION, *sorted(found.keys() - {PRODUCTION})]
    shown = [{"name": name, "updated_at_unix_secs": found[name]} for name in names]
    return Answer({"environments": shown})


async def make_environment(request: Request) -> Answer:
    name = request.read(NewEnvironment).name
    if ENVIRONMENT.match(name) is None:
        raise Unprocessable(["body", "name"], "Not the name of an environment", "string_pattern")
    if name in request.account.environments:
        raise Refused(409, "environment_exists", f"The environment '{name}' is there already.")
    request.account.environments[name] = request.world.seconds()
    return Answer({"name": name, "updated_at_unix_secs": request.account.environments[name]})


async def delete_environment(request: Request) -> Answer:
    name = request.params["name"]
    if name == PRODUCTION:
        raise Refused(400, "invalid_parameters", "'production' cannot be deleted.")
    if request.account.environments.pop(name, None) is None:
        raise not_found("environment", name)
    for variable in request.account.variables.values():
        variable.values.pop(name, None)
    return Answer(status=204)


async def list_variables(request: Request) -> Answer:
    environment, label, kind = (request.one(name) for name in ("environment", "label", "type"))
    if kind is not None and kind not in VARIABLE_TYPES:
        raise Unprocessable(["query", "type"], f"Input should be one of {VARIABLE_TYPES}", "enum")
    found = [
        one
        for one in request.account.variables.values()
        if label in (None, one.label)
        and kind in (None, one.type)
        and (environment is None or environment in one.values)
    ]
    cut, cursor = page(request, found, lambda one: one.id)
    shown = [_shown_variable(request.account, one, environment) for one in cut]
    return Answer(
        {"environment_variables": shown, "next_cursor": cursor, "has_more": cursor is not None}
    )


async def make_variable(request: Request) -> Answer:
    asked = request.read(NewVariable)
    if LABEL.match(asked.label) is None:
        raise Unprocessable(["body", "label"], "Not a label", "string_pattern_mismatch")
    if PRODUCTION not in asked.values:
        raise Refused(400, "invalid_parameters", "A value for 'production' is needed.")
    _check_values(request.account, asked.type, asked.values)
    if any(one.label == asked.label for one in request.account.variables.values()):
        raise Refused(409, "label_exists", f"The label '{asked.label}' is taken.", param="label")
    now = request.world.seconds()
    made = Variable(
        id=new_id("envvar"),
        label=asked.label,
        type=asked.type,
        values=dict(asked.values),
        created_at=now,
        updated_at=now,
    )
    request.account.variables[made.id] = made
    _know_environments(request, made.values)
    return Answer(_shown_variable(request.account, made))


async def get_variable(request: Request) -> Answer:
    return Answer(_shown_variable(request.account, _variable(request)))


async def change_variable(request: Request) -> Answer:
    found, asked = _variable(request), request.read(Values).values
    if PRODUCTION in asked and asked[PRODUCTION] is None:
        raise Refused(400, "invalid_parameters", "The value for 'production' cannot be removed.")
    kept = {name: value for name, value in asked.items() if value is not None}
    _check_values(request.account, found.type, kept)
    for name, value in asked.items():
        if value is None:
            found.values.pop(name, None)
        else:
            found.values[name] = value
    found.updated_at = request.world.seconds()
    _know_environments(request, kept)
    return Answer(_shown_variable(request.account, found))


async def delete_variable(request: Request) -> Answer:
    found = _variable(request)
    account = request.account
    kept = (*account.tools.values(), *account.mcp_servers.values())
    if found.label in _labels([account.settings, *(one.config for one in kept)]):
        raise Refused(409, "in_use", f"The variable '{found.label}' is in use.")
    del account.variables[found.id]
    return Answer(status=204)


def _check_values(account: Account, kind: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if ENVIRONMENT.match(name) is None:
            raise Unprocessable(["body", "values", name], "Not the name of an environment")
        if kind == "string":
            if not isinstance(value, str) or not value:
                raise Refused(400, "invalid_parameters", "The value must be a text.", param=name)
            continue
        reference = value.get(REFERENCES[kind]) if isinstance(value, dict) else None
        known = account.secrets if kind == "secret" else account.auth_connections
        if reference not in known:
            raise Refused(
                400, "invalid_parameters", f"The value must name a known {kind}.", param=name
            )


def _know_environments(request: Request, values: Mapping[str, Any]) -> None:
    for name in values:
        request.account.environments.setdefault(name, request.world.seconds())


def _variable(request: Request) -> Variable:
    name = request.params["id"]
    if (found := request.account.variables.get(name)) is None:
        raise not_found("environment_variable", name)
    return found


def _labels(held: object) -> Iterator[str]:
    """The environment variables that a configuration names."""
    if isinstance(held, dict):
        if isinstance(label := held.get("env_var_label"), str):
            yield label
        for one in held.values():
            yield from _labels(one)
    elif isinstance(held, list):
        for one in held:
            yield from _labels(one)
    elif isinstance(held, str):
        yield from re.findall(r"\{\{\s*system__env_(\w+)\s*\}\}", held)


def _shown_variable(
    account: Account, variable: Variable, environment: str | None = None
) -> dict[str, Any]:
    values = variable.values
    return {
        "id": variable.id,
        "label": variable.label,
        "type": variable.type,
        "values": values if environment is None else {environment: values[environment]},
        "workspace_id": account.workspace_id,
        "created_at_unix_secs": variable.created_at,
        "updated_at_unix_secs": variable.updated_at,
        "created_by_user_id": None,
    }


_ENVIRONMENTS: Final = "/v1/convai/environments"
_VARIABLES: Final = "/v1/convai/environment-variables"

ROUTES: Final = (
    Route("GET", _ENVIRONMENTS, list_environments),
    Route("POST", _ENVIRONMENTS, make_environment),
    Route("DELETE", _ENVIRONMENTS + "/{name}", delete_environment),
    Route("GET", _VARIABLES, list_variables),
    Route("POST", _VARIABLES, make_variable),
    Route("GET", _VARIABLES + "/{id}", get_variable),
    Route("PATCH", _VARIABLES + "/{id}", change_variable),
    Route("DELETE", _VARIABLES + "/{id}", delete_variable),
)
