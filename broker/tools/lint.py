"""What is wrong with a tool's configuration where secrets are concerned. Pure.

* It reads ElevenLabs' webhook tools, ours and anybody's, and says each fault with a JSON pointer.
* A secret belongs into a header, as a variable or by its id: whatever stands in an address, a body
  or a description ends up in logs, in transcripts and before the model.
* What an answer brings of secrets goes into a ``secret__`` variable, sanitized; else the model
  reads it.
* What decides whose credential is used, or that it is renewed, is a constant or the conversation's
  own variable, never an argument that a model fills in.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from broker.profile import AUTHORIZATION, is_secret

RUNTIME_HEADER: Final = "X-Keyturn-Runtime"
REFRESH_PATH: Final = "/tokens/refresh"
GATEWAY_PATH: Final = "/gateway/"
INVOKE_PATH: Final = "/v1/tools/invoke"

Rule = Literal[
    "secret_not_sanitized",
    "secret_in_plain_variable",
    "secret_outside_headers",
    "literal_credential",
    "secret_follows_redirects",
    "address_not_https",
    "no_grant",
    "no_runtime_key",
    "chosen_by_model",
    "rejected_not_constant",
]

_HEADERS: Final = "/api_schema/request_headers"
_BODY: Final = "/api_schema/request_body_schema/properties"
# Values for trying a tool out; assignments have rules of their own.
_NOT_SENT: Final = ("/dynamic_variables", "/assignments")
_HOLE: Final = re.compile(r"\{\{\s*(secret__[A-Za-z0-9_.-]+)\s*\}\}")
_CREDENTIALS: Final = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "xi-api-key"),
        *("x-auth-token", "x-access-token", RUNTIME_HEADER.lower()),
    }
)
_TOKENS: Final = frozenset({"access_token", "refresh_token", "id_token", "client_secret"})
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Finding(Struct, frozen=True, kw_only=True):
    """One fault, and where it stands."""

    rule: Rule
    pointer: str
    detail: str


def lint(config: Mapping[str, Any]) -> list[Finding]:
    """Everything that is wrong with one configuration; nothing is quoted from it but names."""
    schema = _mapping(config.get("api_schema"))
    url = schema.get("url") if isinstance(schema.get("url"), str) else ""
    found = [
        *_assignments(config),
        *_outside(config, ""),
        *_headers(schema),
        *_address(schema, str(url)),
    ]
    path = _split(str(url)).path
    if path.rstrip("/").endswith(REFRESH_PATH):
        found += _refreshing(schema)
    if GATEWAY_PATH in path:
        found += _through_gateway(schema)
    if path.rstrip("/").endswith(INVOKE_PATH):
        found += _by_name(schema)
    return found


def _assignments(config: Mapping[str, Any]) -> Iterator[Finding]:
    for number, one in enumerate(_sequence(config.get("assignments"))):
        here = f"/assignments/{number}"
        name, path = str(one.get("dynamic_variable", "")), str(one.get("value_path", ""))
        if is_secret(name) and one.get("sanitize") is not True:
            yield Finding(
                rule="secret_not_sanitized",
                pointer=f"{here}/sanitize",
                detail='Without "sanitize": true the model reads what is assigned.',
            )
        last = path.rpartition(".")[2]
        if not is_secret(name) and (is_secret(last) or last in _TOKENS):
            yield Finding(
                rule="secret_in_plain_variable",
                pointer=f"{here}/dynamic_variable",
                detail="A secret goes only into a variable whose name begins with secret__.",
            )


def _outside(held: object, here: str) -> Iterator[Finding]:
    """Secrets in whatever is not a header."""
    if here == _HEADERS or here in _NOT_SENT:
        return
    if isinstance(held, str) and _HOLE.search(held):
        yield _misplaced(here)
    elif isinstance(held, Mapping):
        for field in ("dynamic_variable", "variable_name"):
            if isinstance(name := held.get(field), str) and is_secret(name):
                yield _misplaced(f"{here}/{field}")
        for name, one in held.items():
            yield from _outside(one, f"{here}/{_escaped(str(name))}")
    elif isinstance(held, list):
        for number, one in enumerate(held):
            yield from _outside(one, f"{here}/{number}")


def _misplaced(here: str) -> Finding:
    return Finding(
        rule="secret_outside_headers",
        pointer=here,
        detail="A secret__ variable belongs into a header alone.",
    )


def _headers(schema: Mapping[str, Any]) -> Iterator[Finding]:
    for name, value in _mapping(schema.get("request_headers")).items():
        literal = isinstance(value, str) and value and "{{" not in value
        if literal and str(name).lower() in _CREDENTIALS:
            yield Finding(
                rule="literal_credential",
                pointer=f"{_HEADERS}/{_escaped(str(name))}",
                detail="Everybody reads this who may read the tool: name a secret or a variable.",
            )


def _address(schema: Mapping[str, Any], url: str) -> Iterator[Finding]:
    if url and not url.startswith("https://") and _split(url).hostname not in _LOOPBACK:
        yield Finding(
            rule="address_not_https",
            pointer="/api_schema/url",
            detail="The address has to begin with https://, written out.",
        )
    if schema.get("follow_redirects") is True and _sends_secrets(schema):
        yield Finding(
            rule="secret_follows_redirects",
            pointer="/api_schema/follow_redirects",
            detail="A redirect would take the headers along, to wherever it leads.",
        )


def _sends_secrets(schema: Mapping[str, Any]) -> bool:
    for value in _mapping(schema.get("request_headers")).values():
        if isinstance(value, str) and _HOLE.search(value):
            return True
        held = _mapping(value)
        if "secret_id" in held or is_secret(str(held.get("variable_name", ""))):
            return True
    return False


def _refreshing(schema: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _grant(schema)
    leaves = _leaves(schema)
    if _mapping(leaves.get("rejected")).get("constant_value") is not True:
        yield Finding(
            rule="rejected_not_constant",
            pointer=f"{_BODY}/rejected",
            detail='A tool that reacts to a 401 says so: "constant_value": true.',
        )
    for name, leaf in leaves.items():
        if not {"constant_value", "dynamic_variable"} & _mapping(leaf).keys():
            yield _by_model(f"{_BODY}/{_escaped(str(name))}")


def _through_gateway(schema: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _grant(schema)
    yield from _runtime_key(schema)
    url = str(schema.get("url", ""))
    named = _split(url).path.partition(GATEWAY_PATH)[2].partition("/")[0]
    if not named or "{" in named:
        yield _by_model("/api_schema/url")


def _by_name(schema: Mapping[str, Any]) -> Iterator[Finding]:
    """A tool of the agent's profile, called by its name."""
    yield from _grant(schema)
    yield from _runtime_key(schema)
    if not isinstance(_mapping(_leaves(schema).get("tool")).get("constant_value"), str):
        yield _by_model(f"{_BODY}/tool")


def _runtime_key(schema: Mapping[str, Any]) -> Iterator[Finding]:
    runtime = _header(schema, RUNTIME_HEADER)
    if not isinstance(_mapping(runtime).get("secret_id"), str):
        yield Finding(
            rule="no_runtime_key",
            pointer=f"{_HEADERS}/{RUNTIME_HEADER}",
            detail='The runtime key lies in the upstream\'s secret store: {"secret_id": ...}.',
        )


def _grant(schema: Mapping[str, Any]) -> Iterator[Finding]:
    if _header(schema, "Authorization") != {"variable_name": AUTHORIZATION}:
        yield Finding(
            rule="no_grant",
            pointer=f"{_HEADERS}/Authorization",
            detail=f'The conversation\'s own goes here: {{"variable_name": "{AUTHORIZATION}"}}.',
        )


def _by_model(here: str) -> Finding:
    return Finding(
        rule="chosen_by_model",
        pointer=here,
        detail="This is a constant or a variable of the conversation, not the model's choice.",
    )


def _leaves(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a body is made of."""
    return _mapping(_mapping(schema.get("request_body_schema")).get("properties"))


def _header(schema: Mapping[str, Any], wanted: str) -> object:
    headers = _mapping(schema.get("request_headers"))
    same = (value for name, value in headers.items() if str(name).lower() == wanted.lower())
    return next(same, None)


def _split(url: str) -> SplitResult:
    """The parts of an address; of one that cannot be read, none."""
    try:
        return urlsplit(url.partition("?")[0])
    except ValueError:
        return urlsplit("")


def _mapping(held: object) -> Mapping[str, Any]:
    return held if isinstance(held, Mapping) else {}


def _sequence(held: object) -> list[Mapping[str, Any]]:
    return [_mapping(one) for one in held] if isinstance(held, list) else []


def _escaped(name: str) -> str:
    """A name as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
