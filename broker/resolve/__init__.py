"""From a configuration to one request: templates, references, parameters, body.

Three steps, so that the database is asked once for everything::

    plan(kind, config)                  what it refers to              pure
    Vault.use_configuration(...)        what that means here           one statement
    resolve(plan, configuration, ...)   the request                    pure

* ``arguments=None`` resolves for the eye: what the model would fill in stands as ``{name}``.
* The address that comes out has the template's scheme and host boundary, and egress has read it.
* A secret stands in headers only, as ``Secret``; it goes only to its own ``allowed_hosts``.
* A header's value is printable ASCII, so no value adds a header or a line.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from broker.resolve.bodies import (
    ABSENT,
    UNKNOWN,
    Asked,
    Node,
    ObjectNode,
    asks,
    literal_text,
    missing_argument,
    unknown_argument,
    value_of,
)
from broker.resolve.configs import JSON, HeaderPlan, Kind, Plan, plan
from broker.resolve.meanings import Choice, Meaning, Meanings
from broker.resolve.templates import Argument, Label, Stored, below, invalid
from broker.resolve.urls import Placeholder, fill, read_whole
from vault.egress import HEADER_VALUE, VettedUrl
from vault.environments import FallbackWarning
from vault.errors import EgressDenied, Invalid
from vault.secret import Secret
from vault.vault.variables import Configuration, ResolvedSecret

__all__ = [
    "Asked",
    "Choice",
    "HeaderLine",
    "Kind",
    "Outgoing",
    "Plan",
    "permit_host",
    "plan",
    "resolve",
]

BEARER: Final = "Bearer "

Vet = Callable[[str], VettedUrl]


class HeaderLine(Struct, frozen=True):
    """One header; ``secrets`` are what its value is made of."""

    name: str
    value: str | Secret
    shown: str
    secrets: tuple[Meaning, ...]

    def __repr__(self) -> str:
        return f"HeaderLine({self.name})"


class Outgoing(Struct, frozen=True, kw_only=True):
    """A request that is ready but for the auth connection's part."""

    plan: Plan
    environment: str
    url: str
    target: VettedUrl
    url_secret: Meaning | None
    headers: tuple[HeaderLine, ...]
    body: Any
    meta: Any
    auth_connection_id: str | None
    choices: tuple[Choice, ...]
    warnings: tuple[FallbackWarning, ...]

    def __repr__(self) -> str:
        return f"Outgoing({self.plan.kind})"

    @property
    def body_bytes(self) -> bytes | None:
        """The body on the wire."""
        if self.body is ABSENT:
            return None
        if self.plan.content_type == JSON:
            return msgspec.json.encode(self.body)
        return urlencode(_form(self.body)).encode()


def resolve(
    made: Plan,
    configuration: Configuration,
    variables: Mapping[str, Any],
    arguments: Mapping[str, Any] | None,
    *,
    vet: Vet,
) -> Outgoing:
    """Fill in a plan; raise where a value does not belong where it would stand."""
    meanings = Meanings(configuration, variables)
    given = _Given(made, arguments)
    url, secret = _url(made, meanings, given)
    target = _vetted(url, vet, secret)
    headers = tuple(_header(header, meanings) for header in made.headers)
    for meaning in (secret, *(one for header in headers for one in header.secrets)):
        if meaning is not None and meaning.secret is not None:
            _permit_secret(meaning.secret, target)
    body = ABSENT if made.body is None else value_of(made.body, meanings, given.of(made.body))
    meta = ABSENT if made.meta is None else value_of(made.meta, meanings, UNKNOWN)
    connection = None
    if made.auth_connection is not None:
        connection = meanings.connection(made.auth_connection, _place(made, "auth_connection"))
    return Outgoing(
        plan=made,
        environment=meanings.environment,
        url=url,
        target=target,
        url_secret=secret,
        headers=headers,
        body=body,
        meta=meta,
        auth_connection_id=connection,
        choices=tuple(meanings.choices),
        warnings=tuple(meanings.warnings()),
    )


def permit_host(what: str, allowed_hosts: Iterable[str], target: VettedUrl) -> None:
    """Refuse to send a credential to a host that it is not for.

    An entry is a host, with a port where it is for that port only; one that begins with a dot
    stands for every name below it. No entry at all means every host.
    """
    entries = [entry.lower() for entry in allowed_hosts]
    if entries and not any(_covers(entry, target) for entry in entries):
        raise Invalid(f"{what} may not be sent to the host '{target.host}' (allowed_hosts).")


class _Given:
    """The arguments, shared out to path, query and body by the names that each asks for."""

    def __init__(self, made: Plan, arguments: Mapping[str, Any] | None) -> None:
        self._arguments = arguments
        nodes: Sequence[Node | None] = (made.path, made.query, made.body)
        asked = {name for node in nodes for name in _names(node)}
        if arguments is not None and arguments.keys() - asked:
            raise unknown_argument()

    def of(self, node: Node) -> object:
        if self._arguments is None:
            return UNKNOWN
        names = _names(node)
        return {name: value for name, value in self._arguments.items() if name in names}


def _names(node: Node | None) -> set[str]:
    if not isinstance(node, ObjectNode):
        return set()
    return {name for name, child in node.properties if asks(child)}


def _url(made: Plan, meanings: Meanings, given: _Given) -> tuple[str, Meaning | None]:
    """Write the address down; the second part is there where the address itself is a secret."""
    if isinstance(made.url, Label | Stored):
        whole = meanings.header(made.url, "/url")
        meanings.note_host(made.url)
        url = read_whole(whole.text, "/url").with_query([])
        return url, whole if whole.is_secret else None
    path = value_of(made.path, meanings, given.of(made.path))
    query = value_of(made.query, meanings, given.of(made.query))

    def argument(name: str) -> str:
        if name not in path:  # omitted, or null
            raise missing_argument(name)
        return _text(path[name])

    address = fill(made.url, meanings, argument)
    pairs = [(name, _text(value)) for name, value in query.items() if value is not None]
    return address.with_query(pairs), None


def _text(value: object) -> str:
    return value if isinstance(value, Placeholder) else literal_text(value)


def _vetted(url: str, vet: Vet, secret: Meaning | None) -> VettedUrl:
    """Have egress read the address, as it will when it is called."""
    refused = False
    try:
        return vet(url)
    except EgressDenied:
        if secret is None:
            raise
        refused = True
    assert refused
    # What egress says names the host, and that is a part of the secret.
    raise invalid("The address that is kept as a secret may not be called.", "/url")


def _header(header: HeaderPlan, meanings: Meanings) -> HeaderLine:
    text, shown = "", ""
    secrets = []
    for part in header.value.parts:
        if isinstance(part, str):
            text, shown = text + part, shown + part
            continue
        if isinstance(part, Argument):
            raise TypeError("an argument can only stand in a path")
        meaning = meanings.header(part, header.value.where)
        text, shown = text + meaning.text, shown + meaning.shown
        if meaning.is_secret:
            secrets.append(meaning)
    if header.bearer and not text.lower().startswith(BEARER.lower()):
        text = BEARER + text
    if header.bearer:
        shown = BEARER + shown
    if HEADER_VALUE.fullmatch(text.encode("utf-8", "surrogatepass")) is None:
        raise invalid(
            f"The value of the header {header.name} would hold what a header cannot carry.",
            header.value.where,
        )
    return HeaderLine(header.name, Secret(text) if secrets else text, shown, tuple(secrets))


def _permit_secret(secret: ResolvedSecret, target: VettedUrl) -> None:
    permit_host(f"The secret '{secret.name}'", secret.allowed_hosts, target)


def _covers(entry: str, target: VettedUrl) -> bool:
    host, colon, port = entry.partition(":")
    if colon and port != str(target.port):
        return False
    return target.host.endswith(host) if host.startswith(".") else target.host == host


def _place(made: Plan, name: str) -> str:
    return below("/api_schema" if made.kind == "server_tool" else "", name)


def _form(body: object) -> list[tuple[str, str]]:
    if not isinstance(body, dict):
        raise invalid("A form's body is an object.", "/api_schema/request_body_schema")
    return [
        (name, literal_text(one))
        for name, value in body.items()
        for one in (value if isinstance(value, list) else [value])
        if one is not None
    ]
