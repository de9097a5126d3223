"""Ready-made tools for an agent at ElevenLabs: to renew its access, to call through us. Pure.

* What a model fills in is a segment of a path at most; whose credential is used, and for what, is
  written down here or decided by what the conversation holds.
* A renewed credential is assigned and sanitized: it goes into the conversation, past the model.
* Without the runtime key's place in the account's secret store a gateway's tool is not complete;
  ``lint`` says so.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

from broker.profile import AUTHORIZATION, Allowed, Profile, is_secret
from broker.tools.lint import GATEWAY_PATH, REFRESH_PATH, RUNTIME_HEADER
from broker.variables import Generation, Person, Plan, Usable, plan

TIMEOUT: Final = 20  # seconds: a refresh waits for its provider
MAX_NAME: Final = 64
MAX_PER_INTEGRATION: Final = 30

Config = dict[str, Any]

# What a tool of the runtime can send.
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_READS: Final = (Allowed(methods=["GET"], path="/*"),)
_NO_NAME: Final = re.compile(r"[^a-z0-9]+")


def tools_for(
    profile: Profile | None,
    integrations: Sequence[str],
    *,
    origin: str,
    runtime_secret_id: str | None,
) -> list[Config]:
    """The configurations that serve an agent, for these integrations."""
    known = [Usable(integration=one, connection_id="") for one in integrations]
    planned = plan(profile, Person(user_id=""), known)
    through_gateway = profile is not None and profile.tools == "gateway"
    found = []
    for integration in integrations:
        tool = _refresh(planned, integration, origin, plain_only=through_gateway)
        found.append(_with_runtime_key(tool, runtime_secret_id))
    for integration in integrations if through_gateway else ():
        need = profile.needed(integration) if profile else None
        calls = _gateway(integration, need.allow if need else None, origin)
        found += [_with_runtime_key(tool, runtime_secret_id) for tool in calls]
    return _told_apart(found)


def _refresh(planned: Plan, integration: str, origin: str, *, plain_only: bool) -> Config:
    """The tool that an agent calls when another one answers 401."""
    names = [one for one in planned.names_of(integration) if not (plain_only and is_secret(one))]
    properties: dict[str, Any] = {
        "integration": {"type": "string", "constant_value": integration},
        "rejected": {"type": "boolean", "constant_value": True},
        "conversation_id": {"type": "string", "dynamic_variable": "system__conversation_id"},
    }
    for name in names:
        if isinstance(planned.variables[name].source, Generation):
            properties["generation"] = {"type": "integer", "dynamic_variable": name}
    return {
        "type": "webhook",
        "name": f"refresh_{integration}_access",
        "description": (
            f"Renews this conversation's access to {integration}. Call it when a tool that works"
            f" with {integration} answers that it is not authorized (401), and then call that tool"
            " once more."
        ),
        "response_timeout_secs": TIMEOUT,
        "execution_mode": "immediate",
        "assignments": [_assignment(name) for name in names],
        "api_schema": {
            "url": f"{origin}{REFRESH_PATH}",
            "method": "POST",
            "content_type": "application/json",
            "request_headers": {"Authorization": {"variable_name": AUTHORIZATION}},
            "request_body_schema": {
                "type": "object",
                "required": ["integration", "rejected"],
                "properties": properties,
            },
        },
    }


def _assignment(name: str) -> Config:
    kept = {"sanitize": True} if is_secret(name) else {"preserve_native_type": True}
    return {
        "source": "response",
        "dynamic_variable": name,
        "value_path": f"variables.{name}",
        **kept,
    }


def _gateway(integration: str, allowed: Sequence[Allowed] | None, origin: str) -> Iterator[Config]:
    """A tool for each kind of request that the profile allows; without a word, for reading."""
    taken: set[str] = set()
    for one in _READS if allowed is None else allowed:
        for method in (method for method in one.methods if method in _METHODS):
            if len(taken) < MAX_PER_INTEGRATION:
                name = _name(f"{integration}_{method}_{one.path}", taken)
                yield _call(integration, method, one.path, name, origin)


def _call(integration: str, method: str, path: str, name: str, origin: str) -> Config:
    segments: list[str] = []
    holes: dict[str, Config] = {}
    for segment in path.split("/")[1:]:
        if "*" in segment:
            hole = f"part_{len(holes) + 1}"
            holes[hole] = {
                "type": "string",
                "description": f"What stands for {segment} in {path}: one segment of the path.",
            }
            segments.append("{" + hole + "}")
        else:
            segments.append(quote(segment, safe="%:@!$&'()+,;=~"))
    schema: Config = {
        "url": f"{origin}{GATEWAY_PATH}{integration}/{'/'.join(segments)}",
        "method": method,
        "request_headers": {"Authorization": {"variable_name": AUTHORIZATION}},
    }
    if holes:
        schema["path_params_schema"] = holes
    return {
        "type": "webhook",
        "name": name,
        "description": f"{method} {path} of {integration}, as the user of this conversation.",
        "response_timeout_secs": TIMEOUT,
        "execution_mode": "immediate",
        "api_schema": schema,
    }


def _with_runtime_key(tool: Config, secret_id: str | None) -> Config:
    if secret_id is not None:
        tool["api_schema"]["request_headers"][RUNTIME_HEADER] = {"secret_id": secret_id}
    return tool


def _told_apart(tools: list[Config]) -> list[Config]:
    """Give the second of a name another one: ``acme`` + ``get_x`` reads as ``acme_get`` + ``x``.

    The first keeps its own, and so does whoever shares none: by its name a tool was pushed.
    """
    taken = {tool["name"] for tool in tools}
    given: set[str] = set()
    for tool in tools:
        if tool["name"] in given:
            tool["name"] = _name(tool["name"], taken)
        given.add(tool["name"])
    return tools


def _name(text: str, taken: set[str]) -> str:
    """A name that no other has, of the form that the runtime asks for."""
    plain = _NO_NAME.sub("_", text.lower()).strip("_")[: MAX_NAME - 3]
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain[: MAX_NAME - 1 - len(str(number))]}_{number}"
    taken.add(name)
    return name
