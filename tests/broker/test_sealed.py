"""A sealed token opens in its own runtime, once, in time, and nowhere else."""

import base64
import importlib.util
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwe, jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from broker.runtimes import sealed
from broker.runtimes.sealed import Contents, SigningKey
from vault.errors import Invalid
from vault.secret import Secret

CHECKOUT = Path(__file__).resolve().parents[2]
# What random bytes do not hold by chance, as they may hold a short word.
USER, TOKEN = "ada-lovelace-1815", "ya29.sentinel-of-a-token"
ISSUER = "https://keyturn.example.com/v1/jwks/ws_01k9v7q3x8w2r5t6y7z8a9b0c1"
KEYS: tuple[Callable[[], ECKey | OKPKey], ...] = (
    lambda: ECKey.generate_key("P-256"),
    lambda: ECKey.generate_key("P-384"),
    lambda: ECKey.generate_key("P-521"),
    lambda: OKPKey.generate_key("X25519"),
)


def example() -> Any:
    """The example that the documentation shows, as it stands."""
    path = CHECKOUT / "examples" / "runtime.py"
    spec = importlib.util.spec_from_file_location("runtime_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


EXAMPLE = example()


class Scene:
    """A workspace's signing key, an agent's runtime, and a token for it."""

    def __init__(self, private: ECKey | OKPKey) -> None:
        self.private = private
        self.key, x = sealed.new_signing_key()
        self.jwks = {"keys": [sealed.public_jwk(self.key.key_id, x)]}

    @property
    def public(self) -> dict[str, Any]:
        return dict(self.private.as_dict(private=False))

    def runtime(self, *, agent_id: str = "agent_1", issuer: str = ISSUER) -> Any:
        return EXAMPLE.Runtime(issuer, self.jwks, agent_id, self.private)

    def token(
        self,
        *,
        key: SigningKey | None = None,
        now: datetime | None = None,
        public: dict[str, Any] | None = None,
        **variables: str,
    ) -> str:
        made = self.maybe(key=key, now=now, public=public, **variables)
        assert made is not None
        return made.reveal()

    def maybe(
        self,
        *,
        key: SigningKey | None = None,
        now: datetime | None = None,
        public: dict[str, Any] | None = None,
        **variables: str,
    ) -> Secret | None:
        contents = Contents(
            issuer=ISSUER,
            agent_id="agent_1",
            user_id=USER,
            environment="staging",
            variables=variables,
        )
        return sealed.sealed_token(
            contents, key or self.key, public or self.public, now or datetime.now(UTC)
        )


@pytest.fixture(params=KEYS, ids=["P-256", "P-384", "P-521", "X25519"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param())


def test_the_example_opens_it_and_finds_who_where_and_with_what(scene: Scene) -> None:
    claims = scene.runtime().open(scene.token(secret__user_google_token=TOKEN))

    assert claims["sub"] == USER
    assert claims["aud"] == "agent_1"
    assert claims["environment"] == "staging"
    assert claims["variables"] == {"secret__user_google_token": TOKEN}
    assert claims["exp"] - claims["iat"] == 300


def test_who_carries_it_reads_nothing(scene: Scene) -> None:
    token = scene.token(secret__user_google_token=TOKEN)

    decoded = b"".join(base64.urlsafe_b64decode(part + "==") for part in token.split("."))
    for hidden in (TOKEN, USER, "agent_1", "staging", scene.key.key_id):
        assert hidden.encode() not in decoded


def test_a_runtime_takes_it_once(scene: Scene) -> None:
    runtime, token = scene.runtime(), scene.token()
    runtime.open(token)

    with pytest.raises(EXAMPLE.Refused, match="used before"):
        runtime.open(token)
    runtime.open(scene.token())  # another one, with its own jti


def test_the_runtime_of_another_agent_refuses_it(scene: Scene) -> None:
    with pytest.raises(EXAMPLE.Refused, match="another agent"):
        scene.runtime(agent_id="agent_2").open(scene.token())


def test_a_runtime_of_another_workspace_refuses_it(scene: Scene) -> None:
    with pytest.raises(EXAMPLE.Refused, match="another workspace"):
        scene.runtime(issuer=ISSUER[:-1] + "2").open(scene.token())


def test_after_five_minutes_it_is_refused(scene: Scene) -> None:
    fresh = scene.token(now=datetime.now(UTC) - timedelta(seconds=240))
    stale = scene.token(now=datetime.now(UTC) - timedelta(seconds=301))

    scene.runtime().open(fresh)
    with pytest.raises(EXAMPLE.Refused, match="too late"):
        scene.runtime().open(stale)


def test_one_that_somebody_made_for_the_public_key_is_refused(scene: Scene) -> None:
    claims = {
        "iss": ISSUER,
        "aud": "agent_1",
        "sub": "ada",
        "jti": "jti_1",
        "iat": 0,
        "exp": 9_999_999_999,
        "environment": "production",
        "variables": {},
    }
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "cty": "JWT"}

    def encrypted(plaintext: str) -> str:
        return jwe.encrypt_compact(header, plaintext, scene.private, ["ECDH-ES", "A256GCM"])

    forger, _ = sealed.new_signing_key()
    foreign = SigningKey(scene.key.key_id, forger.private)  # under the name of the right key
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    for forged in (
        encrypted(json.dumps(claims)),
        encrypted(f"{unsigned}.{body}."),
        scene.token(key=foreign),
        scene.token(key=forger),
    ):
        with pytest.raises(EXAMPLE.Refused, match="not signed"):
            scene.runtime().open(forged)


def test_a_signature_of_the_right_key_for_another_purpose_is_refused(scene: Scene) -> None:
    private = OKPKey.import_key(json.loads(scene.key.private.reveal()))
    header = {"alg": "Ed25519", "kid": scene.key.key_id, "typ": "JWT"}
    claims = {"iss": ISSUER, "aud": "agent_1", "sub": "ada", "jti": "1", "exp": 9_999_999_999}
    signed = jws.serialize_compact(header, json.dumps(claims), private, ["Ed25519"])
    outside = {"alg": "ECDH-ES", "enc": "A256GCM", "cty": "JWT"}
    token = jwe.encrypt_compact(outside, signed, scene.private, ["ECDH-ES", "A256GCM"])

    with pytest.raises(EXAMPLE.Refused, match="another purpose"):
        scene.runtime().open(token)


def test_every_changed_character_is_refused(scene: Scene) -> None:
    token = scene.token()
    for place in range(0, len(token), 7):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        with pytest.raises(EXAMPLE.Refused):
            scene.runtime().open(changed)


def test_what_is_larger_than_eight_kilobytes_is_not_made(scene: Scene) -> None:
    assert scene.maybe(secret__user_google_token="a" * 8_192) is None
    just = scene.maybe(secret__user_google_token="a" * 3_700)
    assert just is not None
    assert len(just.reveal()) <= 8_192
    scene.runtime().open(just.reveal())  # what is made is small enough to be read, too


def test_the_key_id_of_the_profile_comes_along(scene: Scene) -> None:
    token = scene.token(public={**scene.public, "kid": "mine-1", "use": "enc"})
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))

    assert header["kid"] == "mine-1"
    scene.runtime().open(token)


def test_a_public_key_is_checked_when_it_is_stored(scene: Scene) -> None:
    sealed.check_public_key(scene.public)

    private = dict(scene.private.as_dict(private=True))
    with pytest.raises(Invalid, match="private key") as refused:
        sealed.check_public_key(private)
    assert str(private["d"]) not in str(refused.value)


P256 = {"kty": "EC", "crv": "P-256"}
WRONG = [
    {},
    {"kty": "EC"},
    {**P256, "x": "AAAA", "y": "AAAA"},
    {**P256, "x": 1, "y": None},
    {**P256, "x": "A" * 43, "y": "A" * 43},
    {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43},
    {"kty": "OKP", "crv": "X25519", "x": "A" * 43},  # of low order: agrees on zeros with anybody
    {"kty": "OKP", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
    {"kty": "EC", "crv": "secp256k1", "x": "A" * 43, "y": "A" * 43},
    {"kty": "EC", "crv": ["P-256"], "x": "A" * 43, "y": "A" * 43},
    {**ECKey.generate_key("P-256").as_dict(private=False), "kid": "k" * 201},
    {**ECKey.generate_key("P-256").as_dict(private=False), "kid": 7},
    RSAKey.generate_key(2048).as_dict(private=False),
]


@pytest.mark.parametrize("jwk", WRONG)
def test_what_is_no_public_key_is_refused(jwk: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        sealed.check_public_key(jwk)
    assert refused.value.pointer == "/public_key"


def test_the_jwks_entry_says_what_it_is_for_and_holds_no_private_part() -> None:
    key, x = sealed.new_signing_key()
    entry = sealed.public_jwk(key.key_id, x)

    assert entry == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": x,
        "kid": key.key_id,
        "use": "sig",
        "alg": "Ed25519",
    }
    assert "d" in json.loads(key.private.reveal())
    assert key.private.reveal() not in repr(key)
