"""Settings: every problem at once, every value unsaid."""

import stat
from pathlib import Path

import msgspec
import pytest

from broker.settings import Settings, load
from vault.bearer import generate
from vault.errors import Misconfigured
from vault.secret import Secret
from vault.settings import MAX_SECRET_FILE, VaultSettings, names, read

DEVELOPMENT = {"KEYTURN_MODE": "development"}
PRODUCTION = {"KEYTURN_KEK": "file:///run/root.key", "KEYTURN_DATABASE_URL": "postgresql://a:b@c/d"}
CANARY = "canary-7Q"


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(Misconfigured) as refused:
        load(environ)
    assert CANARY not in refused.value.message
    return refused.value.message


def developing(**settings: str) -> Settings:
    given = {f"KEYTURN_{name.upper()}": value for name, value in settings.items()}
    return load({**DEVELOPMENT, **given})


def test_production_is_the_default_and_nothing_is_open_in_it() -> None:
    settings = load(PRODUCTION)
    assert (settings.mode, settings.host, settings.port) == ("production", "127.0.0.1", 8420)
    assert settings.egress_allow == ""
    assert settings.operator_keys == ()
    assert settings.seconds_to_drain == 5.0
    assert settings.origin == "http://127.0.0.1:8420"


def test_names_of_others_are_none_of_our_business() -> None:
    load({**DEVELOPMENT, "PATH": "/bin", "KEYTURNED": "1", "keyturn_mode": "x", "XKEYTURN_A": "1"})


def test_every_problem_is_said_at_once() -> None:
    said = refusal(
        {
            **DEVELOPMENT,
            "KEYTURN_PORTS": CANARY,
            "KEYTURN_PORT": CANARY,
            "KEYTURN_LOG_LEVEL": CANARY,
            "KEYTURN_STATEMENT_CACHE": "-1",
            "KEYTURN_KEK_FILE": f"/{CANARY}",
        }
    )
    lines = said.splitlines()
    assert lines[0] == "These settings cannot be used:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "KEYTURN_PORTS",
        *sorted(
            ["KEYTURN_STATEMENT_CACHE", "KEYTURN_LOG_LEVEL", "KEYTURN_PORT", "KEYTURN_KEK"],
            key=[*(f"KEYTURN_{one.upper()}" for one in Settings.__struct_fields__)].index,
        ),
    ]


def test_what_only_several_settings_tell_is_said_beside_what_one_tells() -> None:
    said = refusal(
        {
            "KEYTURN_PORT": CANARY,
            "KEYTURN_KEK_FILE": f"/{CANARY}",
            "KEYTURN_PUBLIC_URL": "http://vault.acme.com",
            "KEYTURN_BOOTSTRAP_API_KEY": generate("api_key").reveal(),
            "KEYTURN_TRUSTED_PROXIES": f"10.0.0.1,{CANARY}",
            "KEYTURN_EGRESS_ALLOW": f"provider={CANARY}:{CANARY}",
        }
    )
    found = [line.split(":")[0].strip() for line in said.splitlines()[1:]]
    assert sorted(found) == [
        "KEYTURN_BOOTSTRAP_API_KEY",
        "KEYTURN_DATABASE_URL",
        "KEYTURN_EGRESS_ALLOW, entry 1",
        "KEYTURN_KEK",
        "KEYTURN_PORT",
        "KEYTURN_PUBLIC_URL",
        "KEYTURN_TRUSTED_PROXIES, entry 2",
    ]


def test_what_depends_on_a_mode_that_cannot_be_read_is_not_guessed() -> None:
    said = refusal({"KEYTURN_MODE": CANARY, "KEYTURN_PORT": "0"})
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:]] == [
        "KEYTURN_MODE",
        "KEYTURN_PORT",
    ]


@pytest.mark.parametrize(
    "proxies", ["*", "10.0.0.0/8", "127.0.0.1, ::1", "fe80::1%eth0,192.0.2.0/24,2001:db8::/32"]
)
def test_proxies_are_trusted_by_address_or_network(proxies: str) -> None:
    assert developing(trusted_proxies=proxies).trusted_proxies == proxies


@pytest.mark.parametrize(
    ("proxies", "entry"),
    [
        ("10.0.0.5/8", 1),  # has host bits
        ("10.0.0.0/33", 1),
        ("127.0.0.1,proxy.acme.com", 2),
        ("127.0.0.1,", 2),
        ("10.0.0.1,*", 2),
        ("127.0.0.1:8080", 1),
    ],
)
def test_a_proxy_that_nobody_would_ever_be_taken_for_is_refused(proxies: str, entry: int) -> None:
    said = refusal({**DEVELOPMENT, "KEYTURN_TRUSTED_PROXIES": proxies})
    assert f"KEYTURN_TRUSTED_PROXIES, entry {entry}: expected an address" in said


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PORT", "0", "expected `int` >= 1"),
        ("PORT", "65536", "expected `int` <= 65535"),
        ("PORT", "80.5", "expected `int`"),
        ("PORT", CANARY, "expected `int`"),
        ("STATEMENT_CACHE", "10001", "expected `int` <= 10000"),
        ("DATABASE_POOL", "0", "expected `int` >= 1"),
        ("DATABASE_POOL", "201", "expected `int` <= 200"),
        ("DRAIN_SECONDS", "-0.1", "expected `float` >= 0"),
        ("DRAIN_SECONDS", "301", "expected `float` <= 300"),
        ("RELAY_DRAIN", "28801", "expected `float` <= 28800"),
        ("RELAY_SOCKETS", "0", "expected `int` >= 1"),
        ("RELAY_WORKSPACE_SOCKETS", "100001", "expected `int` <= 100000"),
        ("AUDIT_DAYS", "29", "30 at the least, or 0 for ever"),
        ("AUDIT_DAYS", "36501", "expected `int` <= 36500"),
        ("MODE", CANARY, "not one of the accepted values"),
        ("LOG_LEVEL", "INFO!", "not one of the accepted values"),
        ("DEPLOYMENT_ID", "a b", "matching regex"),
        ("DEPLOYMENT_ID", "x" * 65, "matching regex"),
    ],
)
def test_a_value_beyond_its_limit_is_refused_with_the_limit(
    name: str, value: str, reason: str
) -> None:
    said = refusal({**DEVELOPMENT, f"KEYTURN_{name}": value})
    assert f"KEYTURN_{name}: " in said
    assert reason in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "1"),
        ("port", "65535"),
        ("statement_cache", "0"),
        ("database_pool", "200"),
        ("drain_seconds", "0"),
        ("drain_seconds", "300"),
        ("relay_drain", "0"),
        ("relay_drain", "28800"),
        ("relay_sockets", "1"),
        ("audit_days", "0"),
        ("audit_days", "30"),
        ("deployment_id", "x" * 64),
    ],
)
def test_a_value_at_its_limit_is_taken(name: str, value: str) -> None:
    assert str(getattr(developing(**{name: value}), name)).removesuffix(".0") == value


@pytest.mark.parametrize("name", [name for name in names(Settings) if name != "KEYTURN_MODE"])
def test_a_variable_set_to_nothing_is_one_that_is_not_set(name: str) -> None:
    assert load({**DEVELOPMENT, name: ""}) == load(DEVELOPMENT)


def test_a_secret_comes_from_a_file_without_the_line_break_at_its_end(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"\n  {CANARY}\n\n")
    settings = developing(kek_file=str(file))
    assert settings.kek == Secret(CANARY)
    assert CANARY not in repr(settings)


def test_every_secret_may_come_from_a_file_and_nothing_else_may() -> None:
    files = {name for name in names(Settings) if name.endswith("_FILE")} - {
        "KEYTURN_EGRESS_CA_FILE"
    }
    assert files == {
        "KEYTURN_DATABASE_URL_FILE",
        "KEYTURN_OWNER_DATABASE_URL_FILE",
        "KEYTURN_WORKER_DATABASE_URL_FILE",
        "KEYTURN_KEK_FILE",
        "KEYTURN_OPERATOR_KEY_FILE",
        "KEYTURN_BOOTSTRAP_API_KEY_FILE",
        "KEYTURN_TRANSIT_TOKEN_FILE",
        "KEYTURN_TRANSIT_SECRET_ID_FILE",
        "KEYTURN_PKCS11_PIN_FILE",
    }
    assert "KEYTURN_PORT_FILE: there is no such setting" in refusal(
        {**DEVELOPMENT, "KEYTURN_PORT_FILE": "/x"}
    )


def test_a_secret_that_comes_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(CANARY)
    both = {**DEVELOPMENT, "KEYTURN_KEK": CANARY, "KEYTURN_KEK_FILE": str(file)}
    assert "KEYTURN_KEK: set it or KEYTURN_KEK_FILE, not both" in refusal(both)


def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    empty, binary, large = tmp_path / "empty", tmp_path / "binary", tmp_path / "large"
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe" + CANARY.encode())
    large.write_text(CANARY + "x" * MAX_SECRET_FILE)
    for file, reason in (
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (empty, "is empty"),
        (binary, "is not text"),
        (large, f"is larger than {MAX_SECRET_FILE} bytes"),
    ):
        said = refusal({**DEVELOPMENT, "KEYTURN_KEK_FILE": str(file)})
        assert "KEYTURN_KEK: its file" in said
        assert reason in said


def test_a_file_of_exactly_the_largest_size_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x" * MAX_SECRET_FILE)
    kek = developing(kek_file=str(file)).kek
    assert kek is not None
    assert len(kek.reveal()) == MAX_SECRET_FILE
    assert stat.S_ISREG(file.stat().st_mode)


@pytest.mark.parametrize(
    "value",
    ["CUT", "CUT,WHOLE", "WHOLE,", ",", "WHOLE,WHOLE,WHOLE", "API", f"{CANARY}", "WHOLE;WHOLE"],
)
def test_an_operator_key_that_is_none_is_refused_and_never_said(value: str) -> None:
    whole, api = generate("operator").reveal(), generate("api_key").reveal()
    given = value.replace("CUT", whole[:-1]).replace("WHOLE", whole).replace("API", api)
    said = refusal({**DEVELOPMENT, "KEYTURN_OPERATOR_KEY": given})
    assert "KEYTURN_OPERATOR_KEY: " in said
    if value == "CUT":
        assert "'keyturn key generate --operator' makes one" in said
    for key in (whole, api):
        assert key[4:20] not in said


def test_a_bootstrap_key_in_production_has_to_come_from_a_file(tmp_path: Path) -> None:
    key = generate("api_key").reveal()
    with pytest.raises(Misconfigured, match="give KEYTURN_BOOTSTRAP_API_KEY_FILE") as refused:
        load({**PRODUCTION, "KEYTURN_BOOTSTRAP_API_KEY": key})
    assert key not in refused.value.message
    file = tmp_path / "key"
    file.write_text(key)
    settings = load({**PRODUCTION, "KEYTURN_BOOTSTRAP_API_KEY_FILE": str(file)})
    assert settings.bootstrap_api_key == Secret(key)


@pytest.mark.parametrize(
    "url", ["https://v.acme.com", "https://v.acme.com:8443", "https://v.acme.com/"]
)
def test_a_public_address_is_scheme_and_host(url: str) -> None:
    assert load({**PRODUCTION, "KEYTURN_PUBLIC_URL": url}).origin == url


@pytest.mark.parametrize(
    "url",
    [
        "v.acme.com",
        "ftp://v.acme.com",
        "https://",
        "https://v.acme.com/path",
        "https://v.acme.com?x",
        "https://v.acme.com/#x",
        f"https://user:{CANARY}@v.acme.com",
        "https://v.acme.com:port",
        "https://v.acme.com:0",
        "https://v.acme.com:65536",
        "https://[::1",
    ],
)
def test_any_other_public_address_is_refused(url: str) -> None:
    assert "KEYTURN_PUBLIC_URL: " in refusal({**PRODUCTION, "KEYTURN_PUBLIC_URL": url})


def test_production_is_reached_by_https_and_development_need_not_be() -> None:
    plain = {"KEYTURN_PUBLIC_URL": "http://127.0.0.1:8420"}
    assert "production is reached by https" in refusal({**PRODUCTION, **plain})
    assert load({**DEVELOPMENT, **plain}).origin == "http://127.0.0.1:8420"


def test_production_needs_a_root_key_and_a_database_or_a_place_for_one() -> None:
    said = refusal({})
    assert "KEYTURN_KEK: production needs a root key" in said
    assert "KEYTURN_DATABASE_URL: production needs a database" in said
    load({"KEYTURN_KEK": "file:///k", "KEYTURN_DATA_DIR": "/var/lib/keyturn"})


def test_no_setting_shows_a_secret_when_it_is_printed() -> None:
    given = {name: CANARY for name in names(VaultSettings) if name.endswith("URL")}
    settings = read(VaultSettings, {**given, "KEYTURN_KEK": CANARY})
    assert CANARY not in f"{settings!r} {settings}"
    with pytest.raises(TypeError):
        msgspec.json.encode(settings)
