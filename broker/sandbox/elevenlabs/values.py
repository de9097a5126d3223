"""Environments, environment variables, secrets and auth connections, as ElevenLabs keeps them.

* A secret's value, and what is secret of an auth connection, never comes back.
* ``production`` is in every variable and cannot be deleted; ``null`` removes another value.
* A secret that is in use cannot be deleted. The status is not documented; here it is 409.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from broker.sandbox.elevenlabs.account import (
    PRODUCTION,
    Account,
    AuthConnection,
    Secret,
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

# By kind: what must be there, and what never comes back.
AUTH_KINDS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "oauth2_client_credentials": (("client_id", "token_url", "client_secret"), ("client_secret",)),
    "oauth2_jwt": (("issuer", "audience", "subject", "token_url", "secret_key"), ("secret_key",)),
    "private_key_jwt": (("issuer", "audience", "subject", "secret_key"), ("secret_key",)),
    "basic_auth": (("username", "password"), ("password",)),
    "bearer_auth": (("token",), ("token",)),
    "custom_header_auth": (("header_name", "token"), ("token",)),
    "mtls": (
        ("client_certificate", "client_key"),
        ("client_certificate", "client_key", "ca_certificate", "key_passphrase"),
    ),
}
UPDATABLE: Final = ("oauth2_client_credentials", "oauth2_jwt", "basic_auth", "bearer_auth")


class NewVariable(Struct):
    label: str
    values: dict[str, Any]
    type: Literal["string", "secret", "auth_connection"]


class Values(Struct):
    values: dict[str, Any]


class NewEnvironment(Struct):
    name: str


class NewSecret(Struct):
    type: Literal["new"]
    name: str
    value: str


class ChangedSecret(Struct):
    type: Literal["update"]
    name: str
    value: str


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
    for one in (*request.account.tools.values(), request.account.settings):
        held = one if isinstance(one, dict) else one.config
        if found.label in set(_labels(held)):
            raise Refused(409, "in_use", f"The variable '{found.label}' is in use.")
    del request.account.variables[found.id]
    return Answer(status=204)


async def list_secrets(request: Request) -> Answer:
    prefix = request.one("search") or ""
    found = [one for one in request.account.secrets.values() if one.name.startswith(prefix)]
    cut, cursor = page(request, found, lambda one: one.secret_id, default=None)
    shown = [_shown_secret(request.account, one) for one in cut]
    return Answer({"secrets": shown, "next_cursor": cursor})


async def make_secret(request: Request) -> Answer:
    asked = request.read(NewSecret)
    made = Secret(secret_id=new_id("secret"), name=asked.name, value=asked.value)
    request.account.secrets[made.secret_id] = made
    return Answer({"type": "stored", "secret_id": made.secret_id, "name": made.name})


async def get_secret(request: Request) -> Answer:
    return Answer(_shown_secret(request.account, _secret(request)))


async def change_secret(request: Request) -> Answer:
    found, asked = _secret(request), request.read(ChangedSecret)
    found.name, found.value = asked.name, asked.value
    return Answer({"type": "stored", "secret_id": found.secret_id, "name": found.name})


async def delete_secret(request: Request) -> Answer:
    found = _secret(request)
    used = _used_by(request.account, found.secret_id)
    referring = [one for one in request.account.variables.values() if _refers(one, found.secret_id)]
    if any(used.values()) or referring:
        raise Refused(409, "in_use", f"The secret '{found.name}' is in use.")
    del request.account.secrets[found.secret_id]
    return Answer(status=204)


async def list_connections(request: Request) -> Answer:
    found = request.account.auth_connections.values()
    return Answer({"auth_connections": [_shown_connection(one) for one in found]})


async def make_connection(request: Request) -> Answer:
    asked = request.read(dict[str, Any])
    kind = asked.get("auth_type")
    if kind not in AUTH_KINDS:
        raise Unprocessable(
            ["body", "auth_type"], f"Input should be one of {[*AUTH_KINDS]}", "enum"
        )
    for name in ("name", "provider", *AUTH_KINDS[kind][0]):
        if not isinstance(asked.get(name), str):
            raise Unprocessable(["body", name], "Field required", "missing")
    made = AuthConnection(id=new_id("auth"), config=asked)
    request.account.auth_connections[made.id] = made
    return Answer(_shown_connection(made))


async def change_connection(request: Request) -> Answer:
    found, asked = _connection(request), request.read(dict[str, Any])
    kind = found.config["auth_type"]
    if kind not in UPDATABLE or asked.get("auth_type", kind) != kind:
        raise Refused(400, "invalid_parameters", f"A connection of kind '{kind}' cannot be this.")
    for name in ("name", "token_url"):
        asked.pop(name, None)
    found.config = {**found.config, **asked}
    found.token = None
    return Answer(_shown_connection(found))


async def delete_connection(request: Request) -> Answer:
    del request.account.auth_connections[_connection(request).id]
    return Answer({})


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


def _secret(request: Request) -> Secret:
    name = request.params["id"]
    if (found := request.account.secrets.get(name)) is None:
        raise not_found("secret", name)
    return found


def _connection(request: Request) -> AuthConnection:
    name = request.params["id"]
    if (found := request.account.auth_connections.get(name)) is None:
        raise not_found("auth_connection", name)
    return found


def _refers(variable: Variable, secret_id: str) -> bool:
    return any(value == {"secret_id": secret_id} for value in variable.values.values())


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


def _names_secret(held: object, secret_id: str) -> bool:
    if isinstance(held, dict):
        return held.get("secret_id") == secret_id or any(
            _names_secret(one, secret_id) for one in held.values()
        )
    return isinstance(held, list) and any(_names_secret(one, secret_id) for one in held)


def _used_by(account: Account, secret_id: str) -> dict[str, list[Any]]:
    def users(kept: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        return [
            {
                "type": "available",
                "id": one.id,
                "name": str(one.config.get("name") or one.config.get(name) or one.id),
                "created_at_unix_secs": one.created_at,
                "access_level": "admin",
            }
            for one in kept.values()
            if _names_secret(one.config, secret_id)
        ]

    agents = [{**one, "referenced_resource_ids": []} for one in users(account.agents, "name")]
    others = ["conversation_initiation_webhook"] if _names_secret(account.settings, secret_id) else []
    return {"tools": users(account.tools, "name"), "agents": agents, "others": others}


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


def _shown_secret(account: Account, secret: Secret) -> dict[str, Any]:
    return {
        "type": "stored",
        "secret_id": secret.secret_id,
        "name": secret.name,
        "used_by": _used_by(account, secret.secret_id),
    }


def _shown_connection(connection: AuthConnection) -> dict[str, Any]:
    hidden = AUTH_KINDS[connection.config["auth_type"]][1]
    shown = {name: value for name, value in connection.config.items() if name not in hidden}
    return {**shown, "id": connection.id, "status": connection.status}


_ENVIRONMENTS = "/v1/convai/environments"
_VARIABLES = "/v1/convai/environment-variables"
_SECRETS = "/v1/convai/secrets"
_CONNECTIONS = "/v1/workspace/auth-connections"

ROUTES: Final = (
    Route("GET", _ENVIRONMENTS, list_environments),
    Route("POST", _ENVIRONMENTS, make_environment),
    Route("DELETE", _ENVIRONMENTS + "/{name}", delete_environment),
    Route("GET", _VARIABLES, list_variables),
    Route("POST", _VARIABLES, make_variable),
    Route("GET", _VARIABLES + "/{id}", get_variable),
    Route("PATCH", _VARIABLES + "/{id}", change_variable),
    Route("DELETE", _VARIABLES + "/{id}", delete_variable),
    Route("GET", _SECRETS, list_secrets),
    Route("POST", _SECRETS, make_secret),
    Route("GET", _SECRETS + "/{id}", get_secret),
    Route("PATCH", _SECRETS + "/{id}", change_secret),
    Route("DELETE", _SECRETS + "/{id}", delete_secret),
    Route("GET", _CONNECTIONS, list_connections),
    Route("POST", _CONNECTIONS, make_connection),
    Route("PATCH", _CONNECTIONS + "/{id}", change_connection),
    Route("DELETE", _CONNECTIONS + "/{id}", delete_connection),
)
