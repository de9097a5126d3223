"""What has to happen so that a target holds what a document says. Pure; no I/O.

* The order is one in which every beginning is valid: secrets, auth connections, environments,
  variables; then what goes: variables, environments, auth connections, secrets.
* What is not in the document stays, and is mentioned; with ``prune`` it goes. A variable in the
  document is wholly described by it, except in environments that the document does not declare.
* A secret's value cannot be compared, so one that exists is not written again unless ``rotate``
  names it: a second apply has nothing to do.
* What the target cannot change is a problem, said before anything is changed. A variable's type is
  changed by deleting and creating it: the step is ``replace``.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal

from msgspec import Struct, field

from broker.environment_file.document import (
    KINDS,
    VALUE,
    AuthSpec,
    Document,
    Named,
    SecretSpec,
    VariableSpec,
    in_order,
    secret_fields,
)
from broker.environment_file.tree import shown
from vault.auth_kinds import CHANGEABLE
from vault.environments import fallback_warnings
from vault.errors import Invalid
from vault.model import PRODUCTION, AuthRef, SecretRef, Value, VariableType

Kind = Literal["secret", "auth_connection", "environment", "variable"]
Action = Literal["create", "update", "replace", "delete"]
Dialect = Literal["keyturn", "elevenlabs"]

STRICT_LABEL: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


class KnownSecret(Struct, frozen=True):
    """``allowed_hosts`` is ``None`` where the target keeps none."""

    id: str
    name: str
    allowed_hosts: tuple[str, ...] | None


class KnownAuth(Struct, frozen=True):
    """``config`` is ``None`` for a kind that cannot be created through the API."""

    id: str
    name: str
    config: dict[str, Any] | None
    allowed_hosts: tuple[str, ...] | None


class KnownVariable(Struct, frozen=True):
    id: str
    label: str
    type: VariableType
    values: dict[str, Value]


class State(Struct, frozen=True, kw_only=True):
    """What a target holds. ``environments`` is ``None`` where it has no list of them."""

    environments: list[str] | None
    secrets: list[KnownSecret]
    auth_connections: list[KnownAuth]
    variables: list[KnownVariable]
    secret_fallback: bool = True
    dialect: Dialect = "keyturn"


class Detail(Struct, frozen=True):
    """One line of a step: what a part was, and what it becomes; ``None`` is nothing."""

    part: str
    before: str | Named | None
    after: str | Named | None


class Step(Struct, frozen=True, kw_only=True):
    """One request to the target. ``needs`` are the secret values that go with it."""

    action: Action
    kind: Kind
    name: str
    id: str = ""
    type: VariableType = "string"
    values: dict[str, str | Named | None] = {}
    config: dict[str, Any] = {}
    allowed_hosts: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()
    details: list[Detail] = []

    @property
    def named(self) -> Named | None:
        """The secret or auth connection that this is about."""
        if self.kind == "secret":
            return Named("secret", self.name)
        return Named("auth_connection", self.name) if self.kind == "auth_connection" else None


class Plan(Struct, frozen=True, kw_only=True):
    """The steps, and what is to be said beside them."""

    steps: list[Step]
    ids: dict[Named, str]
    left: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def document_of(state: State) -> Document:
    """What a file has to say so that it describes the target as it is."""
    names = _names(state)
    problems = _ambiguous(state.secrets, "secret")
    problems += _ambiguous(state.auth_connections, "auth_connection")
    problems += [
        f"variable {one.label}: its value in {name} refers to what is not listed"
        for one in state.variables
        for name, value in one.values.items()
        if not isinstance(value, str) and _id(value) not in names
    ]
    _refuse(problems, "This cannot be exported")
    used = [name for one in state.variables for name in one.values]
    return Document(
        environments=in_order({PRODUCTION, *(state.environments or ()), *used}),
        secrets={
            one.name: SecretSpec(allowed_hosts=one.allowed_hosts or ()) for one in state.secrets
        },
        auth_connections={
            one.name: AuthSpec(config=one.config, allowed_hosts=one.allowed_hosts or ())
            for one in state.auth_connections
        },
        variables={
            one.label: VariableSpec(
                one.type, {name: _known(value, names) for name, value in one.values.items()}
            )
            for one in state.variables
        },
    )


def compare(
    document: Document, state: State, *, prune: bool = False, rotate: Collection[str] = ()
) -> Plan:
    """Compare the two."""
    return _Planner(document, state, prune=prune, rotate=rotate).plan()


class _Planner:
    def __init__(
        self, document: Document, state: State, *, prune: bool, rotate: Collection[str]
    ) -> None:
        self._document = document
        self._state = state
        self._prune = prune
        self._rotate = rotate
        self._names = _names(state)
        self._problems: list[str] = []
        self._left: list[str] = []

    def plan(self) -> Plan:
        self._check_names()
        steps = [
            *self._secrets(),
            *self._auth_connections(),
            *self._environments(),
            *self._variables(),
        ]
        extra = self._extra()
        if self._prune:
            steps += extra
        self._left += [f"{_word(step.kind)} {step.name}" for step in extra if not self._prune]
        self._left += [
            f"auth connection {one.name}: made by hand, and only removed so"
            for one in self._state.auth_connections
            if one.config is None and one.name not in self._document.auth_connections
        ]
        _refuse(self._problems, "This file does not fit the target")
        ids = {named: one for one, named in self._names.items()}
        return Plan(steps=steps, ids=ids, left=self._left, warnings=self._warnings())

    def _check_names(self) -> None:
        declared = self._document
        secrets = [one for one in self._state.secrets if one.name in declared.secrets]
        auths = [
            one for one in self._state.auth_connections if one.name in declared.auth_connections
        ]
        self._problems += _ambiguous(secrets, "secret") + _ambiguous(auths, "auth_connection")
        known = {*declared.secrets, *declared.auth_connections}
        self._problems += [
            f"--rotate {shown(name)}: the file declares no secret or auth connection of this name"
            for name in sorted(set(self._rotate) - known)
        ]

    def _secrets(self) -> list[Step]:
        known = {one.name: one for one in self._state.secrets}
        steps = []
        for name, spec in sorted(self._document.secrets.items()):
            before = known.get(name)
            hosts = _hosts_change(before.allowed_hosts if before else (), spec.allowed_hosts)
            if before and not hosts and name not in self._rotate:
                continue
            steps.append(
                Step(
                    action="update" if before else "create",
                    kind="secret",
                    name=name,
                    id=before.id if before else "",
                    allowed_hosts=spec.allowed_hosts,
                    needs=(VALUE,),
                    details=hosts,
                )
            )
        return steps

    def _auth_connections(self) -> list[Step]:
        known = {one.name: one for one in self._state.auth_connections}
        steps = []
        for name, spec in sorted(self._document.auth_connections.items()):
            before = known.get(name)
            if spec.config is None:
                if before is None:
                    self._problems.append(
                        f"auth connection {name}: the file says that it exists, and it does not"
                    )
            elif before is None:
                steps.append(_new_auth(name, spec, spec.config))
            else:
                steps += self._changed_auth(before, spec, spec.config)
        return steps

    def _changed_auth(
        self, before: KnownAuth, spec: AuthSpec, config: dict[str, Any]
    ) -> list[Step]:
        name, rotated = before.name, before.name in self._rotate
        was = before.config or {}
        changes = {key: value for key, value in config.items() if was.get(key) != value}
        hosts = _hosts_change(before.allowed_hosts, spec.allowed_hosts)
        if not (changes or hosts or rotated):
            return []
        auth_type = config["auth_type"]
        changeable = CHANGEABLE.get(KINDS[auth_type], frozenset())
        # A null in an update leaves a field as it is, so nothing can be unset.
        fixed = [key for key, value in changes.items() if key not in changeable or value is None]
        if not changeable:
            fixed = [*changes, *(["allowed_hosts"] if hosts else [])] or ["its secret"]
        if fixed:
            self._problems.append(
                f"auth connection {name}: {fixed[0]} cannot be changed once it is made. Give the "
                "new one another name, let the variables refer to it, and --prune the old one"
            )
        needs = secret_fields(auth_type, required=True) if rotated else ()
        return [
            Step(
                action="update",
                kind="auth_connection",
                name=name,
                id=before.id,
                config={"auth_type": auth_type} | _merged(changes, was),
                allowed_hosts=spec.allowed_hosts,
                needs=needs,
                details=[
                    *(
                        Detail(key, _text(was.get(key)), _text(value))
                        for key, value in changes.items()
                    ),
                    *hosts,
                ],
            )
        ]

    def _environments(self) -> list[Step]:
        known = self._state.environments
        if known is None:
            return []
        wanted = [name for name in self._document.environments if name not in known]
        return [
            Step(action="create", kind="environment", name=name)
            for name in wanted
            if name != PRODUCTION
        ]

    def _variables(self) -> list[Step]:
        known = {one.label: one for one in self._state.variables}
        steps = []
        for label, spec in sorted(self._document.variables.items()):
            before = known.get(label)
            if before is None:
                steps.append(_variable_step("create", label, "", spec, {}))
            elif before.type != spec.type:
                was = {name: _known(one, self._names) for name, one in before.values.items()}
                steps.append(_variable_step("replace", label, before.id, spec, was))
            else:
                steps += self._changed_variable(before, spec)
        return steps

    def _changed_variable(self, before: KnownVariable, spec: VariableSpec) -> list[Step]:
        was = {name: _known(value, self._names) for name, value in before.values.items()}
        kept = {
            name: was[name]
            for name in was
            if name not in self._document.environments and not self._prune
        }
        self._left += [f"variable {before.label}: its value in {name}" for name in in_order(kept)]
        after = kept | spec.values
        if after == was:
            return []
        return [
            _variable_step("update", before.label, before.id, VariableSpec(spec.type, after), was)
        ]

    def _extra(self) -> list[Step]:
        """What the target has beside what the document says, in the order in which it can go."""
        document, state = self._document, self._state
        labels = [
            Step(action="delete", kind="variable", name=one.label, id=one.id)
            for one in state.variables
            if one.label not in document.variables
        ]
        environments = [
            Step(action="delete", kind="environment", name=name)
            for name in state.environments or ()
            if name not in document.environments and name != PRODUCTION
        ]
        auths = [
            Step(action="delete", kind="auth_connection", name=one.name, id=one.id)
            for one in state.auth_connections
            # What no file can make again, no file removes.
            if one.name not in document.auth_connections and one.config is not None
        ]
        secrets = [
            Step(action="delete", kind="secret", name=one.name, id=one.id)
            for one in state.secrets
            if one.name not in document.secrets
        ]
        return [
            step
            for steps in (labels, environments, auths, secrets)
            for step in sorted(steps, key=lambda step: (step.name, step.id))
        ]

    def _warnings(self) -> list[str]:
        found = list(self._stricter()) if self._state.dialect == "elevenlabs" else []
        if self._state.environments is None:
            found.append("This target lists no environments: they come with a variable's values.")
        if self._state.secret_fallback:
            labels = self._labels_after()
            names = in_order({name for one in labels for name in one.environments})
            environments = in_order({*names, *self._document.environments})
            found += [one.text for one in fallback_warnings(labels, environments)]
        return found

    def _labels_after(self) -> list["_Label"]:
        document = self._document
        known = {one.label: one for one in self._state.variables}
        found = []
        for label, spec in document.variables.items():
            kept: Iterable[str] = ()
            if not self._prune and label in known and known[label].type == spec.type:
                kept = set(known[label].values) - set(document.environments)
            found.append(_Label(label, spec.type, [*spec.values, *sorted(kept)]))
        if not self._prune:
            found += [
                _Label(one.label, one.type, list(one.values))
                for one in self._state.variables
                if one.label not in document.variables
            ]
        return found

    def _stricter(self) -> Iterable[str]:
        document = self._document
        for label in sorted(document.variables):
            if not STRICT_LABEL.fullmatch(label):
                yield (
                    f"ElevenLabs may refuse the label '{label}': there it begins with a-z and has "
                    "only a-z, 0-9 and _."
                )
        for name, auth in sorted(document.auth_connections.items()):
            if auth.config and str(auth.config.get("algorithm", "")).startswith("ES"):
                yield (
                    f"ElevenLabs may refuse the auth connection '{name}': it knows no ES algorithm."
                )
        hosts = [spec.allowed_hosts for spec in document.secrets.values()]
        hosts += [spec.allowed_hosts for spec in document.auth_connections.values()]
        if any(hosts):
            yield "ElevenLabs keeps no allowed_hosts: there every host is allowed."


class _Label(Struct, frozen=True):
    label: str
    type: VariableType
    environments: list[str]


def _new_auth(name: str, spec: AuthSpec, config: dict[str, Any]) -> Step:
    needs = secret_fields(config["auth_type"], required=True)
    given = {key: value for key, value in config.items() if value not in (None, {}, [])}
    return Step(
        action="create",
        kind="auth_connection",
        name=name,
        config=given,
        allowed_hosts=spec.allowed_hosts,
        needs=needs,
        details=[
            *(Detail(key, None, _text(value)) for key, value in given.items()),
            *_hosts_change((), spec.allowed_hosts),
        ],
    )


def _variable_step(
    action: Action,
    label: str,
    variable_id: str,
    spec: VariableSpec,
    was: Mapping[str, str | Named],
) -> Step:
    after = spec.values
    changed = [name for name in in_order({*was, *after}) if was.get(name) != after.get(name)]
    sent = changed if action == "update" else in_order(after)
    return Step(
        action=action,
        kind="variable",
        name=label,
        id=variable_id,
        type=spec.type,
        values={name: after.get(name) for name in sent},
        details=[Detail(name, was.get(name), after.get(name)) for name in changed],
    )


def _known(value: Value, names: Mapping[str, Named]) -> str | Named:
    if isinstance(value, str):
        return value
    kind: Literal["secret", "auth_connection"] = (
        "secret" if isinstance(value, SecretRef) else "auth_connection"
    )
    return names.get(_id(value), Named(kind, f"(unknown {_id(value)})"))


def _id(value: SecretRef | AuthRef) -> str:
    return value.secret_id if isinstance(value, SecretRef) else value.auth_connection_id


def _names(state: State) -> dict[str, Named]:
    names = {one.id: Named("secret", one.name) for one in state.secrets}
    return names | {one.id: Named("auth_connection", one.name) for one in state.auth_connections}


def _ambiguous(known: Iterable[KnownSecret | KnownAuth], kind: Kind) -> list[str]:
    every = list(known)
    several = [name for name, count in Counter(one.name for one in every).items() if count > 1]
    return [
        f"{_word(kind)} {shown(name)}: several have this name "
        f"({', '.join(one.id for one in every if one.name == name)}); rename or delete all but one"
        for name in sorted(several)
    ]


def _hosts_change(before: tuple[str, ...] | None, after: tuple[str, ...]) -> list[Detail]:
    if before is None or set(before) == set(after):
        return []
    return [Detail("allowed_hosts", _text(sorted(before)), _text(sorted(after)))]


def _text(value: object) -> str | None:
    if value is None or value in ([], {}):
        return None
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in sorted(value.items()))
    return str(value)


def _refuse(problems: list[str], headline: str) -> None:
    if problems:
        raise Invalid(f"{headline}:\n  " + "\n  ".join(problems))


def _word(kind: Kind) -> str:
    return kind.replace("_", " ")


def _merged(changes: dict[str, Any], was: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and headers are merged with what is there, so what is to go has to be null."""
    return {
        name: dict.fromkeys(was.get(name) or ()) | value if isinstance(value, dict) else value
        for name, value in changes.items()
    }
