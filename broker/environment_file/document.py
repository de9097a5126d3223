"""What an environment file says, and how it is read: every problem at once, each with its place.

* Unknown keys, wrong types, names that are not declared and values without ``production`` are
  problems; nothing is ignored and nothing is corrected.
* No field can hold a secret: ``value_from`` says where one is found, not what it is.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, get_args

import msgspec
from msgspec import Struct

from broker.environment_file.reader import Place, Problems
from broker.environment_file.tree import parse
from vault.auth_kinds import SECRET_FIELDS, AuthConfig
from vault.errors import Invalid
from vault.model import (
    ENVIRONMENT_PATTERN,
    LABEL_PATTERN,
    MAX_ENVIRONMENTS,
    MAX_STRING_VALUE,
    PRODUCTION,
    VariableType,
)

VERSION: Final = 1
KINDS: Final = {str(kind.__struct_config__.tag): kind for kind in get_args(AuthConfig)}
TYPES: Final[tuple[VariableType, ...]] = get_args(VariableType)
HOST_PATTERN: Final = r"^[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?$"
MAX_HOSTS: Final = 50
MAX_NAME: Final = 200
NAME_PATTERN: Final = r"^[^\x00-\x1f\x7f]+$"
# Our own settings are no source: what a file from a repository names goes to the target.
SOURCE_PATTERN: Final = r"^(?!KEYTURN_)[A-Za-z_][A-Za-z0-9_]{0,199}$"
PATH_PATTERN: Final = r"^[^\x00]{1,4096}$"
VALUE: Final = "value"  # the one secret field of a secret


class Source(Struct, frozen=True):
    """Where a secret is found when it is needed: an environment variable, or a file."""

    kind: Literal["env", "file"]
    name: str


class Named(Struct, frozen=True):
    """A secret or an auth connection, by its name."""

    kind: Literal["secret", "auth_connection"]
    name: str


class SecretSpec(Struct, frozen=True, kw_only=True):
    allowed_hosts: tuple[str, ...] = ()
    value_from: Source | None = None


class AuthSpec(Struct, frozen=True, kw_only=True):
    """``config`` is what may be shown, defaults filled in; ``None``: made elsewhere, not by us."""

    config: dict[str, Any] | None
    allowed_hosts: tuple[str, ...] = ()
    value_from: dict[str, Source] = {}


class VariableSpec(Struct, frozen=True):
    type: VariableType
    values: dict[str, str | Named]


class Document(Struct, frozen=True, kw_only=True):
    """A whole workspace's configuration, without a secret in it."""

    environments: list[str]
    secrets: dict[str, SecretSpec] = {}
    auth_connections: dict[str, AuthSpec] = {}
    variables: dict[str, VariableSpec] = {}


def read(content: bytes, name: str) -> Document:
    """Read a file; ``name`` is what messages call it."""
    problems = Problems()
    try:
        document = _document(Place(problems, parse(content)))
    except Invalid as error:
        raise Invalid(f"{name} cannot be used: {error.message}") from None
    if problems.found:
        listed = "\n  ".join(problems.found)
        raise Invalid(f"{name} cannot be used:\n  {listed}")
    return document


def normal_config(auth_type: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What may be shown of an auth connection of this kind, with every default filled in."""
    config: dict[str, Any] = {"auth_type": auth_type}
    for field in _shown_fields(auth_type):
        value = given.get(field.name)
        config[field.name] = _default(field) if value is None else value
    return config


def secret_fields(auth_type: str, *, required: bool) -> tuple[str, ...]:
    """The secrets that a kind has, or those without which it is not complete."""
    return tuple(
        field.name
        for field in msgspec.structs.fields(KINDS[auth_type])
        if field.name in SECRET_FIELDS and (field.required or not required)
    )


def in_order(environments: Iterable[str]) -> list[str]:
    """Production first, the others by name."""
    return sorted(environments, key=lambda name: (name != PRODUCTION, name))


def to_plain(document: Document) -> dict[str, Any]:
    """The document as it is written: no defaults, a fixed order."""
    plain: dict[str, Any] = {
        "version": VERSION,
        "environments": in_order(document.environments),
        "secrets": {
            name: _plain_rest(
                one.allowed_hosts, _plain_source(one.value_from) if one.value_from else None
            )
            for name, one in sorted(document.secrets.items())
        },
        "auth_connections": {
            name: _plain_auth(one) for name, one in sorted(document.auth_connections.items())
        },
        "variables": {
            label: {
                "type": one.type,
                "values": {name: _plain_value(one.values[name]) for name in in_order(one.values)},
            }
            for label, one in sorted(document.variables.items())
        },
    }
    return {key: value for key, value in plain.items() if value != {}}


def _plain_value(value: str | Named) -> str | dict[str, str]:
    return {value.kind: value.name} if isinstance(value, Named) else value


def _plain_auth(spec: AuthSpec) -> dict[str, Any]:
    sources = {name: _plain_source(one) for name, one in sorted(spec.value_from.items())}
    if spec.config is None:
        return {"existing": True}
    defaults = {one.name: _default(one) for one in _shown_fields(spec.config["auth_type"])}
    shown = {
        name: dict(sorted(value.items())) if isinstance(value, dict) else value
        for name, value in spec.config.items()
        if name not in defaults or value != defaults[name]
    }
    return shown | _plain_rest(spec.allowed_hosts, sources)


def _plain_rest(hosts: tuple[str, ...], sources: dict[str, Any] | None) -> dict[str, Any]:
    rest = {"allowed_hosts": sorted(hosts), "value_from": sources}
    return {key: value for key, value in rest.items() if value}


def _plain_source(source: Source) -> dict[str, str]:
    return {source.kind: source.name}


def _shown_fields(auth_type: str) -> list[msgspec.structs.FieldInfo]:
    fields = msgspec.structs.fields(KINDS[auth_type])
    return [field for field in fields if field.name not in SECRET_FIELDS]


def _default(field: msgspec.structs.FieldInfo) -> object:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None if field.default is msgspec.NODEFAULT else field.default


# Reading


def _document(root: Place) -> Document:
    version = root.get("version")
    if version is None:
        root.complain("'version: 1' is missing")
    elif version.number() != VERSION:
        version.complain("this Keyturn reads version 1")
    sections = ("version", "environments", "secrets", "auth_connections", "variables")
    root.only(sections)
    document = Document(
        environments=_environments(root),
        secrets={name: _secret(one) for name, one in _named(root.get("secrets"))},
        auth_connections={name: _auth(one) for name, one in _named(root.get("auth_connections"))},
    )
    variables = {}
    section = root.get("variables")
    for label, one in section.entries() if section else ():
        one.matches(label, LABEL_PATTERN, "a label is 1 to 64 letters, digits and underscores")
        variables[label] = _variable(one, document)
    return msgspec.structs.replace(document, variables=variables)


def _environments(root: Place) -> list[str]:
    place = root.get("environments")
    if place is None:
        root.complain("'environments' is missing; it lists at least 'production'")
        return []
    names = []
    for one in place.items():
        names.append(one.text())
        one.matches(names[-1], ENVIRONMENT_PATTERN, "a name is 1 to 64 of A-Z a-z 0-9 _ -")
    if len(set(names)) != len(names):
        place.complain("an environment stands twice")
    if len(names) > MAX_ENVIRONMENTS:
        place.complain(f"a workspace has at most {MAX_ENVIRONMENTS} environments")
    if PRODUCTION not in names:
        place.complain("'production' is missing; it always exists")
    return in_order(names)


def _named(section: Place | None) -> list[tuple[str, Place]]:
    found = section.entries() if section else []
    for name, place in found:
        place.matches(name, NAME_PATTERN, "a name has no control characters")
        if len(name) > MAX_NAME:
            place.complain(f"a name has at most {MAX_NAME} characters")
    return found


def _secret(place: Place) -> SecretSpec:
    if place.get(VALUE):
        place.complain("a secret's value never stands in this file; use value_from or --secrets")
    place.only(("allowed_hosts", "value_from", VALUE))
    source = place.get("value_from")
    return SecretSpec(allowed_hosts=_hosts(place), value_from=_source(source) if source else None)


def _auth(place: Place) -> AuthSpec:
    if existing := place.get("existing"):
        place.only(("existing",))
        if existing.value() is not True:
            existing.complain("this can only be true")
        return AuthSpec(config=None)
    kind = place.get("auth_type")
    auth_type = kind.text() if kind else ""
    if kind is None or auth_type not in KINDS:
        (kind or place).complain(f"'auth_type' must be one of {', '.join(KINDS)}")
        return AuthSpec(config=None)
    config = _config(place, auth_type)
    sources = place.get("value_from")
    known = secret_fields(auth_type, required=False)
    if sources:
        sources.only(known)
    return AuthSpec(
        config=normal_config(auth_type, config),
        allowed_hosts=_hosts(place),
        value_from={name: _source(one) for name, one in (sources.entries() if sources else ())},
    )


def _config(place: Place, auth_type: str) -> dict[str, Any]:
    fields = {field.name: field for field in _shown_fields(auth_type)}
    for name in secret_fields(auth_type, required=False):
        if secret := place.get(name):
            secret.complain("a secret never stands in this file; use value_from or --secrets")
    known = ("auth_type", "allowed_hosts", "value_from", *SECRET_FIELDS, *fields)
    place.only(known)
    config = {}
    for name, field in fields.items():
        if given := place.get(name):
            config[name] = given.convert(field.type)
        elif field.required:
            place.complain(f"'{name}' is missing; {auth_type} needs it")
    return config


def _hosts(place: Place) -> tuple[str, ...]:
    given = place.get("allowed_hosts")
    hosts = []
    for one in given.items() if given else ():
        hosts.append(one.text())
        one.matches(hosts[-1], HOST_PATTERN, "an allowed host reads like api.example.com or a:8443")
    if len(hosts) > MAX_HOSTS:
        place.complain(f"there are at most {MAX_HOSTS} allowed hosts")
    return tuple(sorted(set(hosts)))


def _source(place: Place) -> Source:
    entries = place.entries()
    if len(entries) != 1 or entries[0][0] not in ("env", "file"):
        place.complain("write {env: NAME} or {file: PATH}")
        return Source("env", "")
    kind, given = entries[0]
    name = given.text()
    if kind == "env":
        given.matches(name, SOURCE_PATTERN, "this is not a name of an environment variable to use")
        return Source("env", name)
    given.matches(name, PATH_PATTERN, "this is not the path of a file")
    return Source("file", name)


def _variable(place: Place, document: Document) -> VariableSpec:
    place.only(("type", "values"))
    kind = next((one for one in TYPES if one == place.text_of("type")), None)
    if kind is None:
        (place.get("type") or place).complain(f"'type' must be one of {', '.join(TYPES)}")
        return VariableSpec("string", {})
    values: dict[str, str | Named] = {}
    given = place.get("values")
    for environment, one in given.entries() if given else ():
        if environment not in document.environments:
            one.complain("this environment is not declared under 'environments'")
        values[environment] = _text(one) if kind == "string" else _reference(one, kind, document)
    if PRODUCTION not in values:
        (given or place).complain("a value for 'production' is missing")
    return VariableSpec(kind, {name: values[name] for name in in_order(values)})


def _text(place: Place) -> str:
    text = place.text()
    if not 1 <= len(text) <= MAX_STRING_VALUE:
        place.complain(f"a value has 1 to {MAX_STRING_VALUE} characters")
    return text


def _reference(
    place: Place, kind: Literal["secret", "auth_connection"], document: Document
) -> Named:
    entries = place.entries()
    if [key for key, _ in entries] != [kind]:
        place.complain(f"write {{{kind}: NAME}}")
        return Named(kind, "")
    name = entries[0][1].text()
    declared: Mapping[str, object] = (
        document.secrets if kind == "secret" else document.auth_connections
    )
    if name not in declared:
        place.complain(f"there is no '{name}' under '{kind}s'")
    return Named(kind, name)
