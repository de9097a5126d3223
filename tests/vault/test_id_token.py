"""ID tokens: what makes one worth believing, and each way to forge or misuse one."""

import json
from datetime import timedelta
from typing import Any

import pytest
from support.id_tokens import (
    CLIENT,
    ED25519,
    ISSUER,
    K256,
    NOW,
    OTHER_RSA,
    P256,
    RSA,
    SHORT_RSA,
    SIGNERS,
    claims,
    encoded,
    jwk,
    jwks,
    signed,
)
from support.jwts import public_pem

from vault.errors import UpstreamFailed
from vault.oauth import id_token
from vault.oauth.app import Endpoints
from vault.oauth.id_token import IdTokenRefused
from vault.providers import Catalogue
from vault.providers.schema import Oidc
from vault.secret import Secret

SECRET = Secret("the channel secret of a LINE app")
KEYS = jwks(jwk(RSA, kid="k1"))
TENANT = "9188040d-6c67-4c5b-b112-36a304b66dad"
MICROSOFT = "https://login.microsoftonline.com/{tid}/v2.0"


def verified(token: Secret, **changed: Any) -> dict[str, Any]:
    oidc = changed.pop("oidc", None) or Oidc(
        issuer=ISSUER,
        algorithms=changed.pop("algorithms", ("RS256",)),
        nonce=changed.pop("echo", "required"),
    )
    asked: dict[str, Any] = {
        "issuer": ISSUER,
        "client_id": CLIENT,
        "client_secret": None,
        "nonce": "n-1",
        "keys": KEYS,
        "now": NOW,
    }
    return dict(id_token.verify(token, oidc=oidc, **(asked | changed)))


def refused(token: Secret, **changed: Any) -> str:
    with pytest.raises(IdTokenRefused) as caught:
        verified(token, **changed)
    assert caught.value.__cause__ is None
    return caught.value.message


def test_a_good_token_gives_its_claims() -> None:
    assert verified(signed(claims(email="a@b.c"), kid="k1")) == claims(email="a@b.c")


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_every_algorithm_with_a_published_key_verifies(algorithm: str) -> None:
    signer = SIGNERS[algorithm]
    token = signed(claims(), signer, algorithm, kid="k")
    assert verified(token, algorithms=(algorithm,), keys=jwks(jwk(signer, kid="k")))
    assert refused(token, algorithms=("RS256" if algorithm != "RS256" else "ES256",))


def test_a_refusal_is_somebody_elses_server_answering_wrongly_and_quotes_nothing() -> None:
    token = signed(claims(iss="https://s3ntinel.example"), kid="k1")
    assert issubclass(IdTokenRefused, UpstreamFailed)
    assert "s3ntinel" not in refused(token)
    assert "s3ntinel" not in repr(id_token.unverified(token))


# The signature


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_attack_alg_none(name: str) -> None:
    unsigned = (
        f"{encoded(json.dumps({'alg': name}).encode())}.{encoded(json.dumps(claims()).encode())}."
    )
    assert "algorithm" in refused(Secret(unsigned))
    # Not even where a file or a discovery document is talked into it.
    assert "algorithm" in refused(Secret(unsigned), algorithms=("RS256", name))


def test_attack_hs256_with_the_rsa_public_key() -> None:
    for key in (public_pem(RSA).encode(), public_pem(RSA).strip().encode(), b""):
        token = signed(claims(), key, "HS256", kid="k1")
        assert "algorithm" in refused(token)
        assert refused(token, algorithms=("RS256", "HS256"))
        assert refused(token, algorithms=("RS256", "HS256"), client_secret=SECRET)


def test_attack_a_shared_secret_among_the_published_keys() -> None:
    planted = jwks({"kty": "oct", "k": encoded(b"x" * 32), "kid": "k1"})
    token = signed(claims(), b"x" * 32, "HS256", kid="k1")
    assert refused(token, algorithms=("HS256",), keys=planted)
    assert refused(token, algorithms=("HS256",), keys=planted, client_secret=SECRET)


def test_hs256_is_keyed_with_the_clients_secret_where_the_file_says_so() -> None:
    line = Catalogue().get("line").oidc
    assert line is not None
    token = signed(claims(iss=line.issuer), SECRET.reveal_bytes(), "HS256")
    found = verified(token, oidc=line, issuer=line.issuer, client_secret=SECRET, keys={})
    assert found["sub"] == "s-1"
    forged = signed(claims(iss=line.issuer), b"another", "HS256")
    assert refused(forged, oidc=line, issuer=line.issuer, client_secret=SECRET, keys={})
    assert refused(token, oidc=line, issuer=line.issuer, client_secret=None, keys={})


def test_attack_a_key_that_the_token_brings_along() -> None:
    own: dict[str, Any] = {
        "jwk": jwk(OTHER_RSA),
        "jku": "https://evil.example/jwks",
        "x5u": "https://evil.example",
    }
    for name, value in own.items():
        assert refused(signed(claims(), OTHER_RSA, kid="k1", **{name: value}))
        # And it does no harm beside a good signature: what is not known is ignored.
        assert verified(signed(claims(), RSA, kid="k1", **{name: value}))


def test_attack_crit_and_unencoded_payloads() -> None:
    assert refused(signed(claims(), kid="k1", crit=["b64"], b64=False))
    assert refused(signed(claims(), kid="k1", crit=[]))


def test_attack_anything_changed_after_signing() -> None:
    header, body, signature = signed(claims(), kid="k1").reveal().split(".")
    other = encoded(json.dumps(claims(sub="victim")).encode())
    bare = encoded(b'{"alg":"RS256"}')
    for changed in (
        f"{header}.{other}.{signature}",
        f"{bare}.{body}.{signature}",
        f"{header}.{body}.{signature[:-4]}AAAA",
        f"{header}.{body}.",
        f"{header}.{body}",
        f"{header}.{body}.{signature}.x",
        f"{header}..{signature}",
        "",
        "..",
        "a.b.c",
        f"{encoded(b'[]')}.{body}.{signature}",
        f"{header}.{encoded(b'[' * 30_000)}.{signature}",
        f"{header}.{encoded(b'x' * 40_000)}.{signature}",
    ):
        assert refused(Secret(changed))
    assert refused(Secret(b"\xff\xfe.\xff.\xff"))


def test_a_token_has_a_usual_size() -> None:
    assert verified(signed(claims(groups="g" * 20_000), kid="k1"))
    assert "usual size" in refused(signed(claims(groups="g" * 30_000), kid="k1"))
    assert "usual size" in refused(signed(claims(), kid="k1", x5c="A" * 9_000))


def test_an_unknown_kid_is_a_key_that_the_issuer_does_not_publish() -> None:
    assert "does not publish" in refused(signed(claims(), kid="k2"))
    assert "does not publish" in refused(signed(claims(), kid="k1"), keys={})
    assert "does not publish" in refused(signed(claims(), kid="k1"), keys={"keys": "x"})
    assert "header" in refused(signed(claims(), kid=1))
    assert not id_token.names_key(KEYS, "k2")
    assert id_token.names_key(KEYS, "k1")


def test_a_token_without_kid_is_tried_with_every_key_that_fits() -> None:
    many = jwks(*(jwk(OTHER_RSA, kid=f"k{n}") for n in range(7)), jwk(RSA, kid="last"))
    assert verified(signed(claims()), keys=many)
    too_many = jwks(*(jwk(OTHER_RSA, kid=f"k{n}") for n in range(8)), jwk(RSA, kid="last"))
    assert refused(signed(claims()), keys=too_many)


@pytest.mark.parametrize(
    "unfit",
    [
        {"use": "enc"},
        {"alg": "RS512"},
        {"alg": "RSA-OAEP"},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"kty": "EC"},
        {"n": "AA"},
        {"n": None},
        {"e": "not base64!"},
    ],
)
def test_a_key_for_something_else_verifies_nothing(unfit: dict[str, Any]) -> None:
    assert refused(signed(claims(), kid="k1"), keys=jwks(jwk(RSA, kid="k1") | unfit))


def test_a_broken_key_does_not_spoil_the_others() -> None:
    broken = [{"kty": "RSA", "kid": "k1"}, {"kty": "EC", "kid": "k1"}, {}, "x", 5]
    assert verified(signed(claims(), kid="k1"), keys={"keys": [*broken, jwk(RSA, kid="k1")]})


def test_a_short_rsa_key_is_none() -> None:
    assert refused(signed(claims(), SHORT_RSA, kid="k"), keys=jwks(jwk(SHORT_RSA, kid="k")))


def test_a_key_of_another_curve_is_none() -> None:
    token = signed(claims(), K256, "ES256", kid="k")
    assert refused(token, algorithms=("ES256",), keys=jwks(jwk(K256, kid="k")))
    named = jwks(jwk(K256, kid="k") | {"crv": "P-256"})
    assert refused(token, algorithms=("ES256",), keys=named)


def test_both_names_of_ed25519_fit_one_another() -> None:
    for said, published in (("EdDSA", "Ed25519"), ("Ed25519", "EdDSA")):
        token = signed(claims(), ED25519, said, kid="k")
        assert verified(token, algorithms=(said,), keys=jwks(jwk(ED25519, kid="k", alg=published)))


# The claims


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"iss": ISSUER + "/"}, "issued by somebody else"),
        ({"iss": "https://ID.example.com"}, "issued by somebody else"),
        ({"iss": None}, "issued by somebody else"),
        ({"iss": [ISSUER]}, "issued by somebody else"),
        ({"aud": "client-2"}, "meant for somebody else"),
        ({"aud": "CLIENT-1"}, "meant for somebody else"),
        ({"aud": CLIENT + " "}, "meant for somebody else"),
        ({"aud": []}, "meant for somebody else"),
        ({"aud": None}, "meant for somebody else"),
        ({"aud": [[CLIENT]]}, "meant for somebody else"),
        ({"aud": {CLIENT: 1}}, "meant for somebody else"),
        ({"aud": [CLIENT, "other"]}, "issued to somebody else"),
        ({"aud": [CLIENT, "other"], "azp": "other"}, "issued to somebody else"),
        ({"azp": "other"}, "issued to somebody else"),
        ({"azp": 1}, "issued to somebody else"),
        ({"azp": ""}, "issued to somebody else"),
        ({"sub": None}, "whom it is about"),
        ({"sub": ""}, "whom it is about"),
        ({"sub": 7}, "whom it is about"),
        ({"sub": "s" * 256}, "whom it is about"),
        ({"exp": None}, "from when to when"),
        ({"iat": None}, "from when to when"),
        ({"exp": "2000000000"}, "number of seconds"),
        ({"exp": True}, "number of seconds"),
        ({"exp": float("nan")}, "number of seconds"),
        ({"exp": float("inf")}, "number of seconds"),
        ({"exp": 10**400}, "number of seconds"),
        ({"iat": float("-inf")}, "number of seconds"),
        ({"nbf": "soon"}, "number of seconds"),
        ({"nonce": "n-2"}, "another sign-in"),
        ({"nonce": "N-1"}, "another sign-in"),
        ({"nonce": ["n-1"]}, "another sign-in"),
        ({"nonce": "\udcff"}, "another sign-in"),
        ({"nonce": None}, "another sign-in"),
    ],
)
def test_a_claim_that_does_not_fit(changed: dict[str, Any], reason: str) -> None:
    assert reason in refused(signed(claims(**changed), kid="k1"))


def test_several_audiences_need_us_as_the_authorized_party() -> None:
    assert verified(signed(claims(aud=[CLIENT]), kid="k1"))
    assert verified(signed(claims(aud=[CLIENT, "other"], azp=CLIENT), kid="k1"))
    assert verified(signed(claims(azp=CLIENT), kid="k1"))


def test_an_app_without_an_id_is_nobodys_audience() -> None:
    assert refused(signed(claims(aud=""), kid="k1"), client_id="")


def test_times_may_differ_by_a_minute_and_no_more() -> None:
    token = signed(claims(), kid="k1")
    assert verified(token, now=NOW + timedelta(seconds=600 + 59))
    assert "expired" in refused(token, now=NOW + timedelta(seconds=600 + 60))
    assert verified(token, now=NOW - timedelta(seconds=60))
    assert "future" in refused(token, now=NOW - timedelta(seconds=61))
    at = int(NOW.timestamp())
    assert "future" in refused(signed(claims(nbf=at + 61), kid="k1"))
    assert verified(signed(claims(nbf=at + 60, exp=at + 600.5), kid="k1"))


def test_a_nonce_that_is_checked_only_if_it_is_echoed() -> None:
    telegram = Catalogue().get("telegram-oidc").oidc
    assert telegram is not None
    assert telegram.nonce == "if_echoed"
    without = signed(claims(nonce=None), kid="k1")
    assert verified(without, echo="if_echoed")
    assert "another sign-in" in refused(signed(claims(nonce="n-2"), kid="k1"), echo="if_echoed")
    assert verified(without, nonce=None)  # a refresh: none was sent


def test_at_hash_ties_the_token_to_its_access_token() -> None:
    # The example of OpenID Connect Core, appendix A.3.
    theirs = Secret("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y")
    token = signed(claims(at_hash="77QmUPtjPfzWtF2AnpK9RQ"), kid="k1")
    assert verified(token, access_token=theirs)
    assert verified(token)
    assert verified(signed(claims(), kid="k1"), access_token=theirs)
    assert "another access token" in refused(token, access_token=Secret("another"))
    for odd in ("", 5, ["77QmUPtjPfzWtF2AnpK9RQ"], "77QmUPtjPfzWtF2AnpK9RQ=="):
        assert refused(signed(claims(at_hash=odd), kid="k1"), access_token=theirs)


@pytest.mark.parametrize(
    ("algorithm", "half"),
    [
        ("ES256K", "77QmUPtjPfzWtF2AnpK9RQ"),
        ("RS384", "jtAeDp945y1dDqU3nkIVGNZP1HjH_MFs"),
        ("EdDSA", "q7nS86GgvvFaZkzALLWqJYaJIKw2wCDAVfCAsm5CrBM"),
    ],
)
def test_at_hash_follows_the_signatures_hash(algorithm: str, half: str) -> None:
    theirs = Secret("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y")
    signer = SIGNERS[algorithm]
    asked = {"algorithms": (algorithm,), "keys": jwks(jwk(signer, kid="k"))}
    good = signed(claims(at_hash=half), signer, algorithm, kid="k")
    assert verified(good, access_token=theirs, **asked)
    assert refused(good, access_token=Secret("another"), **asked)


# Issuers with a tenant


def of_tenant(tid: Any, issuer_tid: str, **key: Any) -> tuple[Secret, dict[str, Any]]:
    says = claims(tid=tid, iss=MICROSOFT.replace("{tid}", issuer_tid))
    return signed(says, kid="k1"), {"issuer": MICROSOFT, "keys": jwks(jwk(RSA, kid="k1", **key))}


def test_the_issuer_holds_the_tenant_of_the_same_token() -> None:
    token, asked = of_tenant(TENANT, TENANT)
    assert verified(token, **asked)
    other = TENANT.replace("9", "8")
    assert "issued by somebody else" in refused(*of_tenant(TENANT, other)[:1], **asked)


@pytest.mark.parametrize(
    "tid", [None, "", "common", "../" + TENANT, TENANT + "\n", "{tid}", 5, TENANT.upper()]
)
def test_attack_a_tenant_that_is_none(tid: Any) -> None:
    token, asked = of_tenant(tid, str(tid))
    assert "which tenant" in refused(token, **asked)


def test_a_key_of_one_tenant_signs_for_no_other() -> None:
    theirs = MICROSOFT.replace("{tid}", TENANT.replace("9", "8"))
    for issuer, fits in (
        (MICROSOFT.replace("{tid}", "{tenantid}"), True),
        (MICROSOFT.replace("{tid}", TENANT), True),
        (theirs, False),
    ):
        token, asked = of_tenant(TENANT, TENANT, issuer=issuer)
        assert verified(token, **asked) if fits else refused(token, **asked)


# What discovery may add


def test_discovery_opens_algorithms_with_published_keys_and_no_others() -> None:
    oidc = Catalogue().get("oidc")
    found = Endpoints(
        issuer=ISSUER, jwks_url=f"{ISSUER}/jwks", algorithms=("none", "HS256", "ES256", "RS256")
    )
    expected = id_token.expected(oidc, found)
    assert expected is not None
    assert expected.algorithms == ("RS256", "ES256")
    assert expected.jwks_url == f"{ISSUER}/jwks"
    assert id_token.expected(oidc, None) == oidc.oidc


def test_where_the_file_says_nothing_of_id_tokens_discovery_does() -> None:
    epic = Catalogue().get("epic-smart")
    found = Endpoints(issuer=ISSUER, jwks_url=f"{ISSUER}/jwks")
    expected = id_token.expected(epic, found)
    assert expected is not None
    assert (expected.issuer, expected.algorithms) == (ISSUER, ("RS256",))
    assert id_token.expected(epic, Endpoints(issuer=ISSUER)) is None


def test_every_algorithm_in_the_catalogue_is_one_that_we_verify() -> None:
    token_signers = SIGNERS | {"HS256": b""}
    for provider in Catalogue().all():
        if provider.oidc is not None:
            assert set(provider.oidc.algorithms) <= token_signers.keys()


def test_p256_is_not_p521() -> None:
    token = signed(claims(), P256, "ES256", kid="k")
    assert refused(token, algorithms=("ES256",), keys=jwks(jwk(SIGNERS["ES512"], kid="k")))
