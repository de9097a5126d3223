"""Profiles of agents: what may be written in one, and what is refused, with where it stands."""

from typing import Any

import msgspec
import pytest
from joserfc.jwk import ECKey, OKPKey

from broker.profile import DELIVERIES, OURS, Profile, check
from vault.errors import DeliveryNotPossible, Invalid

EC = dict(ECKey.generate_key("P-256").as_dict(private=False))
TOKEN = {"from": "connection", "integration": "google", "field": "token"}


def read(written: dict[str, Any]) -> Profile:
    profile = msgspec.convert(written, Profile)
    check(profile)
    return profile


def with_variable(name: str, variable: dict[str, Any]) -> dict[str, Any]:
    return {"variables": {name: variable}}


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"runtime": "sealed", "public_key": EC, "delivery": "sealed"},
        {"public_key": dict(OKPKey.generate_key("X25519").as_dict(private=False))},
        {"tools": "gateway", "delivery": "handle", "min_ttl": 0},
        {"integrations": [{"integration": "google", "scopes": ["mail.read"], "required": False}]},
        {
            "integrations": [
                {
                    "integration": "google",
                    "allow": [{"methods": ["GET", "POST"], "path": "/calendar/v3/*"}],
                }
            ]
        },
        {"overrides": ["agent.prompt.prompt", "tts.voice_id"]},
        {"inbound_trust": "caller_id"},
        with_variable("secret__cal", TOKEN),
        with_variable("secret__cal", {**TOKEN, "field": "authorization", "default": "none"}),
        with_variable("cal_generation", {**TOKEN, "field": "generation"}),
        with_variable("site", {**TOKEN, "field": "extra:instance_url"}),
        with_variable("plan", {"from": "user", "attribute": "plan", "default": "free"}),
        with_variable("host", {"from": "environment", "label": "API_HOST"}),
        with_variable("secret__key", {"from": "environment", "label": "API_KEY"}),
        with_variable("mood", {"from": "client", "default": "calm"}),
        with_variable("limit", {"value": 3}),
        with_variable("quiet", {"value": False}),
        with_variable("user_name", {"value": "Ada"}),
    ],
)
def test_a_profile_that_keeps_the_rules_is_taken_and_reads_back_the_same(
    written: dict[str, Any],
) -> None:
    profile = read(written)
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile


@pytest.mark.parametrize(
    "written",
    [
        {"runtime": "vapi"},
        {"delivery": "server"},
        {"tools": "both"},
        {"min_ttl": -1},
        {"nothing": 1},
        {"public_key": {**EC, "d": "the private part"}},
        {"integrations": [{"integration": "Google"}]},
        {"integrations": [{"integration": "google", "scopes": ["a b"]}]},
        {"integrations": [{"integration": "google", "allow": [{"methods": [], "path": "/"}]}]},
        {"integrations": [{"integration": "google", "allow": [{"methods": ["GET"], "path": "x"}]}]},
        {
            "integrations": [
                {"integration": "google", "allow": [{"methods": ["GET"], "path": "/a?b"}]}
            ]
        },
        {"overrides": ["agent..prompt"]},
        with_variable("cal-1", TOKEN),
        with_variable("", TOKEN),
        with_variable("x\n", TOKEN),
        with_variable("secret__cal", {**TOKEN, "field": "refresh_token"}),
        with_variable("secret__cal", {**TOKEN, "field": "extra:"}),
        with_variable("x", {"from": "model"}),
        with_variable("x", {"value": [1]}),
        with_variable("x", {"value": {"secret": 1}}),
    ],
)
def test_what_is_not_in_the_form_of_a_profile_is_not_read(written: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(written, Profile)


@pytest.mark.parametrize(
    ("written", "where"),
    [
        (with_variable("cal", TOKEN), "/variables/cal"),
        (with_variable("cal", {**TOKEN, "field": "authorization"}), "/variables/cal"),
        (with_variable("Secret__cal", TOKEN), "/variables/Secret__cal"),
        (with_variable("secret_cal", TOKEN), "/variables/secret_cal"),
        (with_variable("secret__x", {"from": "client"}), "/variables/secret__x/from"),
        (with_variable("secret__x", {"value": "s"}), "/variables/secret__x/value"),
        (with_variable("secret__x", {**TOKEN, "default": 1}), "/variables/secret__x/default"),
        (with_variable("system__time", {"value": 1}), "/variables/system__time"),
        (with_variable("x", {}), "/variables/x/value"),
        (with_variable("x", {"value": 1, "default": 2}), "/variables/x/default"),
        (with_variable("x", {"value": 1, "label": "A"}), "/variables/x/label"),
        (with_variable("x", {"from": "client", "value": 1}), "/variables/x/value"),
        (with_variable("x", {"from": "user"}), "/variables/x/attribute"),
        (
            with_variable("x", {"from": "user", "label": "A", "attribute": "a"}),
            "/variables/x/label",
        ),
        (with_variable("x", {"from": "environment"}), "/variables/x/label"),
        (
            with_variable("x", {"from": "connection", "field": "generation"}),
            "/variables/x/integration",
        ),
        (
            with_variable("x", {"from": "connection", "integration": "google"}),
            "/variables/x/field",
        ),
        (
            {"integrations": [], **with_variable("secret__cal", TOKEN)},
            "/variables/secret__cal/integration",
        ),
        (
            {"integrations": [{"integration": "a"}, {"integration": "b"}, {"integration": "a"}]},
            "/integrations/2/integration",
        ),
        ({"public_key": {**EC, "crv": "X25519"}}, "/public_key/crv"),
        ({"public_key": {**EC, "x": "a" * 43}}, "/public_key"),
        ({"public_key": {"kty": "OKP", "crv": "X25519", "x": "A" * 43}}, "/public_key"),
        ({"public_key": {"kty": "EC", "crv": "P-256", "x": "a"}}, "/public_key/y"),
        ({"public_key": {"kty": "OKP", "crv": "X25519", "x": "a", "y": "b"}}, "/public_key/y"),
        *((with_variable(name, {"value": "x"}), f"/variables/{name}") for name in sorted(OURS)),
    ],
)
def test_a_broken_rule_is_said_with_where_it_is_broken(written: dict[str, Any], where: str) -> None:
    with pytest.raises(Invalid) as refused:
        read(written)
    assert refused.value.pointer == where


@pytest.mark.parametrize(
    ("runtime", "delivery", "possible"),
    [
        (None, "relay", True),
        ("elevenlabs", "sealed", False),
        ("livekit", "handle", True),
        ("livekit", "inline", False),
        ("sealed", "relay", False),
    ],
)
def test_a_delivery_that_the_runtime_can_never_do_is_refused(
    runtime: str | None, delivery: str, *, possible: bool
) -> None:
    written = {"delivery": delivery, **({"runtime": runtime} if runtime else {})}
    if possible:
        read(written)
        return
    with pytest.raises(DeliveryNotPossible):
        read(written)


def test_the_usual_way_stands_first() -> None:
    first = {place: ways[0] for place, ways in DELIVERIES.items()}
    assert first["elevenlabs", "websocket"] == "relay"
    assert first["elevenlabs", "webrtc"] == "handle"
    assert first["livekit", "webrtc"] == "handle"
    assert first["sealed", "websocket"] == "sealed"


@pytest.mark.parametrize("path", ["/a/../b", "/a//b", "/a/**/b", "/a/%2fb", "/users*", "/a/%zz"])
def test_a_path_that_could_never_be_called_is_refused_when_it_is_written(path: str) -> None:
    allow = [{"methods": ["GET"], "path": "/fine"}, {"methods": ["GET"], "path": path}]
    with pytest.raises(Invalid) as refused:
        read({"integrations": [{"integration": "a"}, {"integration": "google", "allow": allow}]})
    assert refused.value.pointer == "/integrations/1/allow/1/path"
