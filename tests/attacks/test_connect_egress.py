"""The cases S1 to S8 on the way of a consent: hostile endpoints, hostile tokens, hostile values.

``test_egress.py`` tries every spelling on the one way out; this is that connecting takes that way,
with a provider's address that a workspace chose and a reply that a provider made up.
"""

from typing import Any

import pytest
from support.connecting import SECRET
from support.journey import Scene, arrive, connect, leave
from support.loopback import OK, listening, saying
from support.visitor import Visitor

from broker.sandbox import Client, Faults, Issuing
from broker.sandbox.evil import Twist


async def put(scene: Scene, name: str, **variables: str) -> int:
    """An integration whose endpoints a workspace chose; answers with the status."""
    body = {
        "provider": "oauth2",
        "client_id": "app",
        "client_secret": SECRET,
        "scopes": ["email"],
        "variables": {
            "authorize_url": f"{scene.provider.base}/oauth/authorize",
            "token_url": f"{scene.provider.base}/oauth/token",
            **variables,
        },
    }
    callback = f"{scene.base}/oauth/oauth2/{name}/callback"
    scene.provider.state.clients["app"] = Client(secret=SECRET, redirect_uris=[callback])
    return (await scene.tenant.api.put(f"/v1/integrations/{name}", body)).status


PRIVATE = (
    *("http://10.0.0.1/", "https://10.0.0.1/", "http://169.254.169.254/latest", "https://0/"),
    *("https://127.1/", "https://2130706433/", "https://0x7f000001/", "http://100.64.0.1/"),
)


async def test_s1_no_code_or_secret_is_sent_to_an_address_that_is_not_public(
    scene: Scene, ada: Visitor
) -> None:
    for number, url in enumerate(PRIVATE):
        name = f"trap{number}"
        assert await put(scene, name, token_url=url) in (201, 422), url
        reply = await scene.tenant.api.get(f"/v1/integrations/{name}")
        if reply.status == 404:
            continue
        shown = await arrive(ada, await scene.link("ada", integrations=[name]))
        assert shown.title in ("That did not work", "This cannot be connected now"), url
        assert await scene.states() == []


async def test_s1_a_person_is_not_sent_to_an_address_that_we_would_not_call(
    scene: Scene, ada: Visitor
) -> None:
    for number, url in enumerate(
        ("http://10.0.0.1/", "http://169.254.169.254/", "http://0.0.0.0/")
    ):
        name = f"trap{number}"
        if await put(scene, name, authorize_url=url) == 422:
            continue
        page = await ada.get(await scene.link("ada", integrations=[name]))
        if page.title.startswith("Connect"):
            page = await ada.submit(page)
        assert page.status != 303, url


async def test_s3_a_token_endpoint_that_redirects_takes_nothing_along(
    scene: Scene, ada: Visitor
) -> None:
    async with listening(saying(OK)) as target:
        for status in (302, 307, 308):
            head = f"HTTP/1.1 {status} Go\r\nLocation: http://127.0.0.1:{target.port}/\r\n"
            async with listening(saying(f"{head}Content-Length: 0\r\n\r\n".encode())) as trap:
                name = f"trap{status}"
                made = await put(scene, name, token_url=f"http://127.0.0.1:{trap.port}/token")
                assert made == 201
                shown = await arrive(ada, await scene.link(integrations=[name]))
                assert shown.title == "That did not work"
                assert trap.accepted == 1
        assert target.accepted == 0
    assert await scene.states() == []


async def test_s4_an_endless_reply_connects_nothing_and_ends(scene: Scene, ada: Visitor) -> None:
    for path in ("/oauth/token", "/oauth/userinfo"):
        scene.provider.misbehave(Faults(path=path, answer="huge"))
        shown = await arrive(ada, await scene.link())
        assert shown.title == "That did not work"
    assert await scene.states() == []


TWISTS: tuple[Twist, ...] = ("crlf", "nul", "surrogate", "long", "not_text", "html", "list")
MORE_TWISTS: tuple[Twist, ...] = ("nested", "deep", "bytes", "empty")


@pytest.mark.parametrize("twist", [*TWISTS, *MORE_TWISTS])
async def test_s6_a_token_that_could_not_stand_in_a_header_is_refused(
    twist: Twist, scene: Scene, ada: Visitor
) -> None:
    scene.provider.misbehave(Faults(twist=twist))
    shown = await arrive(ada, await scene.link())
    assert shown.title == "That did not work"
    assert "sandbox_" not in shown.text
    assert await scene.states() == []


@pytest.mark.parametrize("token", ["t\u00f6ken-of-the-provider", "a b\x7f", "\u2028x", " x", "x\t"])
async def test_s6_a_token_of_letters_that_no_header_carries_is_refused(
    token: str, scene: Scene, ada: Visitor
) -> None:
    scene.provider.state.issuing = Issuing(fields={"access_token": token})
    shown = await arrive(ada, await scene.link())
    assert shown.title == "That did not work"
    assert await scene.states() == []


async def test_s6_a_template_in_a_token_is_kept_and_sent_as_it_stands(
    scene: Scene, ada: Visitor
) -> None:
    token = "{{secret__x}}{{system__env_label}}"
    made = await put(
        scene,
        "plain",
        revoke_url=f"{scene.provider.base}/oauth/revoke",
    )
    assert made == 201
    scene.provider.state.issuing = Issuing(fields={"access_token": token}, refresh=False)
    end = await connect(ada, await scene.link(integrations=["plain"]))
    assert end.title == "Your account is connected"
    [found] = (await scene.tenant.api.get("/v1/users/ada/connections")).json["data"]
    await scene.tenant.api.delete(f"/v1/connections/{found['id']}")
    given = [one for one in scene.provider.state.requests if one.path == "/oauth/revoke"]
    assert [one.fields["token"] for one in given] == [scene.provider.state.fingerprint(token)]


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Acme"},
        {"name": "acme%0a"},
        {"name": "a" * 49},
        {"variables": {"issuer": "https://x.example", "Issuer": "y"}},
        {"variables": {"issuer": "https://x.example", "a b": "y"}},
        {"variables": {"issuer": "https://x.example\n"}},
        {"client_id": "{{system__env_a b}}"},
        {"client_id": "{{secret__x}}"},
        {"client_id": "{{ system__env_x"},
        {"client_secret": {"env_var_label": "a b"}},
        {"environment": "staging"},
    ],
    ids=str,
)
async def test_s7_a_name_outside_of_its_alphabet_is_refused(
    body: dict[str, Any], scene: Scene
) -> None:
    name = body.get("name", "acme")
    usual: dict[str, Any] = {"provider": "oidc", "client_id": "app", "client_secret": SECRET}
    usual["variables"] = {"issuer": scene.provider.base}
    more = {key: value for key, value in body.items() if key != "name"}
    reply = await scene.tenant.api.put(f"/v1/integrations/{name}", usual | more)
    assert reply.status in (400, 404, 422), reply.body
    for environment in ("a b", "x\n", "\u00fc", "a" * 65, "{{x}}"):
        sent = {"user_id": "ada", "environment": environment}
        assert (await scene.tenant.api.post("/v1/connect-sessions", sent)).status == 422


async def test_s8_what_the_value_of_a_label_says_is_not_expanded_again(
    scene: Scene, ada: Visitor
) -> None:
    for label, value in (("outer", "{{system__env_inner}}"), ("inner", "expanded")):
        made = await scene.tenant.api.post(
            "/v1/convai/environment-variables",
            {"type": "string", "label": label, "values": {"production": value}},
        )
        assert made.status == 200, made.body
    reply = await scene.tenant.api.put(
        "/v1/integrations/acme",
        {
            "provider": "oidc",
            "client_id": "{{system__env_outer}}",
            "client_secret": SECRET,
            "variables": {"issuer": scene.provider.base},
        },
    )
    assert reply.status == 200, reply.body
    away = await leave(ada, await scene.link())
    assert away.query["client_id"] == "{{system__env_inner}}"
