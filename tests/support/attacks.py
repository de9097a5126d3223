"""How every route is called by the attack matrix, and what in a request can name a thing.

* A route, an id in a path, a query parameter or a field of a body that is not here fails
  ``test_isolation.py`` with a sentence.
* In a request ``{id}`` stands for what is attacked, ``{cursor}`` for a page after it, ``{fresh}``
  for a name that is new, ``{mine}`` for a variable of the caller's own, ``{outside}`` for a server
  that tools may call.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

Kind = Literal[
    "key",
    "user",
    "workspace",
    "event",
    "label",
    "environment",
    "variable",
    "secret",
    "auth_connection",
]
# The platform chooses the names of these, so that one may stand in both workspaces.
NAMED: Final[tuple[Kind, ...]] = ("user", "label", "environment")

# Pages and descriptions of the surface itself: the same for everybody, tested in tests/broker.
NOT_ATTACKED: Final = {
    "GET /schema",
    "GET /schema/openapi.json",
    "GET /schema/{path:str}",
    "GET /docs",
    "GET /static/pico.min.css",
}
# Routes that ask for no key. Everything else has a guard.
PUBLIC: Final = {"GET /livez", "GET /readyz", "GET /metrics"}
# Parameters and fields that name nothing which belongs to a workspace.
PLAIN: Final = {
    *("limit", "page_size", "dependency_limit", "action", "Idempotency-Key"),
    *("name", "scopes", "environments", "expires_at", "phone_numbers", "attributes"),
    *("type", "value", "allowed_hosts", "search", "secret_fallback"),
    *("kind", "explain", "dynamic_variables", "arguments", "body"),
    # What an auth connection is made of
    *("auth_type", "provider", "client_id", "client_secret", "token_url", "extra_params"),
    *("extra_headers", "custom_headers", "basic_auth_in_header", "issuer", "audience", "subject"),
    *("secret_key", "algorithm", "key_id", "expiration_seconds", "token_response_field"),
    *("jwt_usage", "username", "password", "token", "header_name", "client_certificate"),
    *("client_key", "ca_certificate", "key_passphrase"),
}


class Attack(Struct, frozen=True, kw_only=True):
    """One way to call a route; ``path`` fills in what of its path is not attacked."""

    success: int
    missing: int = 404
    kind: Kind | None = None
    path: Mapping[str, str] = {}
    query: str = ""
    body: Mapping[str, object] | None = None


def _walked(kind: Kind, *, size: str = "limit") -> tuple[Attack, ...]:
    """A list, and the list after somebody else's cursor."""
    after = Attack(success=200, missing=200, kind=kind, query=f"{size}=2&cursor={{cursor}}")
    return (Attack(success=200), after)


def _listed(kind: Kind, query: str) -> Attack:
    """A list that is narrowed to what is attacked."""
    return Attack(success=200, missing=200, kind=kind, query=query)


def _value(kind: str, value: object) -> dict[str, object]:
    return {"type": kind, "label": "{fresh}", "values": {"production": value}}


def _tool(url: str, **api_schema: object) -> dict[str, Any]:
    tool = {"type": "webhook", "name": "get", "description": "Gets."}
    return {"kind": "server_tool", "config": {**tool, "api_schema": {"url": url, **api_schema}}}


def _configured(**more: object) -> tuple[Attack, ...]:
    """A tool that names a label, an environment, a secret, an auth connection."""
    header = {"request_headers": {"X-Key": {"secret_id": "{id}"}}}
    connection = {"auth_connection": {"auth_connection_id": "{id}"}}
    by_kind: tuple[tuple[Kind, int, dict[str, Any]], ...] = (
        ("label", 422, _tool("{outside}/{{system__env_{id}}}")),
        ("environment", 200, {**_tool("{outside}/"), "environment": "{id}"}),
        ("secret", 422, _tool("{outside}/", **header)),
        ("auth_connection", 422, _tool("{outside}/", **connection)),
    )
    return tuple(
        Attack(success=200, missing=missing, kind=kind, body={**body, **more})
        for kind, missing, body in by_kind
    )


_SECRET_REF: Final = {"secret_id": "{id}"}
_AUTH_REF: Final = {"auth_connection_id": "{id}"}
_VARIABLES: Final = "/v1/convai/environment-variables"
_SECRETS: Final = "/v1/convai/secrets"
_AUTH: Final = "/v1/workspace/auth-connections"

ATTACKS: Final[dict[str, tuple[Attack, ...]]] = {
    "POST /v1/workspaces": (Attack(success=201, body={"name": "made"}),),
    "GET /v1/workspaces": _walked("workspace"),
    "GET /v1/workspaces/{workspace_id:str}": (Attack(success=200, kind="workspace"),),
    "DELETE /v1/workspaces/{workspace_id:str}": (Attack(success=204, kind="workspace"),),
    "POST /v1/keys": (Attack(success=201, body={"name": "made", "scopes": ["mint"]}),),
    "GET /v1/keys": _walked("key"),
    "GET /v1/keys/{key_id:str}": (Attack(success=200, kind="key"),),
    "DELETE /v1/keys/{key_id:str}": (Attack(success=204, kind="key"),),
    "GET /v1/users": _walked("user"),
    "PUT /v1/users/{user_id:str}": (
        Attack(success=200, missing=200, kind="user", body={"name": "written"}),
    ),
    "GET /v1/users/{user_id:str}": (Attack(success=200, kind="user"),),
    "DELETE /v1/users/{user_id:str}": (Attack(success=204, kind="user"),),
    "GET /v1/audit-events": (
        *_walked("event"),
        Attack(success=200, missing=200, kind="user", query="user_id={id}"),
    ),
    f"GET {_VARIABLES}": (
        *_walked("variable", size="page_size"),
        _listed("label", "label={id}"),
        _listed("environment", "environment={id}"),
    ),
    f"POST {_VARIABLES}": (
        Attack(success=200, body=_value("string", "made")),
        Attack(success=200, missing=400, kind="secret", body=_value("secret", _SECRET_REF)),
        Attack(
            success=200,
            missing=400,
            kind="auth_connection",
            body=_value("auth_connection", _AUTH_REF),
        ),
    ),
    f"GET {_VARIABLES}/{{env_var_id:str}}": (Attack(success=200, kind="variable"),),
    f"PATCH {_VARIABLES}/{{env_var_id:str}}": (
        Attack(success=200, kind="variable", body={"values": {"production": "written"}}),
        Attack(
            success=200,
            missing=400,
            kind="secret",
            path={"env_var_id": "{mine}"},
            body={"values": {"staging": _SECRET_REF}},
        ),
    ),
    f"DELETE {_VARIABLES}/{{env_var_id:str}}": (Attack(success=204, kind="variable"),),
    "GET /v1/convai/environments": (Attack(success=200),),
    "POST /v1/convai/environments": (Attack(success=200, body={"name": "{fresh}"}),),
    "DELETE /v1/convai/environments/{name:str}": (Attack(success=204, kind="environment"),),
    f"GET {_SECRETS}": _walked("secret", size="page_size"),
    f"POST {_SECRETS}": (
        Attack(success=200, body={"type": "new", "name": "made", "value": "made"}),
    ),
    f"GET {_SECRETS}/{{secret_id:str}}": (Attack(success=200, kind="secret"),),
    f"PATCH {_SECRETS}/{{secret_id:str}}": (
        Attack(
            success=200, kind="secret", body={"type": "update", "name": "new", "value": "written"}
        ),
    ),
    f"DELETE {_SECRETS}/{{secret_id:str}}": (Attack(success=204, kind="secret"),),
    f"GET {_SECRETS}/{{secret_id:str}}/dependencies/{{resource_type:str}}": (
        Attack(
            success=200,
            kind="secret",
            path={"resource_type": "tools"},
            query="page_size=2&cursor={cursor}",
        ),
    ),
    f"GET {_AUTH}": (Attack(success=200),),
    f"POST {_AUTH}": (
        Attack(
            success=200,
            body={"auth_type": "bearer_auth", "name": "made", "provider": "x", "token": "made"},
        ),
    ),
    f"PATCH {_AUTH}/{{auth_connection_id:str}}": (
        Attack(success=200, kind="auth_connection", body={"token": "written"}),
    ),
    f"DELETE {_AUTH}/{{auth_connection_id:str}}": (Attack(success=200, kind="auth_connection"),),
    "GET /v1/settings": (Attack(success=200),),
    "PUT /v1/settings": (Attack(success=200, body={"secret_fallback": False}),),
    "GET /v1/settings/warnings": (Attack(success=200),),
    "POST /v1/resolve": _configured(explain=True),
    "POST /v1/tools/invoke": _configured(),
    "GET /v1/providers": (
        Attack(success=200),
        Attack(success=200, query="cursor=Z29vZ2xl"),  # the catalogue is the same for everybody
    ),
    "GET /v1/providers/{provider_id:str}": (Attack(success=200, path={"provider_id": "google"}),),
    "GET /livez": (Attack(success=200),),
    "GET /readyz": (Attack(success=200),),
    "GET /metrics": (Attack(success=200),),
}
