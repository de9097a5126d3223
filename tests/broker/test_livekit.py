"""A LiveKit token lets one person into one room, and calls an agent in with a handle."""

import json
from datetime import UTC, datetime

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from broker.runtimes.livekit import Entry, Project, join_token
from vault.bearer import generate
from vault.secret import Secret

SECRET = "livekit-secret-of-the-workspace-0123456789"
PROJECT = Project(url="wss://acme.livekit.cloud", api_key="APIabc", api_secret=Secret(SECRET))
NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)


def entry() -> Entry:
    return Entry(
        conversation_id="kcv_01k9v7q3x8w2r5t6y7z8a9b0c1",
        agent_id="scheduler",
        user_id="ada",
        environment="staging",
        handle=generate("handle"),
    )


def claims_of(token: Secret, secret: str = SECRET) -> dict[str, object]:
    return dict(jwt.decode(token.reveal(), OctKey.import_key(secret), ["HS256"]).claims)


def test_it_lets_one_person_into_the_conversations_own_room() -> None:
    one = entry()
    claims = claims_of(join_token(PROJECT, one, NOW))

    assert claims["iss"] == "APIabc"
    assert claims["sub"] == "ada"
    assert claims["nbf"] == int(NOW.timestamp())
    assert claims["exp"] == int(NOW.timestamp()) + 900
    assert claims["video"] == {
        "room": one.conversation_id,
        "roomJoin": True,
        "canPublish": True,
        "canSubscribe": True,
        "canPublishData": True,
    }


def test_the_agent_is_called_in_with_a_handle_and_nothing_else() -> None:
    one = entry()
    claims = claims_of(join_token(PROJECT, one, NOW))

    config = claims["roomConfig"]
    assert isinstance(config, dict)
    [agent] = config["agents"]
    assert agent["agentName"] == "scheduler"
    assert json.loads(agent["metadata"]) == {
        "keyturn_conversation_id": one.conversation_id,
        "keyturn_handle": one.handle.reveal(),
        "environment": "staging",
    }


def test_it_is_signed_with_the_projects_secret_alone() -> None:
    token = join_token(PROJECT, entry(), NOW)

    with pytest.raises(JoseError):
        claims_of(token, "another-secret-of-the-right-length-0123456789")


def test_nothing_of_it_shows_in_a_repr() -> None:
    assert SECRET not in repr(PROJECT)
    assert "kth_" not in repr(entry())
