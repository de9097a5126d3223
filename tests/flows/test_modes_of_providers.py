"""Every other way to connect, by files of the real catalogue: Jira, Apple, Telegram, Trello."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from support.abroad import SITES, Abroad
from support.api import Api
from support.connecting import SECRET, invite
from support.journeys import BACK, connection, connections, left, made, returned
from support.visitor import Shown, Visitor

from broker.sandbox import Client, ClientKey, Consent

EC = ec.generate_private_key(ec.SECP256R1())
PRIVATE = EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
BOT = "1234567:" + "a" * 35


@pytest.fixture
async def api(abroad: Abroad) -> Api:
    return await abroad.workspace()


@pytest.fixture
async def ada(abroad: Abroad) -> AsyncIterator[Visitor]:
    async with abroad.visiting() as found:
        yield found


async def integrated(
    api: Api, abroad: Abroad, provider: str, client: Client | None = None, **body: Any
) -> None:
    """The integration, and its client at the sandbox, which consents at once."""
    callback = f"{abroad.base}/oauth/{provider}/callback"
    known = client or Client(secret=SECRET)
    abroad.outside.state.clients["app"] = Client(
        secret=known.secret, keys=known.keys, redirect_uris=[callback]
    )
    abroad.outside.state.consent = Consent(auto="allow")
    made(await api.put("/v1/integrations/acme", {"provider": provider, "client_id": "app", **body}))


async def jira(api: Api, abroad: Abroad) -> None:
    await integrated(api, abroad, "jira", client_secret=SECRET)


async def test_one_of_several_sites_is_chosen(api: Api, abroad: Abroad, ada: Visitor) -> None:
    await jira(api, abroad)
    page = await returned(ada, await invite(api))
    assert page.title == "Choose what to connect"
    assert all(site["name"] in page.text for site in SITES)
    waiting = await connection(api)
    assert (waiting["state"], waiting["needs"]) == ("pending", "choice")
    confirmation = await ada.submit(page, _choice="1")
    assert confirmation.title == "Is this you?"
    assert (await connection(api))["needs"] == "confirm"
    await ada.submit(confirmation, _answer="yes")
    found = await connection(api)
    assert (found["state"], found["needs"]) == ("active", None)
    assert found["extras"] == {
        "cloud_id": "site-2",
        "site_url": "https://acme-test.example",
        "site_name": "Acme (test)",
    }
    assert found["account"]["email"] == "ada@example.com"


async def test_a_choice_comes_before_the_platforms_code(
    api: Api, abroad: Abroad, ada: Visitor
) -> None:
    await jira(api, abroad)
    session = await invite(api, return_url=BACK)
    page = await returned(ada, session)
    assert page.status == 200
    home = await ada.submit(page, _choice="0")
    path = f"/v1/connect-sessions/{session['id']}/complete"
    done = await api.post(path, {"code": home.query["code"], "user_id": "ada"})
    assert done.json["state"] == "active"
    assert (await connection(api))["extras"]["cloud_id"] == "site-1"


@pytest.mark.parametrize("choice", ["2", "-1", "", "one", "9" * 50, "²"])
async def test_a_choice_that_there_is_not_is_asked_for_again(
    api: Api, abroad: Abroad, ada: Visitor, choice: str
) -> None:
    await jira(api, abroad)
    page = await returned(ada, await invite(api))
    again = await ada.submit(page, _choice=choice)
    assert again.title == "Choose what to connect"
    assert (await ada.submit(again, _choice="0")).title == "Is this you?"


async def test_apples_secret_is_signed_and_its_answer_posted(
    api: Api, abroad: Abroad, ada: Visitor
) -> None:
    await integrated(
        api,
        abroad,
        "apple",
        Client(keys=[ClientKey(algorithm="ES256", key=PUBLIC)]),
        variables={"team_id": "ABCDE12345", "key_id": "KEYID12345", "private_key_pem": PRIVATE},
    )
    posts = await ada.follow(await left(ada, await invite(api)))
    assert 'method="post"' in posts.text
    moved = await ada.submit(posts)  # from their site, so that it may come without a cookie
    confirmation = await ada.follow(moved)
    assert "ada@example.com" in confirmation.text
    await ada.submit(confirmation, _answer="yes")
    found = await connection(api)
    assert found["account"]["id"] == "ada"
    assert made(await api.delete(f"/v1/connections/{found['id']}"))["revoked"] == "revoked"


async def test_telegram_signs_people_in_by_openid_connect(
    api: Api, abroad: Abroad, ada: Visitor
) -> None:
    await integrated(api, abroad, "telegram-oidc", client_secret=SECRET)
    confirmation = await returned(ada, await invite(api))
    await ada.submit(confirmation, _answer="yes")
    found = await connection(api)
    assert found["account"] == {"id": "1815", "email": None, "label": "ada"}


def signed(key: str = BOT, **fields: Any) -> str:
    """What Telegram's widget leaves behind the ``#``."""
    lines = "\n".join(f"{name}={value}" for name, value in sorted(fields.items()))
    digest = hmac.new(hashlib.sha256(key.encode()).digest(), lines.encode(), hashlib.sha256)
    whole = {**fields, "hash": digest.hexdigest()}
    return base64.urlsafe_b64encode(json.dumps(whole).encode()).decode().rstrip("=")


async def widget(api: Api, abroad: Abroad, ada: Visitor) -> Shown:
    """Go to Telegram's widget and come back: the page whose script reads the answer."""
    await integrated(
        api,
        abroad,
        "telegram-login-widget",
        variables={"bot_id": "1234567", "bot_token": BOT},
    )
    leaving = await left(ada, await invite(api))
    assert leaving.location.startswith("https://oauth.telegram.org/auth?")
    asked = {name: one[0] for name, one in parse_qs(urlsplit(leaving.location).query).items()}
    assert (asked["bot_id"], asked["origin"]) == ("1234567", abroad.base)
    return await ada.get(asked["return_to"])


async def test_telegrams_widget_answers_behind_the_hash(
    api: Api, abroad: Abroad, ada: Visitor
) -> None:
    page = await widget(api, abroad, ada)
    answer = signed(id=7, first_name="Ада", username="ada", auth_date=int(time.time()))
    confirmation = await ada.submit(page, tgAuthResult=answer)
    assert confirmation.title == "Is this you?"
    await ada.submit(confirmation, _answer="yes")
    found = await connection(api)
    assert found["account"] == {"id": "7", "email": None, "label": "ada"}
    gone = made(await api.delete(f"/v1/connections/{found['id']}"))
    assert gone["revoked"] == "nothing_to_revoke"


@pytest.mark.parametrize("wrong", ["key", "age", "field", "nothing"])
async def test_an_answer_that_telegram_did_not_sign_connects_nothing(
    api: Api, abroad: Abroad, ada: Visitor, wrong: str
) -> None:
    page = await widget(api, abroad, ada)
    now = int(time.time())
    answers = {
        "key": signed("7654321:" + "b" * 35, id=7, auth_date=now),
        "age": signed(id=7, auth_date=now - 3_600),
        "field": signed(id=7, auth_date=now)[:-4] + "AAAA",
        "nothing": "e30",
    }
    end = await ada.submit(page, tgAuthResult=answers[wrong])
    assert end.title == "That did not work"
    assert await connections(api) == []


async def trello(api: Api, abroad: Abroad) -> None:
    await integrated(
        api, abroad, "trello", client_secret=SECRET, variables={"app_name": "Acme Travel"}
    )


async def test_oauth_1_connects_and_gives_back(api: Api, abroad: Abroad, ada: Visitor) -> None:
    await trello(api, abroad)
    confirmation = await returned(ada, await invite(api))
    assert confirmation.title == "Is this you?", confirmation.text
    await ada.submit(confirmation, _answer="yes")
    found = await connection(api)
    assert (found["account"]["id"], found["expires_at"]) == ("5f2c", None)
    assert made(await api.delete(f"/v1/connections/{found['id']}"))["revoked"] == "revoked"


async def test_oauth_1_knows_a_no_and_comes_back_to_one_browser(
    api: Api, abroad: Abroad, ada: Visitor
) -> None:
    await trello(api, abroad)
    abroad.outside.state.consent = Consent(auto="deny")
    assert (await returned(ada, await invite(api))).title == "Nothing was connected"
    abroad.outside.state.consent = Consent(auto="allow")
    back = await ada.follow(await left(ada, await invite(api)))
    async with abroad.visiting() as somebody:
        assert (await somebody.follow(back)).status == 403
    changed = back.location.replace("oauth_verifier=", "oauth_verifier=x")
    assert (await ada.get(changed)).title in ("That did not work", "This cannot be connected now")
    assert await connections(api) == []
