"""From a tool's configuration to a request, and from its answer to what the model sees. Pure.

* Each leaf of a schema is an argument of the model, a dynamic variable, a constant, or omitted.
* A dotted path into an answer leads through objects and lists; where it ends nowhere, nothing is.
"""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from msgspec import Struct

from broker.sandbox.elevenlabs.account import REDACTED, SECRET
from broker.sandbox.elevenlabs.agents import ApiSchema, Assignment
from broker.sandbox.elevenlabs.templates import Filling, Unconfigured, as_text, secret_names

FORM: Final = "application/x-www-form-urlencoded"

_ABSENT: Final = object()


class Prepared(Struct, frozen=True, kw_only=True):
    """A request that is filled in."""

    method: str
    url: str
    headers: dict[str, str]
    path: dict[str, str]
    query: dict[str, str]
    body: str | None

    def details(self) -> dict[str, Any]:
        return {
            "type": "webhook",
            "method": self.method,
            "url": self.url,
            "headers": dict.fromkeys(self.headers, REDACTED),
            "path_params": self.path,
            "query_params": self.query,
            "body": self.body,
        }


def prepared(schema: ApiSchema, filling: Filling, arguments: dict[str, Any]) -> Prepared:
    """Fill a request in, but for what an auth connection adds; raises ``Unconfigured``."""
    places = {"properties": schema.path_params_schema, "required": [*schema.path_params_schema]}
    path = {name: as_text(value) for name, value in _object(places, filling, arguments).items()}
    query = {
        name: as_text(value)
        for name, value in _object(schema.query_params_schema or {}, filling, arguments).items()
    }
    url = filling.text(schema.url)
    for name, text in path.items():
        url = url.replace(f"{{{name}}}", quote(text, safe=""))
    if query:
        url += ("&" if "?" in url else "?") + urlencode(query)
    headers = {name: filling.header(value) for name, value in schema.request_headers.items()}
    body = _body(schema, filling, arguments)
    if body is not None and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = schema.content_type
    return Prepared(
        method=schema.method, url=url, headers=headers, path=path, query=query, body=body
    )


def assigned(assignments: list[Assignment], answer: object) -> list[tuple[str, Any]]:
    """The variables that an answer sets, with their new values."""
    made = []
    for one in assignments:
        value = _found(answer, one.value_path.split("."))
        if value is not _ABSENT and value is not None:
            made.append(
                (one.dynamic_variable, value if one.preserve_native_type else as_text(value))
            )
    return made


def seen_by_model(schema: ApiSchema, assignments: list[Assignment], answer: Any) -> str:  # noqa: ANN401 - any JSON
    """What is left of an answer: without what is sanitized, and filtered."""
    for one in assignments:
        if one.sanitize:
            _remove(answer, one.value_path.split("."))
    return json.dumps(_filtered(schema.response_filter or {}, answer))


def secrets_named(held: object) -> list[str]:
    """The secret variables that a part of a configuration names."""
    if isinstance(held, str):
        return secret_names(held)
    if isinstance(held, list):
        return [name for one in held for name in secrets_named(one)]
    if not isinstance(held, dict):
        return []
    variable = held.get("dynamic_variable")
    own = [variable] if isinstance(variable, str) and variable.startswith(SECRET) else []
    return own + [name for one in held.values() for name in secrets_named(one)]


def _body(schema: ApiSchema, filling: Filling, arguments: dict[str, Any]) -> str | None:
    if schema.request_body_schema is None:
        return None
    body = _object(schema.request_body_schema, filling, arguments)
    if schema.content_type == FORM:
        return urlencode({name: as_text(value) for name, value in body.items()})
    return json.dumps(body)


def _object(
    schema: Mapping[str, Any], filling: Filling, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    required = schema.get("required") or []
    made = {
        name: _leaf(leaf, name, filling, arguments, required=name in required)
        for name, leaf in (schema.get("properties") or {}).items()
    }
    return {name: value for name, value in made.items() if value is not _ABSENT}


def _leaf(
    leaf: Mapping[str, Any],
    name: str,
    filling: Filling,
    arguments: Mapping[str, Any],
    *,
    required: bool,
) -> Any:  # noqa: ANN401 - any JSON
    if leaf.get("is_omitted") or leaf.get("is_system_provided"):
        return _ABSENT
    if variable := leaf.get("dynamic_variable"):
        return _typed(filling.value(variable), leaf.get("type"))
    constant = leaf.get("constant_value")
    if constant not in (None, ""):
        return filling.text(constant) if isinstance(constant, str) else constant
    if leaf.get("type") == "object" or "properties" in leaf:
        nested = arguments.get(name)
        return _object(leaf, filling, nested if isinstance(nested, dict) else {})
    if name in arguments:
        return arguments[name]
    if required:
        raise Unconfigured(f"The model gave no '{name}'.")
    return _ABSENT


def _typed(value: object, kind: object) -> object:
    """Give a variable's value the type that the schema names, where it fits."""
    if not isinstance(value, str) or kind not in ("integer", "number", "boolean"):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, int | float) else value


def _found(answer: object, steps: list[str]) -> object:
    for step in steps:
        if isinstance(answer, dict):
            answer = answer.get(step, _ABSENT)
        elif isinstance(answer, list) and step.isdecimal() and int(step) < len(answer):
            answer = answer[int(step)]
        else:
            return _ABSENT
    return answer


def _remove(answer: object, steps: list[str]) -> None:
    holder = _found(answer, steps[:-1])
    if isinstance(holder, dict):
        holder.pop(steps[-1], None)
    elif isinstance(holder, list) and steps[-1].isdecimal() and int(steps[-1]) < len(holder):
        holder[int(steps[-1])] = None


def _filtered(wanted: Mapping[str, Any], answer: object) -> object:
    if wanted.get("mode") == "hide_all":
        return {}
    if wanted.get("mode") != "allow":
        return answer
    kept: dict[str, object] = {}
    for path in wanted.get("filters") or []:
        value = _found(answer, str(path).split("."))
        if value is not _ABSENT:
            kept[path] = value
    return kept
