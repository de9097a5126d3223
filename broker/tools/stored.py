"""Tools that a profile stores, for its conversations to call by name: checked when written. Pure.

* What ``/v1/resolve`` would refuse of a configuration is refused, and what the linter says of
  secrets in it.
* So is what no conversation may send: its own grant, what only its runtime knows, a secret of the
  workspace by a variable's name, which knows nothing of ``allowed_hosts``.
* Every refusal names its place in the profile.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from broker.profile import (
    AUTHORIZATION,
    MAX_STORED,
    SYSTEM_PREFIX,
    TOOL_PATTERN,
    Profile,
    StoredTool,
    is_secret,
)
from broker.resolve import Kind, plan
from broker.resolve.configs import unwrapped
from broker.tools.lint import Finding, lint
from vault.errors import Invalid

MAX_BYTES: Final = 64 * 1024  # all of them together, as they are sealed
PLACE: Final = "/stored_tools"

_NAME: Final = re.compile(TOOL_PATTERN)
# Where the linter looks for headers; the other kinds have theirs at the top.
_SCHEMA: Final = "/api_schema"
# Whole credentials of those kinds, sent as a header.
_SENT_AS_HEADERS: Final = frozenset({"secret_token", "api_key"})
# Whether plain http may leave is for egress to say, which knows what the operator opened.
_LEFT_TO_EGRESS: Final = frozenset({"address_not_https"})


def check(profile: Profile) -> None:
    """Raise ``Invalid``, with a pointer, where a stored tool breaks a rule."""
    tools = profile.stored_tools
    if len(tools) > MAX_STORED:
        raise Invalid(f"A profile stores at most {MAX_STORED} tools.", pointer=PLACE)
    for name in tools:
        if _NAME.fullmatch(name) is None:
            raise Invalid("This is no name for a tool.", pointer=PLACE)
    if _size(tools) > MAX_BYTES:
        raise Invalid(f"All tools together have at most {MAX_BYTES} bytes.", pointer=PLACE)
    for name, tool in tools.items():
        _check_one(profile, f"{PLACE}/{name}", tool)


def _check_one(profile: Profile, where: str, tool: StoredTool) -> None:
    try:
        variables = plan(tool.kind, tool.config).variables
    except Invalid as error:
        raise Invalid(error.message, pointer=where + (error.pointer or "/config")) from None
    for finding in _faults(tool.kind, unwrapped(tool.kind, tool.config)):
        raise Invalid(finding.detail, pointer=f"{where}/config{finding.pointer}")
    for name in sorted(variables):
        if reason := _why_not(profile, name):
            raise Invalid(reason, pointer=f"{where}/config")


def _faults(kind: Kind, config: Mapping[str, Any]) -> Iterator[Finding]:
    """What the linter says of it, with pointers into this kind of configuration."""
    if kind == "server_tool":
        found = lint(config)
    else:
        rest = {name: one for name, one in config.items() if name not in _SENT_AS_HEADERS}
        found = [
            msgspec.structs.replace(one, pointer=one.pointer.removeprefix(_SCHEMA))
            for one in lint({"api_schema": rest})
        ]
    return (one for one in found if one.rule not in _LEFT_TO_EGRESS)


def _why_not(profile: Profile, name: str) -> str | None:
    """Why a conversation could never send this variable."""
    if name == AUTHORIZATION:
        return f"'{name}' is the conversation's own, and is not sent from here."
    if name.startswith(SYSTEM_PREFIX):
        return f"Only the runtime knows '{name}'."
    declared = profile.variables.get(name)
    if declared is not None and declared.source == "environment" and is_secret(name):
        return f"'{name}' is a secret of the workspace: name it by env_var_label."
    return None


def _size(tools: Mapping[str, StoredTool]) -> int:
    try:
        return len(msgspec.msgpack.encode(tools))
    except (OverflowError, RecursionError):
        pass  # a number of more than 64 bits, or an endless nest
    raise Invalid("A tool holds what cannot be kept.", pointer=PLACE)
