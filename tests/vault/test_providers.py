"""The catalogue: every file loads and says what the frozen facts say; bad files are refused."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import provider_page
from support.provider_facts import Facts, departures, frozen, told

from vault import providers
from vault.errors import Misconfigured, NotFound
from vault.providers import Catalogue
from vault.providers.failures import Answer, outcome
from vault.providers.schema import Provider

OURS = Catalogue()
FROZEN = frozen()
DEPARTURES = departures()
# RFC 8628, of which the facts know no provider.
BEYOND = ["oauth2-device"]
# What is compared in a test of its own.
ELSEWHERE = {"failures", "no_refresh_token", "no_expires_in"}


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / f"{name}.toml"
    file.write_text(text)
    return file


def refusal(folder: Path) -> str:
    with pytest.raises(Misconfigured) as refused:
        Catalogue(folder)
    return refused.value.message


def test_every_provider_of_the_frozen_facts_has_a_file_and_no_other_has() -> None:
    assert OURS.ids() == sorted([*FROZEN, *BEYOND])
    assert len(FROZEN) == 141


@pytest.mark.parametrize("provider_id", sorted(FROZEN))
def test_a_file_says_what_the_frozen_facts_say(provider_id: str) -> None:
    expected = {name: value for name, value in FROZEN[provider_id].items() if name not in ELSEWHERE}
    for (provider, field), value in DEPARTURES.items():
        if provider == provider_id:
            expected[field] = value
    expected = {name: value for name, value in expected.items() if value is not None}
    assert told(OURS.get(provider_id)) == expected


def test_no_departure_is_one_that_the_facts_have_caught_up_with() -> None:
    for (provider, field), value in DEPARTURES.items():
        assert FROZEN[provider].get(field) != value, (provider, field)


@pytest.mark.parametrize("provider_id", sorted(FROZEN))
def test_a_token_that_a_reply_does_not_hold_is_not_waited_for(provider_id: str) -> None:
    provider, facts = OURS.get(provider_id), FROZEN[provider_id]
    if facts.get("no_refresh_token"):
        assert provider.refresh.issued == "never"
    if facts.get("no_expires_in"):
        assert provider.reply.expires_at or not provider.reply.expiry_stated


FAILURES = [(provider, row) for provider, one in FROZEN.items() for row in one.get("failures", [])]


@pytest.mark.parametrize(("provider_id", "row"), FAILURES)
def test_an_answer_is_taken_for_what_it_means(provider_id: str, row: list[Any]) -> None:
    meaning, where, status, code, subtype, detail, at = row
    answer = Answer(
        status=status or 400,
        where=where,
        code=None if at else code,
        subtype=subtype,
        description=f"... {detail or ''} ...",
        fields={at: code} if at else {},
    )
    assert outcome(OURS.get(provider_id), answer) == meaning


def test_an_answer_that_nobody_knows_condemns_nobody() -> None:
    for provider in OURS.all():
        assert outcome(provider, Answer(status=418, code="teapot")) is None
        assert outcome(provider, Answer(status=429, code="x")) == "throttled"


def test_a_row_that_says_more_stands_before_one_that_says_less() -> None:
    for provider in OURS.all():
        for number, row in enumerate(provider.errors.rows):
            for earlier in provider.errors.rows[:number]:
                covers = all(
                    getattr(earlier, field) in (None, getattr(row, field))
                    for field in ("status", "code", "at", "subtype", "detail")
                ) and earlier.where in ("any", row.where)
                assert not covers or earlier.outcome == row.outcome, (provider.id, row)


def test_what_cannot_be_expressed_says_why() -> None:
    unsupported = {one.id: one.reason for one in OURS.all() if one.status == "unsupported"}
    assert sorted(unsupported) == ["plaid", "telegram-managed-bot"]
    assert all(unsupported.values())


def test_a_replacement_is_in_the_catalogue() -> None:
    for provider in OURS.all():
        if provider.replaced_by:
            assert OURS.get(provider.replaced_by).status == "active"


def test_no_extra_that_is_captured_is_a_credential() -> None:
    for provider in OURS.all():
        for path in (*provider.reply.capture.values(), *provider.callback.capture.values()):
            assert not any(word in path for word in ("token", "secret", "webhook")), path


def test_the_schema_for_editors_is_fresh() -> None:
    file = Path(providers.__file__).with_name("schema.json")
    assert file.read_bytes() == providers.schema_json(), "run: keyturn provider schema"


# Files of the operator


GOOD = """
id = "acme"
name = "Acme"
mode = "authorization_code"
as_of = 2026-11-21

[confidence]
endpoints = "docs"
client = "docs"
refresh = "docs"
lifetime = "docs"
identity = "docs"
scopes = "docs"
quirks = "docs"

[authorize]
url = "https://acme.example.com/authorize"

[client]
auth = "basic"

[token]
url = "https://acme.example.com/token"
"""

VARIABLE = '[variables.site]\nfilled_by = "person"\n'
HOST = VARIABLE + 'kind = "host"\n'
API = '\n[api]\nbase_url = "https://{}.example.com"\n'

REFUSED: list[tuple[str, str, str]] = [
    ("not TOML", "id = ", "not TOML"),
    ("a field that is not there", GOOD.replace("[token]", "[token]\nmethod = 1"), "token"),
    ("a top field that is not there", 'plugin = "x"\n' + GOOD, "unknown field `plugin`"),
    ("plain http", GOOD.replace("https://acme.example.com/token", "http://a.b/t"), "token.url"),
    ("no URL at all", GOOD.replace("https://acme.example.com/token", "ftp"), "token.url"),
    ("a URL with a space", GOOD.replace("com/token", "com/to ken"), "token.url"),
    ("a missing confidence", GOOD.replace('quirks = "docs"\n', ""), "confidence: "),
    ("a confidence of no kind", GOOD.replace('quirks = "docs"', 'quirks = "sure"'), "quirks"),
    ("no date", GOOD.replace("as_of = 2026-11-21\n", ""), "`as_of`"),
    ("no name", GOOD.replace('name = "Acme"\n', ""), "`name`"),
    ("another id", GOOD.replace('"acme"', '"acne"'), "id: it has to be the file's name"),
    ("somebody else's id", GOOD.replace('id = "acme"', 'id = "slack"'), "id: it has to be"),
    ("an unknown mode", GOOD.replace("authorization_code", "implicit"), "mode"),
    ("no mode", GOOD.replace('mode = "authorization_code"\n', ""), "mode: it is missing"),
    ("no token URL", GOOD.partition("[token]")[0], "token.url: the mode"),
    ("a name that nothing fills", GOOD.replace("/token", "/{site}/token"), "nothing fills {site}"),
    ("an expression", GOOD.replace("/token", "/{a || b}"), "token.url"),
    ("an open brace", GOOD.replace("/token", "/{token"), "a placeholder is"),
    ("a host of no kind", GOOD + VARIABLE + API.format("{site}"), "stands in the host"),
    ("a host without pattern", GOOD + HOST + API.format("{site}"), "variables.site.pattern"),
    ("a loose pattern", GOOD + HOST + "pattern = '[a-z]+'\n", "anchor it"),
    ("a broken pattern", GOOD + HOST + "pattern = '^[a-z$'\n", "not a regular expression"),
    (
        "a default that breaks the pattern",
        GOOD + HOST + "pattern = '^[a-z]+$'\ndefault = 'A'\n",
        "variables.site.default",
    ),
    (
        "a URL pattern that lets http pass",
        GOOD + VARIABLE + 'kind = "url"\npattern = "^http.*$"\n',
        "begin with ^https://",
    ),
    ("an engine's name", GOOD + VARIABLE.replace("site", "client_secret"), "uses this name"),
    (
        "a secret with a default",
        GOOD + VARIABLE + 'kind = "secret"\ndefault = "x"\n',
        "neither default nor example",
    ),
    (
        "a callback variable that nothing fills",
        GOOD + VARIABLE.replace("person", "callback"),
        "which parameter fills it",
    ),
    (
        "a captured host that nobody checks",
        GOOD + '[reply.capture]\nhome = "home"\n[api]\nbase_url = "{home}"\n',
        "api.hosts",
    ),
    ("a format without expires_at", GOOD + '[reply]\nexpires_at_format = "epoch"\n', "together"),
    ("a grace that is none", GOOD + "[refresh]\ngrace_seconds = 10\n", "grace_seconds"),
    ("a condition without words", GOOD + '[refresh]\nissued = "conditional"\n', "refresh.when"),
    ("an end that slides and is none", GOOD + "[refresh]\nslides = true\n", "refresh.slides"),
    ("a refresh token in a URL", GOOD + '[refresh]\nmethod = "GET"\n', "never put into a URL"),
    ("a row that fits all", GOOD + '[errors]\nrows = [{ class = "dead" }]\n', "errors.rows[0]"),
    ("a row of no class", GOOD + '[errors]\nrows = [{ class = "x", status = 400 }]\n', "class"),
    ("a revocation to nowhere", GOOD + '[revoke]\nkills = "grant"\n', "revoke.url"),
    ("an assertion without key", GOOD.replace('"basic"', '"signed_secret"'), "assertion"),
    ("nothing to extend", 'extends = "nobody"\n' + GOOD, "extends: there is no such provider"),
    ("itself, with nothing below", 'extends = "acme"\n' + GOOD, "extends: there is no such"),
    ("unsupported without reason", 'status = "unsupported"\n' + GOOD, "says why"),
    ("a forbidden path without slash", GOOD + '[api]\nforbidden = ["oauth"]\n', "api.forbidden"),
]


@pytest.mark.parametrize(
    ("text", "reason"), [one[1:] for one in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_a_bad_file_is_refused_with_its_name_the_field_and_the_reason(
    text: str, reason: str, tmp_path: Path
) -> None:
    write(tmp_path, "acme", text)
    message = refusal(tmp_path)
    assert message.startswith("acme.toml: ")
    assert reason in message


def test_a_good_file_of_the_operators_is_a_provider(tmp_path: Path) -> None:
    write(tmp_path, "acme", GOOD)
    catalogue = Catalogue(tmp_path)
    assert catalogue.get("acme").name == "Acme"
    assert catalogue.is_operators("acme")
    assert not catalogue.is_operators("google")
    assert len(catalogue.ids()) == len(OURS.ids()) + 1


def test_an_operators_file_replaces_the_one_of_ours(tmp_path: Path) -> None:
    write(tmp_path, "slack", GOOD.replace('"acme"', '"slack"'))
    replaced = Catalogue(tmp_path).get("slack")
    assert replaced.name == "Acme"
    assert replaced.errors.rows == []


SMALL = GOOD.partition("[authorize]")[0].replace('mode = "authorization_code"\n', "")


def test_an_operators_file_that_extends_its_own_name_changes_only_what_it_says(
    tmp_path: Path,
) -> None:
    text = 'extends = "slack"\n' + SMALL.replace('"acme"', '"slack"')
    write(tmp_path, "slack", text + '[refresh]\nold_refresh_token = "stays_valid"\n')
    changed = Catalogue(tmp_path).get("slack")
    ours = OURS.get("slack")
    assert changed.refresh == msgspec.structs.replace(ours.refresh, old_refresh_token="stays_valid")
    assert (changed.authorize, changed.reply, changed.errors) == (
        ours.authorize,
        ours.reply,
        ours.errors,
    )


def test_what_extends_a_provider_follows_the_operators_change_of_it(tmp_path: Path) -> None:
    text = 'extends = "google"\n' + SMALL.replace('"acme"', '"google"')
    write(tmp_path, "google", text + "[refresh]\nmax_live = 7\n")
    assert Catalogue(tmp_path).get("google-mail").refresh.max_live == 7


def test_files_that_extend_one_another_in_a_circle_are_refused(tmp_path: Path) -> None:
    for name, other in (("acme", "beta"), ("beta", "acme")):
        write(tmp_path, name, f'extends = "{other}"\n' + SMALL.replace('"acme"', f'"{name}"'))
    assert "extends: it comes back to itself" in refusal(tmp_path)


def test_a_long_chain_is_refused(tmp_path: Path) -> None:
    for number in range(6):
        text = SMALL.replace('"acme"', f'"a{number}"')
        write(tmp_path, f"a{number}", f'extends = "a{number + 1}"\n{text}')
    write(tmp_path, "a6", GOOD.replace('"acme"', '"a6"'))
    assert "may build on one another" in refusal(tmp_path)


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    write(tmp_path, "acme", GOOD + "#" * providers.MAX_FILE)
    assert "it is larger than" in refusal(tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_bytes(b"\xff\xfe")
    assert "it is not UTF-8" in refusal(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "KEYTURN_PROVIDERS_DIR" in refusal(tmp_path / "none")


def test_every_problem_of_every_bad_file_is_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "acme", GOOD.replace("acme.example.com/token", "{a}.com/{b}"))
    write(tmp_path, "beta", GOOD)
    message = refusal(tmp_path)
    assert "{a}" in message
    assert "{b}" in message
    assert "beta.toml: id" in message


@pytest.mark.parametrize("name", ["nobody", "", "../google", "google.toml", "GOOGLE", "schema"])
def test_a_provider_that_is_not_there_is_not_found(name: str) -> None:
    with pytest.raises(NotFound):
        OURS.get(name)


def test_each_file_of_ours_names_a_date_of_its_facts() -> None:
    for provider in OURS.all():
        assert isinstance(provider, Provider)
        assert provider.as_of.year >= 2026


def _facts_differ(one: Facts, other: Facts) -> bool:
    return one != other


def test_the_comparison_sees_a_change_of_any_single_field() -> None:
    provider = OURS.get("slack")
    before = told(provider)
    for part, field, value in (
        ("token", "url", "https://elsewhere.example.com"),
        ("reply", "access_token", "token"),
        ("refresh", "rotates", "never"),
        ("scopes", "separator", " "),
        ("api", "value", "Bot {access_token}"),
        ("revoke", "kills", "grant"),
    ):
        changed = msgspec.structs.replace(getattr(provider, part), **{field: value})
        after = told(msgspec.structs.replace(provider, **{part: changed}))
        assert _facts_differ(before, after), (part, field)


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "providers.md"


def test_the_page_shows_the_catalogue() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    reasons = [f"| `{one.id}` | {one.reason} |" for one in OURS.all() if one.mode is None]
    assert rows == [*provider_page.table(), *reasons]


GUIDE = PAGE.parents[1] / "howto" / "add-a-provider.md"
EXAMPLES = re.findall(r"^```toml\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_of_the_guide_is_a_good_file(text: str, tmp_path: Path) -> None:
    [provider_id] = re.findall(r'^id = "(.*)"$', text, re.MULTILINE)
    write(tmp_path, provider_id, text)
    assert Catalogue(tmp_path).get(provider_id).mode == "authorization_code"


def test_the_guide_names_fields_that_there_are() -> None:
    schema = providers.schema_json().decode()
    named = re.findall(r"`([a-z]+)\.([a-z_]+)(?: = [^`]*)?`", GUIDE.read_text())
    fields = [words for words in named if words[1] != "toml"]
    assert len(fields) > 15
    for word in {word for words in fields for word in words}:
        assert f'"{word}": {{' in schema, word


FIRST_USE = """
import sys, threading
from vault.providers import Catalogue

sys.setswitchinterval(1e-6)
catalogue = Catalogue()
names = catalogue.ids()[:8]
together = threading.Barrier(len(names))

def get(name):
    together.wait()
    catalogue.get(name)

threads = [threading.Thread(target=get, args=(name,)) for name in names]
for one in threads:
    one.start()
for one in threads:
    one.join()
assert all(catalogue.get(name).id == name for name in names)
"""


def test_files_that_are_first_asked_for_at_once_crash_nothing() -> None:
    for _ in range(3):  # a process of its own each: it is about the first use in one
        done = subprocess.run([sys.executable, "-c", FIRST_USE], timeout=60, check=False)
        assert done.returncode == 0
