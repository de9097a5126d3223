"""The catalogue: one TOML file a provider, in this folder and in the operator's own.

* Lazy: a file of ours is read when somebody asks for it, once. The operator's are read at the
  start, since a mistake in them should stop the start and not a person's connecting.
* An operator's file with a new name adds a provider; with the name of one of ours it replaces it,
  or, if it ``extends`` its own name, changes only what it says.
* ``extends`` takes over everything; tables are merged, everything else is replaced.
* A bad file is refused with its name, the path of the field, and the reason; all problems at once.
"""

import inspect
import threading
import tomllib
from collections.abc import Iterator
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import msgspec

from vault.errors import Misconfigured, NotFound
from vault.providers import check
from vault.providers.schema import Provider

MAX_FILE: Final = 64 * 1024
MAX_DEPTH: Final = 4
# What belongs to the file itself and is not taken over from the one that it extends.
OWN: Final = ("id", "name", "extends", "as_of", "confidence", "status", "reason", "replaced_by")

Raw = dict[str, Any]

# msgspec finds out what a type is made of when it is first used, and two threads that do so at a
# time crash the process (0.22.0).
_one_at_a_time: Final = threading.Lock()


class Catalogue:
    """What is known of providers."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._found: dict[str, Provider] = {}
        self._read_the_operators()

    def ids(self) -> list[str]:
        """Every provider's id, sorted."""
        return sorted({*self._ours, *self._operators})

    def get(self, provider_id: str) -> Provider:
        """Return one provider."""
        if provider_id not in self._found:
            if provider_id not in self._ours and provider_id not in self._operators:
                raise NotFound("There is no such provider.")
            self._found[provider_id] = self._load(provider_id)
        return self._found[provider_id]

    def root_of(self, provider_id: str) -> str:
        """The file on which this one builds in the end: ``google`` for Google Calendar."""
        parent = self.get(provider_id).extends
        while parent is not None and parent != provider_id and parent in self.ids():
            provider_id, parent = parent, self.get(parent).extends
        return provider_id

    def all(self) -> Iterator[Provider]:
        """Every provider, by id."""
        return map(self.get, self.ids())

    def is_operators(self, provider_id: str) -> bool:
        """Does the operator's folder say what this one is?"""
        return provider_id in self._operators

    def check_file(self, file: Path) -> Provider:
        """Read one file as if it lay in the operator's folder."""
        return _checked(file.name, self._resolved(_parsed(file), file.name, file.stem, (None,)))

    def _read_the_operators(self) -> None:
        bad = []
        for name in sorted(self._operators):
            try:
                self.get(name)
            except Misconfigured as problem:
                bad.append(problem.message)
        if bad:
            raise Misconfigured("\n".join(dict.fromkeys(bad)))

    @cached_property
    def _ours(self) -> dict[str, Traversable]:
        return _files(resources.files(__name__))

    @cached_property
    def _operators(self) -> dict[str, Traversable]:
        if self._directory is None:
            return {}
        if not self._directory.is_dir():
            raise Misconfigured("KEYTURN_PROVIDERS_DIR: there is no such folder.")
        return _files(self._directory)

    def _load(self, provider_id: str) -> Provider:
        name = f"{provider_id}.toml"
        file = self._operators.get(provider_id) or self._ours[provider_id]
        return _checked(name, self._resolved(_parsed(file), name, provider_id, (file,)))

    def _resolved(
        self, raw: Raw, name: str, provider_id: str, seen: tuple[Traversable | None, ...]
    ) -> Raw:
        """Merge a file over those that it extends."""
        if raw.get("id") != provider_id:
            raise _bad(name, [("id", "it has to be the file's name without .toml")])
        parent = raw.get("extends")
        if parent is None:
            return raw
        # A file that extends its own name means the one of ours below it.
        file = None if parent == provider_id else self._operators.get(parent)
        file = file or (self._ours.get(parent) if isinstance(parent, str) else None)
        if file is None or file in seen:
            reason = "there is no such provider" if file is None else "it comes back to itself"
            raise _bad(name, [("extends", reason)])
        if len(seen) >= MAX_DEPTH:
            raise _bad(name, [("extends", f"at most {MAX_DEPTH} files may build on one another")])
        below = self._resolved(_parsed(file), f"{parent}.toml", str(parent), (*seen, file))
        inherited = {key: value for key, value in below.items() if key not in OWN}
        return _merged(inherited, raw)


def schema_json() -> bytes:
    """The schema of a file, for editors; ``schema.json`` beside this module is a copy."""
    schema: Raw = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= msgspec.json.schema(Provider)
    for one in schema["$defs"].values():
        # Before 3.13, Python leaves a docstring's indentation in.
        one["description"] = inspect.cleandoc(one["description"])
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def _files(folder: Traversable) -> dict[str, Traversable]:
    return {
        file.name.removesuffix(".toml"): file
        for file in folder.iterdir()
        if file.name.endswith(".toml") and not file.name.startswith(".")
    }


def _parsed(file: Traversable) -> Raw:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise _bad(file.name, [("", f"it cannot be read: {error.strerror}")]) from None
    if len(content) > MAX_FILE:
        raise _bad(file.name, [("", f"it is larger than {MAX_FILE} bytes")])
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise _bad(file.name, [("", "it is not UTF-8")]) from None
    except tomllib.TOMLDecodeError as error:
        raise _bad(file.name, [("", f"not TOML: {error}")]) from None


def _checked(name: str, raw: Raw) -> Provider:
    try:
        with _one_at_a_time:
            provider = msgspec.convert(raw, Provider)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        raise _bad(name, [(place.strip("`."), reason)]) from None
    found = list(check.problems(provider))
    if found:
        raise _bad(name, found)
    return provider


def _merged(below: Raw, above: Raw) -> Raw:
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _merged(below[key], above[key])
    return merged


def _bad(name: str, found: list[check.Problem]) -> Misconfigured:
    lines = [f"{name}: {path}: {reason}" if path else f"{name}: {reason}" for path, reason in found]
    return Misconfigured("\n".join(lines))
