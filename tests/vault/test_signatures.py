"""Callbacks that are signed, and what somebody in between could do to them.

The digests are made here with hashlib, from the providers' own descriptions.
"""

import hashlib
import hmac
import json
from base64 import b64encode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vault.errors import Invalid
from vault.oauth.app import App
from vault.oauth.signatures import CallbackRefused, Pairs, single, telegram_pairs, verified
from vault.providers import Catalogue
from vault.secret import Secret

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
AT = int(NOW.timestamp())
SHOP_SECRET, BOT_TOKEN = "hush", "123456:" + "A" * 35
OURS = Catalogue()
SHOPIFY = App(
    provider=OURS.get("shopify"),
    client_id="c",
    client_secrets=(Secret("older"), Secret(SHOP_SECRET)),
    values={"shop": "acme"},
)
# By openssl dgst, so that this module and the product cannot err together.
FROZEN_HASH = "6692621c6f0a541da2514301e6b5f1b40d59dc16a95b4aeef439895f05cb94ce"
TELEGRAM = App(
    provider=OURS.get("telegram-login-widget"),
    values={"bot_id": "123456", "bot_token": Secret(BOT_TOKEN)},
)
CALLBACK = {
    "code": "0907a61c0c8d55e99db179b68161bc00",
    "host": "YWRtaW4uc2hvcGlmeS5jb20vc3RvcmUvYWNtZQ",
    "shop": "acme.myshopify.com",
    "state": "s-1",
    "timestamp": str(AT),
}
PERSON = {"auth_date": str(AT), "first_name": "Ada", "id": "4242", "username": "ada"}


def shopify(fields: dict[str, str], secret: str = SHOP_SECRET) -> list[tuple[str, str]]:
    text = "&".join(f"{name}={fields[name]}" for name in sorted(fields))
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
    return [*fields.items(), ("hmac", digest)]


def telegram(fields: dict[str, str], token: str = BOT_TOKEN) -> list[tuple[str, str]]:
    text = "\n".join(f"{name}={fields[name]}" for name in sorted(fields))
    key = hashlib.sha256(token.encode()).digest()
    return [*fields.items(), ("hash", hmac.new(key, text.encode(), hashlib.sha256).hexdigest())]


def refused(app: App, pairs: Pairs, now: datetime = NOW) -> str:
    with pytest.raises(CallbackRefused) as caught:
        verified(app, pairs, now=now)
    assert isinstance(caught.value, Invalid)
    assert caught.value.__cause__ is None
    return caught.value.message


# Shopify


def test_shopifys_example_of_its_own_documentation() -> None:
    # Where the secret is "hush".
    pairs = [
        ("code", "0907a61c0c8d55e99db179b68161bc00"),
        ("shop", "some-shop.myshopify.com"),
        ("state", "0.6784241404160823"),
        ("timestamp", "1337178173"),
        ("hmac", "700e2dadb827fcc8609e9d5ce208b2e9cdaab9df07390d2cbca10d7c328fc4bf"),
    ]
    asked = App(
        provider=SHOPIFY.provider,
        client_secrets=(Secret("hush"),),
        values={"shop": "some-shop"},
    )
    then = datetime.fromtimestamp(1_337_178_173, UTC)
    assert verified(asked, pairs, now=then)["shop"] == "some-shop.myshopify.com"


def test_a_callback_of_shopify_is_taken_whichever_of_the_secrets_signed_it() -> None:
    for secret in (SHOP_SECRET, "older"):
        found = verified(SHOPIFY, shopify(CALLBACK, secret), now=NOW)
        assert found["code"] == CALLBACK["code"]
    assert "signature" in refused(SHOPIFY, shopify(CALLBACK, "another"))
    assert "signature" in refused(SHOPIFY, shopify(CALLBACK, ""))


@pytest.mark.parametrize("name", [*CALLBACK, "hmac"])
def test_attack_any_parameter_changed_dropped_or_added(name: str) -> None:
    pairs = shopify(CALLBACK)
    changed = [(key, value + "0" if key == name else value) for key, value in pairs]
    assert "signature" in refused(SHOPIFY, changed)
    assert refused(SHOPIFY, [pair for pair in pairs if pair[0] != name])
    assert "signature" in refused(SHOPIFY, [*pairs, ("protocol", "https://")])


@pytest.mark.parametrize("name", [*CALLBACK, "hmac"])
def test_attack_a_parameter_that_comes_twice(name: str) -> None:
    pairs = shopify(CALLBACK)
    again = next(pair for pair in pairs if pair[0] == name)
    for evil in (again, (name, "evil"), (name, "")):
        assert "twice" in refused(SHOPIFY, [*pairs, evil])
        assert "twice" in refused(SHOPIFY, [evil, *pairs])


def test_attack_one_value_that_looks_like_two_parameters() -> None:
    signed = dict(shopify({"code": "1", "shop": "acme.myshopify.com", "timestamp": str(AT)}))
    glued = {"code": f"1&shop=acme.myshopify.com&timestamp={AT}", "hmac": signed["hmac"]}
    assert "signature" in refused(SHOPIFY, list(glued.items()))
    glued = {"code=1&shop": "acme.myshopify.com", "timestamp": str(AT), "hmac": signed["hmac"]}
    assert "signature" in refused(SHOPIFY, list(glued.items()))


def test_attack_a_name_that_holds_a_part_of_its_value() -> None:
    pairs = dict(shopify(CALLBACK | {"state": "a=b"}))
    assert verified(SHOPIFY, list(pairs.items()), now=NOW)["state"] == "a=b"
    del pairs["state"]
    assert "signature" in refused(SHOPIFY, list((pairs | {"state=a": "b"}).items()))


@pytest.mark.parametrize(
    "shop",
    [
        "other.myshopify.com",
        "acme",
        "acme.myshopify.com.evil.example",
        "acme.myshopify.com\n",
        "acme.myshopify.com/",
        "ACME.myshopify.com",
        "evil.example/acme.myshopify.com",
        "acme.evil.example",
        "",
    ],
)
def test_attack_another_shop_than_the_flow_began_with(shop: str) -> None:
    assert "another shop" in refused(SHOPIFY, shopify(CALLBACK | {"shop": shop}))


def test_an_hmac_is_64_lower_case_digits_and_nothing_else() -> None:
    pairs = dict(shopify(CALLBACK))
    for odd in (pairs["hmac"].upper(), pairs["hmac"] + "\n", "", "é" * 64, "\udcff" * 64):
        if odd != pairs["hmac"]:
            assert "signature" in refused(SHOPIFY, list((pairs | {"hmac": odd}).items()))


def test_a_signed_callback_grows_old_in_five_minutes() -> None:
    pairs = shopify(CALLBACK)
    assert verified(SHOPIFY, pairs, now=NOW + timedelta(seconds=300))
    assert "too old" in refused(SHOPIFY, pairs, NOW + timedelta(seconds=301))
    assert verified(SHOPIFY, pairs, now=NOW - timedelta(seconds=60))
    assert "future" in refused(SHOPIFY, pairs, NOW - timedelta(seconds=61))
    for odd in ("", "-1", "1e9", "٣" * 9, "9" * 40, f"{AT}\n", f" {AT}"):
        assert "when it was made" in refused(SHOPIFY, shopify(CALLBACK | {"timestamp": odd}))


# Telegram


def test_a_telegram_login_is_taken() -> None:
    assert verified(TELEGRAM, telegram(PERSON), now=NOW)["id"] == "4242"


def test_a_frozen_telegram_login() -> None:
    frozen = [*PERSON.items(), ("hash", FROZEN_HASH)]
    assert verified(TELEGRAM, frozen, now=NOW)["username"] == "ada"


def test_attack_a_telegram_login_by_the_holder_of_another_token() -> None:
    assert "signature" in refused(TELEGRAM, telegram(PERSON, "123456:" + "B" * 35))
    # The webhook-like derivation of Mini Apps is another key.
    key = hmac.new(b"WebAppData", BOT_TOKEN.encode(), hashlib.sha256).digest()
    text = "\n".join(f"{name}={PERSON[name]}" for name in sorted(PERSON))
    digest = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    assert "signature" in refused(TELEGRAM, [*PERSON.items(), ("hash", digest)])


@pytest.mark.parametrize("name", [*PERSON, "hash"])
def test_attack_a_telegram_field_changed_dropped_or_repeated(name: str) -> None:
    pairs = telegram(PERSON)
    changed = [(key, value + "0" if key == name else value) for key, value in pairs]
    assert "signature" in refused(TELEGRAM, changed)
    assert refused(TELEGRAM, [pair for pair in pairs if pair[0] != name])
    assert "twice" in refused(TELEGRAM, [*pairs, (name, "1")])


def test_attack_a_line_feed_that_makes_two_fields_of_one() -> None:
    # Both have the same signed text; only the first was ever signed.
    signed = dict(telegram({"auth_date": str(AT), "first_name": "A\nid=1", "id": "4242"}))
    assert "not what Telegram sends" in refused(TELEGRAM, list(signed.items()))
    split = dict(telegram({"auth_date": str(AT), "first_name": "A", "id": "1"}))
    glued = {"auth_date": f"{AT}\nfirst_name=A", "id": "1", "hash": split["hash"]}
    assert "not what Telegram sends" in refused(TELEGRAM, list(glued.items()))
    named = {"auth_date": str(AT), "first_name=A\nid": "1", "hash": split["hash"]}
    assert "not what Telegram sends" in refused(TELEGRAM, list(named.items()))


@pytest.mark.parametrize("control", ["\r", "\x00", "\x7f", "\t"])
def test_no_control_character_is_taken(control: str) -> None:
    assert refused(TELEGRAM, telegram(PERSON | {"first_name": f"A{control}B"}))


def test_attack_a_stale_auth_date() -> None:
    pairs = telegram(PERSON)
    assert verified(TELEGRAM, pairs, now=NOW + timedelta(seconds=300))
    assert "too old" in refused(TELEGRAM, pairs, NOW + timedelta(seconds=301))
    assert "future" in refused(TELEGRAM, pairs, NOW - timedelta(seconds=61))
    for odd in ("", "0x10", "-5", "1.5"):
        assert "when it was made" in refused(TELEGRAM, telegram(PERSON | {"auth_date": odd}))


def test_a_telegram_id_is_a_number() -> None:
    for odd in ("", "0", "-1", "12a", "1" * 20, "٤٢"):
        assert "who it is about" in refused(TELEGRAM, telegram(PERSON | {"id": odd}))


def test_without_the_bots_token_nothing_is_believed() -> None:
    for values in ({}, {"bot_token": BOT_TOKEN}):
        without: dict[str, Any] = dict(values)
        app = App(provider=TELEGRAM.provider, values=without)
        assert "bot token is missing" in refused(app, telegram(PERSON, ""))


def as_fragment(value: object, *, url_safe: bool = True) -> str:
    data = json.dumps(value).encode()
    return (urlsafe_b64encode(data) if url_safe else b64encode(data)).decode()


def test_the_fragment_of_the_widget_is_read_in_every_spelling() -> None:
    names = {"first_name": "Ада ~~~???>>>"}
    signed = dict(telegram(PERSON | names)) | {"id": 4242, "auth_date": AT}
    for text in (
        as_fragment(signed),
        as_fragment(signed, url_safe=False),
        as_fragment(signed).rstrip("="),
    ):
        assert verified(TELEGRAM, telegram_pairs(text), now=NOW)["first_name"] == "Ада ~~~???>>>"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!",
        "é",
        as_fragment([]),
        as_fragment("x"),
        as_fragment([["id", "1"]]),
        as_fragment({"id": True}),
        as_fragment({"id": None}),
        as_fragment({"id": 1.5}),
        as_fragment({"id": {"a": "b"}}),
        urlsafe_b64encode(b"[" * 5_000).decode(),
        urlsafe_b64encode(b"\xff\xfe").decode(),
        "A" * 8_193,
    ],
)
def test_a_fragment_that_telegram_never_sends(text: str) -> None:
    with pytest.raises(CallbackRefused) as caught:
        telegram_pairs(text)
    assert caught.value.__cause__ is None


def test_attack_a_field_twice_in_the_fragment() -> None:
    pairs = ", ".join(f'"{name}": "{value}"' for name, value in telegram(PERSON))
    text = urlsafe_b64encode(f'{{"id": "1", {pairs}}}'.encode()).decode()
    assert "twice" in refused(TELEGRAM, telegram_pairs(text))


# Callbacks without a signature


def test_an_unsigned_callback_has_every_parameter_once_and_few_of_them() -> None:
    slack = App(provider=OURS.get("slack"))
    assert verified(slack, [("code", "c"), ("state", "s")], now=NOW) == {"code": "c", "state": "s"}
    assert "twice" in refused(slack, [("state", "a"), ("state", "a")])
    assert "twice" in refused(slack, [("code", "a"), ("code", "b")])
    assert "too large" in refused(slack, [(f"p{n}", "") for n in range(51)])
    assert "too large" in refused(slack, [("code", "x" * 8_190)])
    assert single([]) == {}
