"""OAuth 1.0a: RFC 5849's own examples, a second opinion, and replies that are no tokens."""

import hashlib
import hmac
from base64 import b64encode
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from authlib.oauth1.rfc5849.signature import (  # type: ignore[import-untyped]
    verify_hmac_sha1,
)
from authlib.oauth1.rfc5849.wrapper import OAuth1Request  # type: ignore[import-untyped]

from vault.egress import Reply, Request
from vault.oauth import oauth1
from vault.oauth.oauth1 import Consumer, Once, Pair
from vault.oauth.replies import NoToken
from vault.oauth.signatures import CallbackRefused
from vault.secret import Secret

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ONCE = Once(NOW, "nonce-1")
URL = "https://trello.com/1/OAuthGetRequestToken"
CONSUMER = Consumer(key="key 1", secret=Secret("s&cret"))
TEMPORARY = Pair(Secret("t-1"), Secret("ts-1"))


def header_of(request: Request) -> str:
    found = dict(request.headers)["Authorization"]
    assert isinstance(found, Secret)
    return found.reveal()


def fields_of(header: str) -> dict[str, str]:
    scheme, _, rest = header.partition(" ")
    assert scheme == "OAuth"
    pairs = (one.split("=", 1) for one in rest.split(", "))
    return {unquote(name): unquote(value.strip('"')) for name, value in pairs}


def reply(body: str, status: int = 200) -> Reply:
    return Reply(status=status, headers=(), body=body.encode())


# Signing


def test_the_signature_base_string_of_rfc_5849() -> None:
    # Section 3.4.1.1.
    protocol = [
        ("oauth_consumer_key", "9djdj82h48djs9d2"),
        ("oauth_token", "kkk9d7dh3k39sjv7"),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_timestamp", "137131201"),
        ("oauth_nonce", "7d8f3e4a"),
    ]
    form = [("c2", ""), ("a3", "2 q")]
    url = "http://EXAMPLE.com:80/request?b5=%3D%253D&a3=a&c%40=&a2=r%20b"
    assert oauth1.base_string("post", url, [*protocol, *form]) == (
        "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q"
        "%26a3%3Da%26b5%3D%253D%25253D%26c%2540%3D%26c2%3D%26oauth_consumer_"
        "key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a%26oauth_signature_m"
        "ethod%3DHMAC-SHA1%26oauth_timestamp%3D137131201%26oauth_token%3Dkkk"
        "9d7dh3k39sjv7"
    )


@pytest.mark.parametrize(
    ("method", "url", "token_secret", "more", "signature"),
    [
        (
            "POST",
            "https://photos.example.net/initiate",
            "",
            {
                "oauth_timestamp": "137131200",
                "oauth_nonce": "wIjqoS",
                "oauth_callback": "http://printer.example.com/ready",
            },
            "74KNZJeDHnMBp0EMJ9ZHt/XKycU=",
        ),
        (
            "POST",
            "https://photos.example.net/token",
            "hdhd0244k9j7ao03",
            {
                "oauth_token": "hh5s93j4hdidpola",
                "oauth_timestamp": "137131201",
                "oauth_nonce": "walatlh",
                "oauth_verifier": "hfdp7dh39dks9884",
            },
            "gKgrFCywp7rO0OXSjdot/IHF7IU=",
        ),
        (
            "GET",
            "http://photos.example.net/photos?file=vacation.jpg&size=original",
            "pfkkdhi9sl3r4s00",
            {
                "oauth_token": "nnch734d00sl2jdk",
                "oauth_timestamp": "137131202",
                "oauth_nonce": "chapoH",
            },
            "MdpQcU8iPSUjWoN/UDMsK2sui9I=",
        ),
    ],
)
def test_the_flow_of_rfc_5849(
    method: str, url: str, token_secret: str, more: dict[str, str], signature: str
) -> None:
    # Section 1.2. It leaves out oauth_version, which we send, so the last step is done here.
    params = {"oauth_consumer_key": "dpf43f3p2l4k3l03", "oauth_signature_method": "HMAC-SHA1"}
    signed = oauth1.base_string(method, url, list((params | more).items()))
    key = f"kd94hf93k423kf44&{token_secret}".encode()
    assert b64encode(hmac.new(key, signed.encode(), hashlib.sha1).digest()).decode() == signature


class _Known:
    def __init__(self, secret: str) -> None:
        self._secret = secret

    def get_client_secret(self) -> str:
        return self._secret

    def get_oauth_token_secret(self) -> str:
        return self._secret


def is_valid(method: str, url: str, header: str, secret: str, token_secret: str | None) -> bool:
    """What authlib, as a server, says."""
    request = OAuth1Request(method, url, body="", headers={"Authorization": header})
    request.client = _Known(secret)
    request.credential = _Known(token_secret) if token_secret else None
    return bool(verify_hmac_sha1(request))


def test_a_server_that_is_not_ours_agrees_with_our_signatures() -> None:
    asking = oauth1.temporary_request(URL, CONSUMER, redirect_uri="https://k.example/cb", once=ONCE)
    assert is_valid("POST", URL, header_of(asking), "s&cret", None)
    assert not is_valid("POST", URL, header_of(asking), "other", None)
    assert not is_valid("POST", URL + "/x", header_of(asking), "s&cret", None)
    ending = oauth1.access_request(URL, CONSUMER, TEMPORARY, verifier="v", once=ONCE)
    assert is_valid("POST", URL, header_of(ending), "s&cret", "ts-1")
    url = "https://api.example.com:8443/a%20b?x=1&x=0&e=%C3%A9&empty="
    header = oauth1.authorization("get", url, CONSUMER, TEMPORARY, ONCE).reveal()
    assert is_valid("GET", url, header, "s&cret", "ts-1")


def test_a_callback_address_is_escaped_once_and_signed_as_it_is() -> None:
    redirect = "https://k.example/cb?next=%2Fa%20b&x=1"
    header = header_of(oauth1.temporary_request(URL, CONSUMER, redirect_uri=redirect, once=ONCE))
    said = fields_of(header)
    assert said["oauth_callback"] == redirect
    protocol = [(name, value) for name, value in said.items() if name != "oauth_signature"]
    signed = "&".join(
        f"{name}={value}".replace("%", "%25").replace(":", "%3A").replace("/", "%2F")
        for name, value in sorted(protocol)
    )
    assert "%252Fa%2520b" in signed
    digest = hmac.new(
        b"s%26cret&", oauth1.base_string("POST", URL, protocol).encode(), hashlib.sha1
    )
    assert said["oauth_signature"] == b64encode(digest.digest()).decode()
    # authlib unescapes it a second time, which is why it does not sign here.
    assert not is_valid("POST", URL, header, "s&cret", None)


def test_hmac_sha256_is_named_and_used() -> None:
    consumer = Consumer(key="k", secret=Secret("s"), signature="HMAC-SHA256")
    said = fields_of(oauth1.authorization("POST", URL, consumer, None, ONCE).reveal())
    protocol = [(name, value) for name, value in said.items() if name != "oauth_signature"]
    text = oauth1.base_string("POST", URL, protocol)
    expected = b64encode(hmac.new(b"s&", text.encode(), hashlib.sha256).digest()).decode()
    assert said["oauth_signature"] == expected
    assert said["oauth_signature_method"] == "HMAC-SHA256"


def test_a_form_is_signed_too_and_order_does_not_matter() -> None:
    made = [
        oauth1.authorization("POST", URL, CONSUMER, TEMPORARY, ONCE, form=form).reveal()
        for form in ([("a", "1"), ("b", "2")], [("b", "2"), ("a", "1")], [("a", "1")])
    ]
    assert made[0] == made[1] != made[2]


def test_a_request_says_when_it_was_made_and_is_like_no_other() -> None:
    one = oauth1.temporary_request(URL, CONSUMER, redirect_uri="https://k/cb", once=ONCE)
    said = fields_of(header_of(one))
    assert said["oauth_timestamp"] == str(int(NOW.timestamp()))
    assert (said["oauth_nonce"], said["oauth_version"]) == ("nonce-1", "1.0")
    other = Once(NOW, "nonce-2")
    again = oauth1.temporary_request(URL, CONSUMER, redirect_uri="https://k/cb", once=other)
    assert fields_of(header_of(again))["oauth_signature"] != said["oauth_signature"]
    assert (one.method, one.url, one.body) == ("POST", URL, b"")
    for shown in (repr(one), repr(CONSUMER), repr(TEMPORARY)):
        assert "cret" not in shown
        assert "t-1" not in shown


# What comes back


def test_the_person_is_sent_with_the_temporary_token() -> None:
    issued = oauth1.temporary(
        reply("oauth_token=a%2Fb&oauth_token_secret=s&oauth_callback_confirmed=true"), now=NOW
    )
    url = oauth1.authorize_url(
        "https://trello.com/1/OAuthAuthorizeToken",
        issued,
        {"name": "My app", "scope": "read,write", "oauth_token": "evil"},
    )
    query = parse_qs(urlsplit(url).query)
    assert query == {"name": ["My app"], "scope": ["read,write"], "oauth_token": ["a/b"]}


@pytest.mark.parametrize(
    "body",
    [
        "oauth_token=a&oauth_token_secret=s",
        "oauth_token=a&oauth_token_secret=s&oauth_callback_confirmed=false",
        "oauth_token=a&oauth_token_secret=s&oauth_callback_confirmed=True",
        "oauth_token=a&oauth_token_secret=s&oauth_callback_confirmed=",
        "oauth_token=a&oauth_callback_confirmed=true",
        "oauth_token=&oauth_token_secret=s&oauth_callback_confirmed=true",
        "oauth_token_secret=s&oauth_callback_confirmed=true",
    ],
)
def test_attack_a_temporary_token_that_is_not_tied_to_our_callback(body: str) -> None:
    with pytest.raises(NoToken):
        oauth1.temporary(reply(body), now=NOW)


@pytest.mark.parametrize(
    "pairs",
    [
        [("oauth_token", "t-2"), ("oauth_verifier", "v")],
        [("oauth_token", ""), ("oauth_verifier", "v")],
        [("oauth_verifier", "v")],
        [("oauth_token", "t-1")],
        [("oauth_token", "t-1"), ("oauth_verifier", "")],
        [("oauth_token", "t-1"), ("oauth_verifier", "a\nb")],
        [("oauth_token", "t-1"), ("oauth_verifier", "é")],
        [("oauth_token", "t-1"), ("oauth_token", "t-1"), ("oauth_verifier", "v")],
        [("oauth_token", "t-1"), ("oauth_verifier", "v"), ("oauth_verifier", "w")],
        [("oauth_token", "\udcff"), ("oauth_verifier", "v")],
    ],
)
def test_attack_a_callback_of_another_flow(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(CallbackRefused):
        oauth1.verifier_in(pairs, TEMPORARY)


def test_a_callback_of_this_flow_gives_the_verifier() -> None:
    pairs = [("oauth_token", "t-1"), ("oauth_verifier", "v-1")]
    assert oauth1.verifier_in(pairs, TEMPORARY) == "v-1"


def test_the_token_keeps_its_secret_beside_it() -> None:
    tokens = oauth1.access(
        reply("oauth_token=t&oauth_token_secret=s3nt&user_id=7&screen_name=ada\n"),
        capture={"user": "user_id", "absent": "nothing"},
        now=NOW,
    )
    assert tokens.access_token == Secret("t")
    assert tokens.values == {"token_secret": Secret("s3nt")}
    assert tokens.extras == {"user": "7"}
    assert (tokens.expires_at, tokens.refresh_token) == (None, None)
    assert "s3nt" not in repr(tokens)


@pytest.mark.parametrize(
    "answer",
    [
        reply(""),
        reply("s3ntinel"),
        reply("oauth_problem=token_rejected"),
        reply("oauth_token=t&oauth_token_secret=s", status=401),
        reply("oauth_token=t&oauth_token_secret=s", status=302),
        reply("oauth_token=t&oauth_token=u&oauth_token_secret=s"),
        reply("oauth_token=t%0d%0aX:1&oauth_token_secret=s"),
        reply("oauth_token=t%20u&oauth_token_secret=s"),
        reply("oauth_token=%C3%A9&oauth_token_secret=s"),
        reply(f"oauth_token={'t' * 32_769}&oauth_token_secret=s"),
        reply('{"oauth_token": "t", "oauth_token_secret": "s"}'),
        reply("&".join(f"a{n}=1" for n in range(60))),
        Reply(status=200, headers=(), body=b"\xff\xfe"),
    ],
)
def test_attack_a_reply_that_is_no_token(answer: Reply) -> None:
    with pytest.raises(NoToken) as caught:
        oauth1.access(answer, capture={}, now=NOW)
    assert "s3ntinel" not in caught.value.message


def test_a_refused_app_and_an_overloaded_server_are_told_apart() -> None:
    for status, outcome in ((401, "client"), (429, "throttled"), (503, "ambiguous")):
        with pytest.raises(NoToken) as caught:
            oauth1.access(reply("", status=status), capture={}, now=NOW)
        assert caught.value.failure.outcome == outcome
