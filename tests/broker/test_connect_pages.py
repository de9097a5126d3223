"""The pages on which an account is connected: what they say, their headers, who cannot cheat."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import Any, get_args

import pytest
from litestar import Response
from msgspec import structs
from support.connect_pages import (
    ACCOUNT,
    BACK,
    CATALOGUE,
    EVIL,
    GOOGLE,
    PAGES,
    asking,
    google,
    typed,
)

from broker.web import connect, static, wording
from broker.web.catalogue import _words, browser_pattern, inputs_of, scopes_in_words, service_name
from broker.web.endings import ENDINGS, Kind

FORMS = {name: page for name, page in PAGES.items() if isinstance(page, connect.Form)}


class Reader(HTMLParser):
    """What a page is made of: its tags in order, its text, and its ids."""

    def __init__(self, page: connect.Page) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.html = shown(page)
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for one, attributes in self.tags if one == tag]


def shown(page: connect.Page) -> str:
    return str(connect.render(page).content)


def header(response: Response[Any], name: str) -> str:
    return str(response.headers[name])


def policy(page: connect.Page) -> dict[str, str]:
    rules = header(connect.render(page), "Content-Security-Policy").split("; ")
    return dict(rule.split(" ", 1) for rule in rules)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_never_kept_framed_guessed_or_told_of(name: str) -> None:
    response = connect.render(PAGES[name])
    assert header(response, "Cache-Control") == "no-store"
    assert header(response, "Referrer-Policy") == "no-referrer"
    assert header(response, "X-Content-Type-Options") == "nosniff"
    assert header(response, "Cross-Origin-Opener-Policy") == "same-origin"
    assert response.media_type == "text/html"
    rules = policy(PAGES[name])
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["style-src"] == "'self'"
    assert rules["img-src"] == "data:"  # Pico draws its marks so
    assert ("script-src" in rules) == (name == "telegram")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_for_those_who_hear_it(name: str) -> None:
    page = Reader(PAGES[name])
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}
    assert "content" in ids
    assert len(page.all("fieldset")) == len(page.all("legend"))
    labelled = {one.get("for") for one in page.all("label")}
    for field in [*page.all("input"), *page.all("textarea")]:
        assert field.get("type") == "hidden" or field["id"] in labelled


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_elsewhere_and_nothing_but_telegrams_page_has_a_script(
    name: str,
) -> None:
    page = Reader(PAGES[name])
    styles = [one["href"] for one in page.all("link") if one["rel"] == "stylesheet"]
    assert styles == ["/static/pico.min.css", static.connect_style_url()]
    assert len(page.all("script")) == (1 if name == "telegram" else 0)
    assert not [one for one in page.tags if "src" in one[1] or "style" in one[1]]
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]


@pytest.mark.parametrize("name", [name for name in PAGES if name.endswith("_evil")])
def test_what_others_wrote_is_text_and_nothing_more(name: str) -> None:
    page = Reader(PAGES[name])
    assert "alert(1)" in page.text
    assert "{{ 7 * 7 }}" in page.text  # not 49: a name is not a template
    assert not page.all("script")
    assert not set(page.html) & set("\u202e\u2066\u200b\x07")
    assert "w" * 301 not in page.html
    assert not re.search("[\u0300-\u036f]{4}", page.html)


def test_even_a_template_that_asks_for_nothing_prints_what_is_clean() -> None:
    templates = connect._templates()  # noqa: SLF001 - no page of ours forgets to ask
    template = templates.from_string("{{ text }}{{ number }}")
    assert template.render(text="a\u202e<b>\x07", number=7) == "a&lt;b&gt;7"


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_posted_to_us_with_its_token(name: str) -> None:
    page = Reader(FORMS[name])
    assert [(one["method"], one["action"]) for one in page.all("form")] == [("post", "/taken")]
    tokens = [one["value"] for one in page.all("input") if one.get("name") == "_csrf"]
    assert tokens == [FORMS[name].csrf]


def test_a_form_may_lead_only_where_its_answer_leads() -> None:
    def leading(*urls: str) -> str:
        return policy(asking(leaves_to=urls))["form-action"]

    assert leading() == "'self'"
    assert leading(GOOGLE) == "'self' https:"
    assert leading(GOOGLE, BACK) == "'self' https:"
    assert leading("http://127.0.0.1:9000/authorize?a=b") == "'self' http://127.0.0.1:9000"
    assert leading("http://[::1]:9000/", BACK) == "'self' http://[::1]:9000 https:"
    assert policy(PAGES["end_connected"])["form-action"] == "'none'"
    assert policy(PAGES["device"])["form-action"] == "'none'"


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "//evil.example",
        "/path",
        "https://",
        "https://user@evil.example/",
        "https://a.example\\@b.example/",
        "https://a.example/ b",
        "https://a.example/\n",
        "https://\u0430.example/",
        "https://a.example/" + "x" * 20_480,
        "",
    ],
)
def test_no_link_and_no_redirect_leads_to_a_strange_address(url: str) -> None:
    with pytest.raises(ValueError, match="a link"):
        connect.leave(url)
    with pytest.raises(ValueError, match="a link"):
        connect.render(asking(leaves_to=(url,)))
    if url:
        with pytest.raises(ValueError, match="a link"):
            shown(connect.EndPage(kind="denied", workspace="w", return_url=url))


@pytest.mark.parametrize("host", ["a;script-src", "a,b", "a'b", "*", "*.example"])
def test_an_address_cannot_write_the_policy(host: str) -> None:
    with pytest.raises(ValueError, match="policy"):
        connect.render(asking(leaves_to=(f"http://{host}/",)))


def test_a_redirect_says_nothing_of_where_it_came_from() -> None:
    response = connect.leave(GOOGLE)
    assert (response.status_code, header(response, "Location")) == (303, GOOGLE)
    assert header(response, "Referrer-Policy") == "no-referrer"
    assert header(response, "Cache-Control") == "no-store"


def test_the_page_says_who_asks_for_what_where_and_for_whom() -> None:
    text = Reader(PAGES["connect"]).text
    for part in (
        "Acme Travel asks for access to your Google account.",
        "See, change and delete all your calendars",
        "You sign in at accounts.google.com.",
        "You are Ada Lovelace at Acme Travel.",
        "Continue to Google",
    ):
        assert part in text
    assert len(Reader(PAGES["connect"]).all("button")) == 1


def test_an_environment_is_named_unless_it_is_production() -> None:
    assert "Environment" not in Reader(PAGES["connect"]).text
    assert "Environment: staging" in Reader(PAGES["connect_staging"]).text


def test_a_long_list_of_scopes_folds_and_stays_whole() -> None:
    page = Reader(PAGES["connect_staging"])
    assert "And 3 more" in page.text
    assert len(page.all("li")) == 9
    assert page.all("code")  # the one that nobody has described


def test_a_secret_is_typed_unseen_and_never_comes_back() -> None:
    page = connect.ConnectPage(
        workspace="w",
        provider="p",
        inputs=inputs_of(CATALOGUE.get("twilio"), filled={"password": "hunter2", "username": "u"}),
        action="/a",
        csrf="c",
    )
    fields = {one["name"]: one for one in Reader(page).all("input")}
    assert fields["password"]["type"] == "password"
    assert (fields["username"]["type"], fields["username"]["value"]) == ("text", "u")
    assert {one["autocomplete"] for one in fields.values() if one["type"] != "hidden"} == {"off"}
    assert "hunter2" not in shown(page)
    assert repr(page) == "ConnectPage"
    assert "stored encrypted" in Reader(page).text


def test_a_secret_that_somebody_puts_into_an_input_is_not_printed_either() -> None:
    one = connect.Input(name="k", label="K", kind="secret", value="hunter2")
    for field in (one, structs.replace(one, lines=True)):
        assert "hunter2" not in shown(structs.replace(typed("zendesk"), inputs=(field,)))


def test_what_was_refused_is_said_at_its_field() -> None:
    page = Reader(PAGES["twilio_refused"])
    field = next(one for one in page.all("input") if one["name"] == "password")
    assert field["aria-invalid"] == "true"
    assert field["aria-describedby"] == "password-problem"
    assert "Twilio did not accept this." in page.text
    assert [one["role"] for one in page.all("p") if "role" in one] == ["alert"]


def test_what_a_person_fills_in_follows_from_the_providers_file() -> None:
    def names(provider_id: str) -> list[str]:
        return [one.name for one in inputs_of(CATALOGUE.get(provider_id))]

    assert names("google") == []
    assert names("zendesk") == ["subdomain"]
    assert names("api-key") == names("telegram-bot") == ["api_key"]
    assert names("basic") == ["username", "password"]
    assert names("custom-header") == ["header_name", "header_value"]
    assert names("woocommerce") == ["store_host", "consumer_key", "consumer_secret"]
    (subdomain,) = inputs_of(CATALOGUE.get("zendesk"))
    assert (subdomain.label, subdomain.example) == ("Subdomain of the account", "acme")
    assert subdomain.required
    assert inputs_of(CATALOGUE.get("salesforce"))[0].value == "login.salesforce.com"
    key = next(one for one in inputs_of(CATALOGUE.get("google-service-account")) if one.lines)
    assert (key.name, key.kind) == ("private_key_pem", "secret")


def test_every_pattern_is_one_that_a_browser_takes() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js (.ci/run installs it)")
    rows = [
        (one.pattern, one.example)
        for provider in CATALOGUE.all()
        for one in inputs_of(provider)
        if one.pattern
    ]
    assert len(rows) > 20
    # As a browser does: anchored, and with the flag "v"; an example has to fit.
    script = (
        "for (const [pattern, example] of JSON.parse(process.argv[1])) {"
        "  const made = new RegExp(`^(?:${pattern})$`, 'v');"
        "  if (example && !made.test(example)) throw new Error(pattern); }"
    )
    subprocess.run([node, "-e", script, json.dumps(rows)], check=True, timeout=60)


@pytest.mark.parametrize(
    ("ours", "browsers"),
    [
        ("^[a-z0-9-]+$", r"[a-z0-9\-]+"),
        ("^[-a(|]$", r"[\-a\(\|]"),
        (r"^[^/\-]+(?!\n)$", r"[^\/\-]+"),
        (r"^a\[b$", r"a\[b"),
        (r"^[0-9]{5,20}$", "[0-9]{5,20}"),
    ],
)
def test_a_pattern_in_the_browsers_dialect(ours: str, browsers: str) -> None:
    assert browser_pattern(ours) == browsers


def test_every_scope_that_the_catalogue_names_has_words() -> None:
    bare = {
        f"{provider.id}: {scope.raw}"
        for provider in CATALOGUE.all()
        for scope in scopes_in_words(
            provider,
            (*provider.scopes.default, *provider.scopes.suggested, *provider.scopes.offline),
        )
        if scope.words is None
    }
    # An app's own permissions, which no person consents to.
    assert bare == {"microsoft-app-only: https://graph.microsoft.com/.default"}


def test_words_are_only_for_providers_that_exist() -> None:
    assert _words().keys() - {"any"} <= set(CATALOGUE.ids())
    for family in _words().values():
        for words in family.values():
            assert words[0].isupper()
            assert not words.endswith(".")
            assert len(words) <= 90


def test_a_scope_is_described_by_its_own_provider() -> None:
    def said(provider_id: str, *raw: str) -> list[str | None]:
        return [one.words for one in scopes_in_words(CATALOGUE.get(provider_id), raw)]

    assert said("slack", "users:read") == ["See the people in your workspace"]
    assert said("calendly", "users:read") == ["See your profile"]
    assert said("slack-user", "users:read") == said("slack", "users:read")
    assert said("oidc", "openid", "unheard.of") == ["Know that it is you", None]
    assert said("fitbit", "profile") == ["See your profile"]
    assert len(said("salesforce", "refresh_token", "offline_access")) == 1
    assert google("calendar")[0].raw == "https://www.googleapis.com/auth/calendar"


@pytest.mark.parametrize(
    ("provider_id", "integration", "name"),
    [
        ("slack", "slack", "Slack"),
        ("microsoft", "ms", "Microsoft"),
        ("oidc", "order_desk", "Order desk"),
        ("google-calendar", "calendar", "Google Calendar"),
    ],
)
def test_a_service_is_called_as_people_call_it(
    provider_id: str, integration: str, name: str
) -> None:
    assert service_name(CATALOGUE.get(provider_id), integration) == name


def test_there_is_an_ending_for_every_kind() -> None:
    assert set(ENDINGS) == set(get_args(Kind))
    titles = {one.title for one in ENDINGS.values()}
    assert len(titles) == len(ENDINGS) - 1  # denied and not_you both say that nothing was connected
    for ending in ENDINGS.values():
        assert ending.status < 500 or ending.status == 503


@pytest.mark.parametrize("kind", get_args(Kind))
def test_there_is_a_way_back_only_if_there_is_where_to(kind: Kind) -> None:
    without, with_it = Reader(PAGES[f"end_{kind}"]), Reader(PAGES[f"end_{kind}_back"])
    assert BACK not in [one.get("href") for one in without.all("a")]
    assert [one.get("href") for one in with_it.all("a")].count(BACK) == 1
    assert "Back to Acme Travel" in with_it.text
    assert connect.render(PAGES[f"end_{kind}"]).status_code == ENDINGS[kind].status


def test_an_end_says_what_is_missing_and_never_whose_account_was_there_before() -> None:
    assert "Read, write and send e-mail" in Reader(PAGES["end_narrower"]).text
    wrong = Reader(PAGES["end_wrong_account"]).text
    assert "Account countess@other.example" in wrong
    assert ACCOUNT not in wrong
    assert "req_5f3c2a" in Reader(PAGES["end_provider_error"]).text


def test_a_link_that_says_nothing_to_us_names_nobody() -> None:
    page = Reader(PAGES["end_nobody"])
    assert "This link no longer works" in page.text
    assert "for the app that sent you here." in page.text


def test_the_last_look_names_everybody_and_offers_both_answers() -> None:
    page = Reader(PAGES["confirm"])
    for part in ("Is this you?", "Acme Travel", "Ada Lovelace", "ada@lovelace.example", "Google"):
        assert part in page.text
    assert [(one["name"], one["value"]) for one in page.all("button")] == [
        ("_answer", "yes"),
        ("_answer", "no"),
    ]


def test_one_of_several_sites_has_to_be_chosen_and_none_is_chosen_for_you() -> None:
    radios = [one for one in Reader(PAGES["choice"]).all("input") if one["type"] == "radio"]
    assert [one["value"] for one in radios] == ["1", "2", "3"]
    assert {one["name"] for one in radios} == {"_choice"}
    assert all("required" in one and "checked" not in one for one in radios)


def test_the_device_page_asks_again_until_it_is_paused() -> None:
    going, paused = (connect.render(PAGES[name]) for name in ("device", "device_paused"))
    assert header(going, "Refresh") == "5;url=/page/device"
    assert "Refresh" not in paused.headers
    assert "WDJB-MJHT" in Reader(PAGES["device"]).text
    links = Reader(PAGES["device"]).all("a")
    assert {"https://github.example/login/device", "/page/device_paused"} <= {
        one["href"] for one in links
    }
    assert next(one for one in links if one.get("target"))["rel"] == "noopener noreferrer"


@pytest.mark.parametrize(
    "again", ["//evil.example", "https://evil.example", "/a b", "/a\n", "/a;b"]
)
def test_the_device_page_asks_nobody_but_us(again: str) -> None:
    page = structs.replace(PAGES["device"], again=again)
    with pytest.raises(ValueError, match="path of ours"):
        connect.render(page)


def test_a_name_is_isolated_cut_and_cleaned() -> None:
    assert wording.name("Ada") == "<bdi>Ada</bdi>"
    assert wording.short("a\u202eb\u2069c\u200bd\n\te") == "abcd e"
    assert wording.short("x" * 81) == "x" * 79 + "…"
    assert wording.short("👩\u200d👧 می\u200cرم e\u0301") == "👩\u200d👧 می\u200cرم é"
    assert wording.short("\u3164\u2800\u200d") == ""
    assert len(wording.short(EVIL, 200)) == 200
    assert wording.initial("  «acme»") == "A"
    assert wording.initial("★") == "·"
