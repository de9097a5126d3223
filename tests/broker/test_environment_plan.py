"""What a plan makes of a document and a target, and where its secrets come from. No I/O."""

from pathlib import Path
from typing import Any

import pytest

from broker.environment_file import (
    Named,
    Plan,
    State,
    compare,
    document_of,
    read,
    showing,
)
from broker.environment_file.document import (
    normal_config,
)
from broker.environment_file.plan import KnownAuth, KnownSecret, KnownVariable
from broker.environment_file.values import Sources, Values, read_given
from vault.errors import Invalid
from vault.model import SecretRef
from vault.secret import Secret

SENTINEL = "sentinel-5b1d07"
WHOLE = b"""
version: 1
environments: [production, staging]
secrets:
  stripe_key:
    allowed_hosts: [api.stripe.com]
    value_from: {env: STRIPE_KEY}
  "no": {}
auth_connections:
  orders_api:
    auth_type: oauth2_client_credentials
    provider: orders
    client_id: abc
    token_url: https://login.example.com/token
    scopes: [read, "on"]
    extra_params: {audience: x}
    value_from:
      client_secret: {file: orders.secret}
  slack: {existing: true}
variables:
  api_host:
    type: string
    values: {production: api, staging: staging.api}
  api_key:
    type: secret
    values:
      production: {secret: stripe_key}
      staging: {secret: "no"}
  oauth_creds:
    type: auth_connection
    values: {production: {auth_connection: orders_api}}
"""
TOKEN_URL = "https://login.example.com/token"
CLIENT = {"provider": "orders", "client_id": "abc", "token_url": TOKEN_URL}
HEAD = "version: 1\nenvironments: [production, staging]\n"
NOTHING = State(environments=["production"], secrets=[], auth_connections=[], variables=[])


def variable(value: str) -> str:
    return f"{HEAD}variables:\n  x: {{type: string, values: {{production: {value}}}}}\n"


def plan(text: str, state: State = NOTHING, **more: Any) -> Plan:
    return compare(read(text.encode(), "env.yaml"), state, **more)


def said_by(found: Plan) -> str:
    return "\n".join(showing.lines(found, lambda _mark, text: text))


def test_the_steps_are_in_an_order_in_which_each_is_possible() -> None:
    document = read(WHOLE.replace(b"  slack: {existing: true}\n", b""), "env.yaml")
    old = State(
        environments=["production", "dev"],
        secrets=[KnownSecret("s1", "old", ())],
        auth_connections=[
            KnownAuth("a1", "old", normal_config("bearer_auth", {"provider": "x"}), ()),
            KnownAuth("a2", "slack", None, ()),
        ],
        variables=[KnownVariable("v1", "old", "secret", {"production": SecretRef("s1")})],
    )
    found = compare(document, old, prune=True)
    assert found.left == ["auth connection slack: made by hand, and only removed so"]
    steps = [(one.action, one.kind, one.name) for one in found.steps]
    assert steps == [
        ("create", "secret", "no"),
        ("create", "secret", "stripe_key"),
        ("create", "auth_connection", "orders_api"),
        ("create", "environment", "staging"),
        ("create", "variable", "api_host"),
        ("create", "variable", "api_key"),
        ("create", "variable", "oauth_creds"),
        ("delete", "variable", "old"),
        ("delete", "environment", "dev"),
        ("delete", "auth_connection", "old"),
        ("delete", "secret", "old"),
    ]


def test_what_is_not_in_the_file_is_left_and_mentioned() -> None:
    state = State(
        environments=["production", "staging", "dev"],
        secrets=[KnownSecret("s1", "old", ())],
        auth_connections=[],
        variables=[
            KnownVariable("v1", "x", "string", {"production": "a", "staging": "b", "dev": "c"}),
            KnownVariable("v2", "y", "string", {"production": "a"}),
        ],
    )
    found = plan(variable("a"), state)
    assert [(one.name, one.values) for one in found.steps] == [("x", {"staging": None})]
    assert found.left == [
        "variable x: its value in dev",
        "variable y",
        "environment dev",
        "secret old",
    ]
    pruned = plan(variable("a"), state, prune=True)
    assert pruned.left == []
    assert pruned.steps[0].values == {"dev": None, "staging": None}


def test_a_plan_reads_like_a_diff() -> None:
    state = State(
        environments=["production", "staging"],
        secrets=[KnownSecret("s1", "stripe_key", ())],
        auth_connections=[],
        variables=[
            KnownVariable("v1", "x", "string", {"production": "a\x1b[2J", "staging": "b"}),
            KnownVariable("v2", "z", "secret", {"production": SecretRef("s1")}),
        ],
    )
    text = f"""{HEAD}secrets: {{stripe_key: {{}}, other: {{}}}}
variables:
  x: {{type: string, values: {{production: c}}}}
  z: {{type: secret, values: {{production: {{secret: other}}}}}}
"""
    assert said_by(plan(text, state)).splitlines() == [
        "+ secret other",
        "    + value: given when it is applied",
        "~ variable x (string)",
        '    ~ production: "a\\x1b[2J" -> "c"',
        '    - staging: "b"',
        "~ variable z (secret)",
        "    ~ production: secret stripe_key -> secret other",
        "1 to create, 2 to change",
    ]


def test_another_type_is_a_replacement() -> None:
    state = State(
        environments=["production", "staging"],
        secrets=[],
        auth_connections=[],
        variables=[KnownVariable("v1", "x", "string", {"production": "a"})],
    )
    text = f"""{HEAD}secrets: {{k: {{}}}}
variables: {{x: {{type: secret, values: {{production: {{secret: k}}}}}}}}
"""
    found = plan(text, state)
    assert [one.action for one in found.steps] == ["create", "replace"]
    assert "-/+ variable x (secret)" in said_by(found)


def test_a_secret_is_written_again_only_when_it_is_named() -> None:
    text = f"{HEAD}secrets: {{a: {{}}, b: {{}}}}"
    state = State(
        environments=["production", "staging"],
        secrets=[KnownSecret("s1", "a", ()), KnownSecret("s2", "b", ())],
        auth_connections=[],
        variables=[],
    )
    assert plan(text, state).steps == []
    assert [(one.action, one.name) for one in plan(text, state, rotate=["a"]).steps] == [
        ("update", "a")
    ]
    with pytest.raises(Invalid, match='--rotate "c": the file declares no secret'):
        plan(text, state, rotate=["c"])


def test_several_of_one_name_are_refused_where_the_name_is_used() -> None:
    state = State(
        environments=["production", "staging"],
        secrets=[KnownSecret("s1", "a", ()), KnownSecret("s2", "a", ())],
        auth_connections=[],
        variables=[],
    )
    with pytest.raises(Invalid, match=r'secret "a": several have this name \(s1, s2\)'):
        plan(f"{HEAD}secrets: {{a: {{}}}}", state)
    with pytest.raises(Invalid, match=r'secret "a": several have this name \(s1, s2\)'):
        document_of(state)
    assert plan(HEAD, state).left == ["secret a", "secret a"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("token_url: https://other.example.com/token", "token_url cannot be changed"),
        ("", ""),
        ("scopes: [x]", ""),
    ],
)
def test_only_what_the_target_can_change_is_changed(change: str, said: str) -> None:
    fields = {"auth_type": "oauth2_client_credentials", **CLIENT}
    if change:
        key, _, value = change.partition(": ")
        fields[key] = value
    text = f"{HEAD}auth_connections:\n  a:\n" + "".join(
        f"    {key}: {value}\n" for key, value in fields.items()
    )
    known = normal_config("oauth2_client_credentials", CLIENT)
    state = State(
        environments=["production", "staging"],
        secrets=[],
        auth_connections=[KnownAuth("a1", "a", known, ())],
        variables=[],
    )
    if said:
        with pytest.raises(Invalid, match=said):
            plan(text, state)
        return
    expected = [{"auth_type": "oauth2_client_credentials", "scopes": ["x"]}] if change else []
    assert [one.config for one in plan(text, state).steps] == expected


def test_a_kind_that_cannot_be_changed_is_not_rotated_either() -> None:
    text = f"{HEAD}auth_connections: {{a: {{auth_type: mtls, provider: x}}}}"
    state = State(
        environments=["production", "staging"],
        secrets=[],
        auth_connections=[KnownAuth("a1", "a", normal_config("mtls", {"provider": "x"}), ())],
        variables=[],
    )
    assert plan(text, state).steps == []
    with pytest.raises(Invalid, match="its secret cannot be changed once it is made"):
        plan(text, state, rotate=["a"])


def test_what_exists_elsewhere_must_exist() -> None:
    text = f"{HEAD}auth_connections: {{slack: {{existing: true}}}}"
    with pytest.raises(Invalid, match="slack: the file says that it exists"):
        plan(text)


def test_a_host_beside_a_secret_that_falls_back_is_warned_of() -> None:
    text = f"""{HEAD}secrets: {{k: {{}}}}
variables:
  api_host: {{type: string, values: {{production: a, staging: b}}}}
  api_key: {{type: secret, values: {{production: {{secret: k}}}}}}
"""
    warned = plan(text).warnings
    assert len(warned) == 1
    assert "In 'staging' the host label 'api_host'" in warned[0]
    off = State(
        environments=[], secrets=[], auth_connections=[], variables=[], secret_fallback=False
    )
    assert plan(text, off).warnings == []


def test_elevenlabs_is_stricter_and_that_is_said() -> None:
    state = State(
        environments=None, secrets=[], auth_connections=[], variables=[], dialect="elevenlabs"
    )
    text = f"""{HEAD}secrets: {{k: {{allowed_hosts: [a.example.com]}}}}
variables:
  API_HOST: {{type: string, values: {{production: a}}}}
"""
    warned = "\n".join(plan(text, state).warnings)
    assert "may refuse the label 'API_HOST'" in warned
    assert "keeps no allowed_hosts" in warned
    assert "lists no environments" in warned
    assert [one.kind for one in plan(text, state).steps] == ["secret", "variable"]


# Values


def gather(text: bytes, given: Values, folder: Path, environ: dict[str, str]) -> Values:
    document = read(text, "env.yaml")
    state = State(
        environments=["production"],
        secrets=[],
        auth_connections=[KnownAuth("a9", "slack", None, ())],
        variables=[],
    )
    sources = Sources(document, given, folder=folder, environ=environ)
    return sources.gather(compare(document, state))


def test_values_come_from_a_file_the_environment_and_the_file_of_secrets(tmp_path: Path) -> None:
    (tmp_path / "orders.secret").write_text("from a file\n")
    given = read_given(b"secrets: {'no': given}", read(WHOLE, "env.yaml"))
    found = gather(WHOLE, given, tmp_path, {"STRIPE_KEY": "from the environment"})
    assert found == {
        Named("secret", "no"): {"value": Secret("given")},
        Named("secret", "stripe_key"): {"value": Secret("from the environment")},
        Named("auth_connection", "orders_api"): {"client_secret": Secret("from a file")},
    }


def test_all_missing_values_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        gather(WHOLE, {}, tmp_path, {})
    assert caught.value.message.splitlines() == [
        "Nothing was changed; these values are missing:",
        "  secret no: give it by --secrets, or name its source in value_from",
        "  secret stripe_key: the environment variable STRIPE_KEY is not set",
        (
            "  auth connection orders_api, client_secret: its file cannot be read: "
            "No such file or directory"
        ),
    ]


@pytest.mark.parametrize(
    "content",
    [
        f"secrets: {{{SENTINEL}: stripe_key}}",
        f"{SENTINEL}: stripe_key",
        f"secrets: {{stripe_key: [{SENTINEL}]}}",
        f"secrets: {{stripe_key: *{SENTINEL}}}",
        f"secrets: {{stripe_key: @{SENTINEL}}}",
        f"secrets: {{stripe_key: 2026-01-31, {SENTINEL}: a}}",
        f"secrets: {{{SENTINEL}: a, {SENTINEL}: a}}",
        f"auth_connections: {{orders_api: {{{SENTINEL}: client_secret}}}}",
        f"auth_connections: {{orders_api: {SENTINEL}}}",
        f"auth_connections: {{slack: {{token: {SENTINEL}}}}}",
        f"{SENTINEL}",
        f"secrets: {{stripe_key: {SENTINEL}{'x' * 40_000}}}",
        "secrets: {stripe_key: 5551234}",
    ],
)
def test_a_bad_file_of_secrets_gets_a_line_and_nothing_of_it_is_repeated(content: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_given(content.encode(), read(WHOLE, "env.yaml"))
    assert "The file of secrets cannot be used: line 1: " in caught.value.message
    for text in (str(caught.value), repr(caught.value.__context__), repr(caught.value.__cause__)):
        assert SENTINEL not in text
        assert "5551234" not in text
