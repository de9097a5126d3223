"""The device flow: what a person is shown, and how often we ask."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from vault.egress import Reply
from vault.oauth import device
from vault.oauth.device import Started
from vault.oauth.replies import NoToken
from vault.secret import Secret

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
# RFC 8628 section 3.2.
THEIRS: dict[str, Any] = {
    "device_code": "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://example.com/device",
    "verification_uri_complete": "https://example.com/device?user_code=WDJB-MJHT",
    "expires_in": 1800,
    "interval": 5,
}


def reply(body: Any, status: int = 200, **headers: str) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Reply(status=status, headers=pairs, body=data)


def begun(**changed: Any) -> Started:
    fields = {name: value for name, value in (THEIRS | changed).items() if value is not None}
    return device.started(reply(fields), now=NOW)


def test_the_answer_of_rfc_8628() -> None:
    found = begun()
    assert found.device_code == Secret(THEIRS["device_code"])
    assert (found.user_code, found.address) == ("WDJB-MJHT", "https://example.com/device")
    assert found.address_with_code == THEIRS["verification_uri_complete"]
    assert (found.expires_at, found.interval) == (NOW + timedelta(seconds=1_800), 5)
    assert "GmRh" not in repr(found)


def test_what_may_be_missing_or_spelt_otherwise() -> None:
    assert begun(interval=None).interval == 5
    assert begun(interval="7").interval == 7
    assert begun(interval=10**9).interval == 60
    assert begun(interval=-3).interval == 5
    assert begun(expires_in="900").expires_at == NOW + timedelta(seconds=900)
    assert begun(expires_in=10**9).expires_at == NOW + timedelta(seconds=3_600)
    assert begun(verification_uri_complete=None).address_with_code is None
    assert begun(verification_uri=None, verification_url="https://g.co/device").address
    assert device.started(
        reply(THEIRS | {"verification_uri": "http://127.0.0.1:1/d"}), now=NOW, plain=True
    ).address


@pytest.mark.parametrize(
    "changed",
    [
        {"device_code": None},
        {"device_code": ""},
        {"device_code": "a b"},
        {"device_code": "a\r\nb"},
        {"device_code": 5},
        {"user_code": None},
        {"user_code": "<b>x</b>"},
        {"user_code": "A" * 41},
        {"user_code": " AB"},
        {"user_code": "AB\n"},
        {"user_code": "\u202eAB"},
        {"verification_uri": None},
        {"verification_uri": "http://example.com/device"},
        {"verification_uri": "javascript:alert(1)"},
        {"verification_uri": "https://example.com/\n"},
        {"verification_uri": "https://user@example.com/"},
        {"verification_uri": 'https://example.com/"><script>'},
        {"verification_uri": "https://ex\u0430mple.com/"},
        {"expires_in": None},
        {"expires_in": 0},
        {"expires_in": True},
        {"expires_in": float("nan")},
        {"expires_in": "9" * 5_000},
        {"error": "invalid_client"},
    ],
)
def test_attack_an_answer_that_a_person_must_not_be_shown(changed: dict[str, Any]) -> None:
    with pytest.raises(NoToken):
        begun(**changed)


@pytest.mark.parametrize(
    "answer", [reply(THEIRS, status=400), reply([]), reply(b"\xff"), reply(b"[" * 100_000)]
)
def test_an_answer_that_is_none(answer: Reply) -> None:
    with pytest.raises(NoToken):
        device.started(answer, now=NOW)


def test_an_address_with_a_code_is_left_out_where_it_is_odd() -> None:
    assert begun(verification_uri_complete="javascript:1").address_with_code is None


def polled(body: Any, status: int = 400, interval: int = 5, **headers: str) -> tuple[str, int]:
    answer = reply(body, status, **headers)
    found = device.polled(answer, begun(), interval=interval, now=NOW)
    return found.state, found.interval


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("authorization_pending", ("waiting", 5)),
        ("slow_down", ("waiting", 10)),
        ("access_denied", ("denied", 5)),
        ("expired_token", ("expired", 5)),
        ("invalid_grant", ("failed", 5)),
        ("invalid_client", ("failed", 5)),
        ("s3ntinel", ("failed", 5)),
        (["authorization_pending"], ("failed", 5)),
    ],
)
def test_what_an_answer_means(error: Any, expected: tuple[str, int]) -> None:
    assert polled({"error": error}) == expected


def test_github_says_it_all_with_status_200() -> None:
    assert polled({"error": "authorization_pending"}, status=200) == ("waiting", 5)
    assert polled({"error": "slow_down", "interval": 25}, status=200) == ("waiting", 25)
    assert polled({"access_token": "t"}, status=200) == ("granted", 5)


def test_slowing_down_is_for_good_and_has_an_end() -> None:
    assert polled({"error": "slow_down"}, interval=10) == ("waiting", 15)
    assert polled({"error": "slow_down", "interval": 1}, interval=10) == ("waiting", 15)
    assert polled({"error": "slow_down"}, interval=58) == ("waiting", 60)


def test_an_overloaded_server_is_asked_half_as_often() -> None:
    assert polled({}, status=503) == ("waiting", 10)
    assert polled({}, status=429, Retry_After="30") == ("waiting", 30)
    assert polled({}, status=429, Retry_After="3000") == ("waiting", 60)
    assert device.after_silence(40) == 60


def test_a_failure_says_why_in_words_of_ours() -> None:
    found = device.polled(reply({"error": "s3ntinel"}, 400), begun(), interval=5, now=NOW)
    assert found.failure is not None
    assert "s3ntinel" not in found.failure.detail
    assert found.failure.outcome == "transient"


def test_after_the_code_has_expired_nothing_but_a_token_counts() -> None:
    late = replace(begun(), expires_at=NOW)
    for body, status, state in (
        ({"error": "authorization_pending"}, 400, "expired"),
        ({}, 503, "expired"),
        ({"access_token": "t"}, 200, "granted"),
    ):
        assert device.polled(reply(body, status), late, interval=5, now=NOW).state == state
