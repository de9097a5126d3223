"""Where the secrets of a plan come from: a file of secrets, what the document names, a prompt.

* Only what the plan's steps need is looked up, and all that is missing is said at once, before
  anything has changed.
* A value becomes a ``Secret`` where it is read. No message here holds one, or any part of the file
  that it was read from.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from broker.environment_file.document import VALUE, Document, Named, Source, secret_fields
from broker.environment_file.plan import Plan, Step
from broker.environment_file.tree import Mapping as MappingNode
from broker.environment_file.tree import Node, Scalar, parse, quote_it
from vault.errors import Invalid
from vault.model import MAX_SECRET_VALUE
from vault.secret import Secret

# A prompt reads one line, and these have many.
MANY_LINES: Final = frozenset({"client_certificate", "client_key", "ca_certificate"})
MAX_FILE: Final = 64 * 1024  # bytes

Values = dict[Named, dict[str, Secret]]
Ask = Callable[[str], str]


class Sources:
    """Looks a secret up: first what was given, then what the document names, then a person."""

    def __init__(
        self,
        document: Document,
        given: Values,
        *,
        folder: Path,
        environ: Mapping[str, str],
        ask: Ask | None = None,
    ) -> None:
        self._document = document
        self._given = given
        self._folder = folder
        self._environ = environ
        self._ask = ask

    def gather(self, plan: Plan) -> Values:
        """Find the values for every step, or say which are missing."""
        found: Values = {}
        missing: list[str] = []
        for step in plan.steps:
            named = step.named
            if named is None or not step.needs:
                continue
            found[named] = {}
            for field in _fields(step):
                try:
                    value = self._find(named, field, required=field in step.needs)
                except Invalid as problem:
                    missing.append(f"{_place(named, field)}: {problem.message}")
                    continue
                if value is not None:
                    found[named][field] = value
        if missing:
            raise Invalid(
                "Nothing was changed; these values are missing:\n  " + "\n  ".join(missing)
            )
        return found

    def _find(self, named: Named, field: str, *, required: bool) -> Secret | None:
        if value := self._given.get(named, {}).get(field):
            return value
        if source := self._source(named, field):
            return _fetched(source, self._folder, self._environ)
        if not required:
            return None
        if self._ask is None or field in MANY_LINES:
            raise Invalid("give it by --secrets, or name its source in value_from")
        return _checked(self._ask(_place(named, field)))

    def _source(self, named: Named, field: str) -> Source | None:
        if named.kind == "secret":
            return self._document.secrets[named.name].value_from
        return self._document.auth_connections[named.name].value_from.get(field)


def read_given(content: bytes, document: Document) -> Values:
    """Read a file of secrets: ``secrets`` by name, ``auth_connections`` by name and field."""
    problem = ""
    try:
        return _given(parse(content, hush=True), document)
    except Invalid as error:
        problem = error.message
    raise Invalid(f"The file of secrets cannot be used: {problem}.")


def _given(root: Node, document: Document) -> Values:
    values: Values = {}
    for section, node in _entries(root):
        if section not in ("secrets", "auth_connections"):
            raise _at(node, "only 'secrets' and 'auth_connections' stand at the top")
        for name, one in _entries(node):
            if section == "secrets":
                _refuse_unknown(one, name, document.secrets)
                values[Named("secret", name)] = {VALUE: _secret(one)}
                continue
            _refuse_unknown(one, name, document.auth_connections)
            config = document.auth_connections[name].config or {}
            fields = secret_fields(config["auth_type"], required=False) if config else ()
            for field, inner in _entries(one):
                _refuse_unknown(inner, field, fields)
            values[Named("auth_connection", name)] = {
                field: _secret(inner) for field, inner in _entries(one)
            }
    return values


def _refuse_unknown(node: Node, name: str, known: object) -> None:
    # The name is not repeated: who mixes up the sides of a colon has written a secret there.
    if isinstance(known, Mapping | tuple) and name not in known:
        raise _at(node, "the environment file declares nothing of this name")


def _entries(node: Node) -> list[tuple[str, Node]]:
    if not isinstance(node, MappingNode):
        raise _at(node, "a mapping of names is wanted here")
    return list(node.entries.items())


def _secret(node: Node) -> Secret:
    if not isinstance(node, Scalar):
        raise _at(node, "text is wanted here")
    if node.meaning:
        raise _at(node, quote_it(node, hush=True, what="this value"))
    try:
        return _checked(node.text)
    except Invalid as error:
        raise _at(node, error.message) from None


def _checked(text: str) -> Secret:
    if not 1 <= len(text) <= MAX_SECRET_VALUE:
        raise Invalid(f"a value has 1 to {MAX_SECRET_VALUE} characters")
    return Secret(text)


def _fetched(source: Source, folder: Path, environ: Mapping[str, str]) -> Secret:
    if source.kind == "env":
        text = environ.get(source.name, "")
        if not text:
            raise Invalid(f"the environment variable {source.name} is not set")
        return _checked(text)
    try:
        with (folder / source.name).open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise Invalid(f"its file cannot be read: {error.strerror}") from None
    try:
        return _checked(content.decode().removesuffix("\n").removesuffix("\r"))
    except UnicodeDecodeError:
        raise Invalid("its file is not text") from None


def _fields(step: Step) -> tuple[str, ...]:
    if step.kind == "secret":
        return (VALUE,)
    return secret_fields(step.config["auth_type"], required=False)


def _place(named: Named, field: str) -> str:
    word = named.kind.replace("_", " ")
    return f"{word} {named.name}" if field == VALUE else f"{word} {named.name}, {field}"


def _at(node: Node, reason: str) -> Invalid:
    return Invalid(f"line {node.line}: {reason}")
