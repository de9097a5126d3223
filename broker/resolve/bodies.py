"""Parameters and bodies, from the JSON schema of a tool.

* Each leaf says where its value comes from: ``constant_value``, ``dynamic_variable``, the model
  (an argument of the call), or nowhere (``is_omitted``). What the system fills in cannot be
  resolved here and is refused.
* An argument is checked against the leaf's type, ``enum`` and ``allowed_values``; an argument that
  no leaf asks for is refused, so no argument replaces a constant.
* Arguments go by name, nested as the schema is.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from broker.resolve.meanings import Meanings
from broker.resolve.templates import (
    Label,
    Template,
    Variable,
    below,
    invalid,
    named,
    parse_open,
    refuse_secret,
)
from broker.resolve.urls import Placeholder
from vault.errors import Invalid

MAX_DEPTH: Final = 20

Place = Literal["path", "query", "body"]


class AllowedValues(Struct, frozen=True):
    dynamic_variable: str


class Schema(Struct, frozen=True, kw_only=True):
    """A leaf, an object or an array, as it stands in a configuration."""

    type: str | list[str] | None = None
    enum: list[Any] | None = None
    dynamic_variable: str | None = None
    constant_value: Any = None
    is_system_provided: bool = False
    is_omitted: bool = False
    allowed_values: AllowedValues | None = None
    allowed_values_dynamic_variable: str | None = None
    properties: "dict[str, Schema] | None" = None
    items: "Schema | None" = None
    required: list[str] | None = None

    @property
    def has_constant(self) -> bool:
        return self.constant_value is not None and self.constant_value != ""

    @property
    def kinds(self) -> tuple[str, ...]:
        if isinstance(self.type, str):
            return (self.type,)
        return tuple(self.type or ())


class Omitted(Struct, frozen=True):
    """Never sent."""


class Constant(Struct, frozen=True):
    """JSON in which every text is a ``Template``."""

    value: Any


class FromVariable(Struct, frozen=True):
    source: Label | Variable
    kinds: tuple[str, ...]
    where: str


class FromModel(Struct, frozen=True):
    name: str
    kinds: tuple[str, ...]
    enum: tuple[Any, ...] | None
    allowed: Label | Variable | None
    where: str


class ObjectNode(Struct, frozen=True):
    properties: "tuple[tuple[str, Node], ...]"
    required: frozenset[str]


class ArrayNode(Struct, frozen=True):
    name: str
    item: "Node"


Node = Omitted | Constant | FromVariable | FromModel | ObjectNode | ArrayNode


class Asked(Struct, frozen=True):
    """An argument that the model fills in; ``name`` is dotted where it is nested."""

    name: str
    place: Place
    type: str
    required: bool


class Absent:
    """No argument was given."""


class Unknown:
    """The arguments are not known: the request is only shown."""


ABSENT: Final = Absent()
UNKNOWN: Final = Unknown()


def parse_schema(schema: Schema, name: str, where: str, depth: int = 0) -> Node:
    """Read a schema: where does each value come from?"""
    if depth > MAX_DEPTH:
        raise invalid(f"The schema is nested more than {MAX_DEPTH} deep.", "")
    sources = (
        bool(schema.dynamic_variable),
        schema.has_constant,
        schema.is_system_provided,
        schema.is_omitted,
    )
    if sum(sources) > 1:
        raise invalid("A parameter has one source only.", where)
    if schema.is_system_provided:
        raise invalid("A parameter that the system provides cannot be resolved.", where)
    if schema.is_omitted:
        return Omitted()
    if schema.has_constant:
        return parse_constant(schema.constant_value, where)
    if schema.dynamic_variable:
        source = named(schema.dynamic_variable, where)
        refuse_secret(source, where)
        return FromVariable(source, schema.kinds, where)
    if "array" in schema.kinds or schema.items is not None:
        items = schema.items or Schema(type="string")
        return ArrayNode(name, parse_schema(items, name, below(where, "items"), depth + 1))
    if "object" in schema.kinds or schema.properties is not None:
        return _object(schema, where, depth)
    return FromModel(name, schema.kinds, _enum(schema), _allowed(schema, where), where)


def parse_constant(value: object, where: str, depth: int = 0) -> Constant:
    """Read JSON whose texts may hold templates."""
    if depth > MAX_DEPTH:
        raise invalid(f"The value is nested more than {MAX_DEPTH} deep.", "")
    if isinstance(value, str):
        return Constant(parse_open(value, where))
    if isinstance(value, dict):
        return Constant({key: parse_constant(one, where, depth + 1) for key, one in value.items()})
    if isinstance(value, list):
        return Constant([parse_constant(one, where, depth + 1) for one in value])
    return Constant(value)


def value_of(node: Node, meanings: Meanings, given: object) -> Any:  # noqa: ANN401 - any JSON
    """The value that is sent, or ``ABSENT``."""
    if isinstance(node, Constant):
        return _constant(node, meanings)
    if isinstance(node, FromVariable):
        return _from_variable(node, meanings)
    if isinstance(node, FromModel):
        return _from_model(node, meanings, given)
    if isinstance(node, ArrayNode):
        return _array(node, meanings, given)
    if isinstance(node, ObjectNode):
        return _filled_object(node, meanings, given)
    return ABSENT


def asked(node: Node, name: str, place: Place, *, required: bool) -> Iterator[Asked]:
    """What the model has to fill in."""
    if isinstance(node, FromModel):
        kind = "|".join(node.kinds) or "string"
        yield Asked(name, place, kind, required)
    elif isinstance(node, ArrayNode):
        if asks(node):
            yield Asked(name, place, "array", required)
    elif isinstance(node, ObjectNode):
        for key, child in node.properties:
            dotted = f"{name}.{key}" if name else key
            needed = required and key in node.required
            yield from asked(child, dotted, place, required=needed)


def asks(node: Node) -> bool:
    """Does anything in here come from the model?"""
    if isinstance(node, ObjectNode):
        return any(asks(child) for _, child in node.properties)
    return isinstance(node, FromModel | ArrayNode)


def literal_text(value: object) -> str:
    """Write a scalar for a path, a query or a form."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        raise Invalid("A path, a query and a form hold only plain values.", pointer="/arguments")
    return msgspec.json.encode(value).decode()


def unknown_argument() -> Invalid:
    return Invalid("The configuration asks for no argument of this name.", pointer="/arguments")


def missing_argument(name: str) -> Invalid:
    return Invalid(f"The argument '{name}' is required.", pointer="/arguments")


def _object(schema: Schema, where: str, depth: int) -> ObjectNode:
    properties = (schema.properties or {}).items()
    return ObjectNode(
        tuple(
            (name, parse_schema(one, name, below(where, "properties", name), depth + 1))
            for name, one in properties
        ),
        frozenset(schema.required or ()),
    )


def _enum(schema: Schema) -> tuple[Any, ...] | None:
    return None if schema.enum is None else tuple(schema.enum)


def _allowed(schema: Schema, where: str) -> Label | Variable | None:
    name = schema.allowed_values_dynamic_variable
    if schema.allowed_values is not None:
        name = schema.allowed_values.dynamic_variable
    if not name:
        return None
    source = named(name, where)
    refuse_secret(source, where)
    return source


def _constant(node: Constant, meanings: Meanings) -> Any:  # noqa: ANN401 - any JSON
    value = node.value
    if isinstance(value, Template):
        return meanings.filled(value)
    if isinstance(value, dict):
        return {key: _constant(one, meanings) for key, one in value.items()}
    if isinstance(value, list):
        return [_constant(one, meanings) for one in value]
    return value


def _from_variable(node: FromVariable, meanings: Meanings) -> Any:  # noqa: ANN401 - any JSON
    """Take a variable's value; text that reads as the type that is asked for becomes that type."""
    value: Any
    if isinstance(node.source, Label):
        value = meanings.open_text(node.source, node.where)
    else:
        value = meanings.value(node.source.name, node.where)
    if _fits(value, node.kinds):
        return value
    if "string" in node.kinds and not isinstance(value, dict | list):
        return literal_text(value)
    if isinstance(value, str):
        try:
            read = msgspec.json.decode(value.encode("utf-8", "replace"))
        except (msgspec.DecodeError, RecursionError):
            read = ABSENT
        if _fits(read, node.kinds):
            return read
    raise invalid(
        f"The variable that stands here is not of the type '{'|'.join(node.kinds)}'.", node.where
    )


def _from_model(node: FromModel, meanings: Meanings, given: object) -> object:
    if given is UNKNOWN:
        return Placeholder("{" + node.name + "}")
    if given is ABSENT:
        return ABSENT
    if not _fits(given, node.kinds) or isinstance(given, dict | list):
        kinds = "|".join(node.kinds) or "string"
        raise _bad_argument(node.name, f"is not of the type '{kinds}'")
    if node.enum is not None and given not in node.enum:
        raise _bad_argument(node.name, "is not one of the accepted values")
    if node.allowed is not None and given not in _allowed_values(node, meanings):
        raise _bad_argument(node.name, "is not one of the allowed values")
    return given


def _allowed_values(node: FromModel, meanings: Meanings) -> list[Any]:
    if isinstance(node.allowed, Label):
        found: Any = meanings.open_text(node.allowed, node.where)
    else:
        found = meanings.value(node.allowed.name, node.where) if node.allowed else []
    if isinstance(found, str):
        try:
            found = msgspec.json.decode(found)
        except (msgspec.DecodeError, RecursionError):
            found = None
    if not isinstance(found, list):
        raise invalid("The allowed values are not a list.", node.where)
    return found


def _array(node: ArrayNode, meanings: Meanings, given: object) -> object:
    if given is UNKNOWN:
        return Placeholder("{" + node.name + "}")
    if given is ABSENT:
        return ABSENT
    if not isinstance(given, list):
        raise _bad_argument(node.name, "is not a list")
    made = (value_of(node.item, meanings, one) for one in given)
    return [one for one in made if one is not ABSENT]


def _filled_object(node: ObjectNode, meanings: Meanings, given: object) -> dict[str, Any]:
    known = given is not UNKNOWN
    fields: Mapping[str, object] = {}
    if known and given is not ABSENT:
        if not isinstance(given, dict):
            raise Invalid("An argument is not an object.", pointer="/arguments")
        fields = given
    if fields.keys() - {name for name, child in node.properties if asks(child)}:
        raise unknown_argument()
    made = {}
    for name, child in node.properties:
        mine = fields.get(name, ABSENT) if known else UNKNOWN
        needed = name in node.required
        if mine is ABSENT and not needed and asks(child):
            continue  # an optional object with required parts is left out as a whole
        value = value_of(child, meanings, mine)
        if value is not ABSENT:
            made[name] = value
        elif needed and not isinstance(child, Omitted):
            raise missing_argument(name)
    return made


def _fits(value: object, kinds: tuple[str, ...]) -> bool:
    """Is the value of one of these types? Without a type, anything is."""
    if value is ABSENT:
        return False
    if not kinds:
        return True
    return _kind(value) in kinds or (_kind(value) == "integer" and "number" in kinds)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, float):
        return "number" if math.isfinite(value) else ""
    for kind, types in _KINDS:
        if isinstance(value, types):
            return kind
    return "null"


_KINDS: Final[tuple[tuple[str, type], ...]] = (
    ("string", str),
    ("integer", int),
    ("object", dict),
    ("array", list),
)


def _bad_argument(name: str, what: str) -> Invalid:
    return Invalid(f"The argument '{name}' {what}.", pointer="/arguments")
