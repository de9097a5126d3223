"""Metadata over the wire: how often it is fetched, for whom, and from where it is not."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from support.id_tokens import ISSUER, NOW, OTHER_RSA, RSA, claims, encoded, jwk, jwks, signed
from support.loopback import Listener, calling, listening, until

from vault.dialogue.metadata import FRESH, MAX_KEPT, PAUSE, STALE, Metadata
from vault.egress import Egress
from vault.errors import AnswerTooLarge, EgressDenied, Unreachable, VaultError
from vault.oauth import id_token
from vault.oauth.discovery import MetadataRefused
from vault.providers import Catalogue
from vault.providers.schema import Oidc
from vault.secret import Secret

OURS = Catalogue()
JWKS = "/jwks"
OPENID = "/.well-known/openid-configuration"
OAUTH = "/.well-known/oauth-authorization-server"
RESOURCE = "/.well-known/oauth-protected-resource"
Page = tuple[int, bytes, dict[str, str]]


class Site:
    """A server whose pages a test writes; it notes what was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.listener = Listener(0)
        self.delay = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.port}"

    @property
    def asked(self) -> list[str]:
        return [one.split(b" ")[1].decode() for one in self.listener.heard]

    def page(self, path: str, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.pages[path] = (status, data, headers)

    def openid(self, path: str = OPENID, **changed: Any) -> None:
        self.page(path, self.document(**changed))

    def document(self, **changed: Any) -> dict[str, Any]:
        usual = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}{JWKS}",
            "registration_endpoint": f"{self.url}/register",
            "code_challenge_methods_supported": ["S256"],
        }
        return usual | changed

    async def answer(self, writer: asyncio.StreamWriter) -> None:
        path = self.asked[-1]
        await asyncio.sleep(self.delay)
        status, body, headers = self.pages.get(path, (404, b"", {}))
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, site: Site, egress: Egress) -> None:
        self.site = site
        self.clock = Clock()
        self.metadata = Metadata(egress, clock=self.clock)

    async def openid(self) -> Any:
        return await self.metadata.endpoints(OURS.get("oidc"), {"issuer": self.site.url})

    async def mcp(self, path: str = "/mcp") -> Any:
        server = f"{self.site.url}{path}"
        return await self.metadata.endpoints(OURS.get("mcp"), {"mcp_server_url": server})

    async def keys(self, kid: str | None = "k1") -> list[str]:
        found = await self.metadata.keys(f"{self.site.url}{JWKS}", kid=kid)
        return [one["kid"] for one in found["keys"]]


@asynccontextmanager
async def world(allow: str = "127.0.0.1") -> AsyncIterator[World]:
    site = Site()
    async with listening(site.answer) as listener, calling(allow) as egress:
        site.listener = listener
        yield World(site, egress)


# Endpoints


async def test_a_provider_whose_file_says_everything_is_not_asked() -> None:
    async with world() as here:
        assert await here.metadata.endpoints(OURS.get("slack"), {}) is None
        assert here.site.asked == []


async def test_endpoints_are_fetched_once_an_hour() -> None:
    async with world() as here:
        here.site.openid()
        found = await here.openid()
        assert (found.issuer, found.token_url) == (here.site.url, f"{here.site.url}/token")
        here.clock.now += FRESH - 1
        assert await here.openid() == found
        assert here.site.asked == [OPENID]
        here.clock.now += 1
        assert await here.openid() == found
        assert here.site.asked == [OPENID, OPENID]


async def test_who_asks_at_the_same_time_waits_for_the_same_answer() -> None:
    async with world() as here:
        here.site.openid()
        here.site.delay = 0.05
        found = await asyncio.gather(*(here.openid() for _ in range(20)))
        assert all(one == found[0] for one in found)
        assert here.site.asked == [OPENID]


async def test_a_failure_is_told_to_all_who_wait_and_the_next_one_tries_again() -> None:
    async with world() as here:
        here.site.page(OPENID, b"", status=500)
        here.site.delay = 0.05
        told = await asyncio.gather(*(here.openid() for _ in range(5)), return_exceptions=True)
        assert all(isinstance(one, MetadataRefused) for one in told)
        assert here.site.asked == [OPENID]
        here.site.openid()
        assert await here.openid()


async def test_who_stops_waiting_takes_the_answer_from_nobody_else() -> None:
    async with world() as here:
        here.site.openid()
        here.site.delay = 0.1
        first = asyncio.create_task(here.openid())
        await until(lambda: here.site.asked)
        second = asyncio.create_task(here.openid())
        await asyncio.sleep(0.03)
        first.cancel()
        assert (await second).issuer == here.site.url
        assert here.site.asked == [OPENID]


async def test_a_fetch_that_nobody_waits_for_any_more_may_fail_in_silence() -> None:
    async with world() as here:
        here.site.page(OPENID, b"", status=500)
        here.site.delay = 0.05
        complaints: list[object] = []
        gc.collect()  # what others have left is no affair of ours
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, one: complaints.append(one))
        try:
            only = asyncio.create_task(here.openid())
            await until(lambda: here.site.asked)
            only.cancel()
            await asyncio.sleep(0.1)
            del only
            gc.collect()  # asyncio complains when a failed task goes that nobody looked at
        finally:
            loop.set_exception_handler(None)
        assert here.site.asked == [OPENID]
        assert complaints == []


async def test_endpoints_outlive_an_outage_by_a_day() -> None:
    async with world() as here:
        here.site.openid()
        found = await here.openid()
        here.site.page(OPENID, b"", status=503)
        here.clock.now += FRESH
        assert await here.openid() == found
        assert await here.openid() == found
        assert len(here.site.asked) == 2  # and the server is not asked all the time
        here.clock.now += STALE - 1
        assert await here.openid() == found
        here.clock.now += 1
        with pytest.raises(MetadataRefused):
            await here.openid()


async def test_a_bounded_number_of_documents_is_remembered() -> None:
    async with world() as here:
        for number in (*range(MAX_KEPT), 0, MAX_KEPT):  # the first is used once more
            here.site.page(f"/{number}", jwks(jwk(RSA, kid="k1")))
            await here.metadata.keys(f"{here.site.url}/{number}", kid="k1")
        here.site.listener.heard.clear()
        for number in (MAX_KEPT, 0, 2):
            await here.metadata.keys(f"{here.site.url}/{number}", kid="k1")
        assert here.site.asked == []
        await here.metadata.keys(f"{here.site.url}/1", kid="k1")
        assert here.site.asked == ["/1"]


@pytest.mark.parametrize(
    "changed",
    [{"issuer": "https://evil.example"}, {"issuer": None}, {"token_endpoint": None}],
)
async def test_attack_a_document_that_speaks_for_another_issuer(changed: dict[str, Any]) -> None:
    async with world() as here:
        here.site.openid(**changed)
        with pytest.raises(MetadataRefused):
            await here.openid()


@pytest.mark.parametrize(
    ("name", "evil"),
    [
        ("token_endpoint", "http://10.0.0.5/token"),
        ("token_endpoint", "https://169.254.169.254/latest"),
        ("revocation_endpoint", "https://[::1]/x"),
        ("userinfo_endpoint", "https://127.1/x"),
        ("introspection_endpoint", "https://0x7f000001/x"),
        ("jwks_uri", "https://[::ffff:10.0.0.5]/jwks"),
        ("device_authorization_endpoint", "https://2130706433/x"),
        ("registration_endpoint", "https://192.168.1.1/register"),
    ],
)
async def test_attack_a_document_that_leads_where_nobody_may_call(name: str, evil: str) -> None:
    async with world() as here:
        here.site.openid(**{name: evil})
        with pytest.raises(EgressDenied):
            await here.openid()


async def test_attack_an_issuer_on_a_private_address() -> None:
    async with world(allow="127.0.0.2") as here:
        here.site.openid()
        with pytest.raises(EgressDenied):
            await here.openid()
        with pytest.raises(EgressDenied):
            await here.mcp()
        assert here.site.asked == []


async def test_attack_a_document_that_sends_us_elsewhere() -> None:
    async with world() as here:
        here.site.page(OPENID, b"", status=302, Location=f"{here.site.url}/evil")
        here.site.openid(path="/evil")
        with pytest.raises(MetadataRefused, match="no metadata"):
            await here.openid()
        assert here.site.asked == [OPENID]


async def test_attack_a_document_that_has_no_end() -> None:
    async with world() as here:
        here.site.page(OPENID, b" " * 300_000)
        with pytest.raises(AnswerTooLarge):
            await here.openid()


async def test_smart_looks_below_the_fhir_base() -> None:
    async with world() as here:
        path = "/r4/.well-known/smart-configuration"
        here.site.openid(path, issuer=None)
        smart = replace(OURS.get("oidc"), discovery=OURS.get("epic-smart").discovery)
        assert smart.discovery is not None
        smart = replace(smart, discovery=replace(smart.discovery, of="{issuer}"))
        found = await here.metadata.endpoints(smart, {"issuer": f"{here.site.url}/r4"})
        assert found is not None
        assert found.token_url == f"{here.site.url}/token"
        assert here.site.asked == [path]


# MCP


async def test_an_mcp_server_says_itself_where_its_metadata_stands() -> None:
    async with world() as here:
        said = f'Bearer resource_metadata="{here.site.url}/meta"'
        here.site.page("/mcp", b"", status=401, WWW_Authenticate=said)
        server = f"{here.site.url}/mcp"
        here.site.page(
            "/meta", {"resource": server, "authorization_servers": [f"{here.site.url}/as"]}
        )
        here.site.openid(f"{OAUTH}/as", issuer=f"{here.site.url}/as")
        found = await here.mcp()
        assert (found.issuer, found.resource) == (f"{here.site.url}/as", server)
        assert here.site.asked == ["/mcp", "/meta", f"{OAUTH}/as"]


async def test_an_mcp_server_that_says_nothing_is_looked_for_at_the_usual_places() -> None:
    async with world() as here:
        here.site.page("/mcp", b"", status=405)
        here.site.page(
            RESOURCE, {"resource": here.site.url, "authorization_servers": [here.site.url]}
        )
        here.site.page(OAUTH, b"<html>", status=200)  # a page for people, whatever one asks for
        here.site.openid()
        found = await here.mcp()
        assert (found.issuer, found.resource) == (here.site.url, here.site.url)
        assert here.site.asked == ["/mcp", f"{RESOURCE}/mcp", RESOURCE, OAUTH, OPENID]


async def test_an_old_mcp_server_is_its_own_authorization_server() -> None:
    async with world() as here:
        here.site.openid(OAUTH)
        found = await here.mcp()
        assert (found.issuer, found.resource) == (here.site.url, f"{here.site.url}/mcp")


@pytest.mark.parametrize("resource", ["https://other.example/mcp", "{url}/other", "{url}/mcp/x"])
async def test_attack_resource_metadata_about_another_server(resource: str) -> None:
    async with world() as here:
        said = resource.replace("{url}", here.site.url)
        for path in (f"{RESOURCE}/mcp", RESOURCE):
            here.site.page(path, {"resource": said, "authorization_servers": [here.site.url]})
        here.site.openid(OAUTH)
        with pytest.raises(MetadataRefused, match="another server"):
            await here.mcp()


async def test_attack_an_mcp_authorization_server_that_names_another_issuer() -> None:
    async with world() as here:
        here.site.openid(OAUTH, issuer="https://accounts.example.com")
        with pytest.raises(MetadataRefused, match="another issuer"):
            await here.mcp()


async def test_attack_an_mcp_server_without_pkce() -> None:
    async with world() as here:
        here.site.openid(OAUTH, code_challenge_methods_supported=["plain"])
        with pytest.raises(MetadataRefused, match="PKCE"):
            await here.mcp()


async def test_the_next_authorization_server_counts_where_the_first_is_none() -> None:
    async with world() as here:
        servers = [f"{here.site.url}/gone", here.site.url]
        here.site.page(RESOURCE, {"resource": here.site.url, "authorization_servers": servers})
        here.site.openid(OAUTH)
        assert (await here.mcp()).issuer == here.site.url
        here.site.page(OAUTH, b"", status=500)
        fresh = World(here.site, here.metadata._egress)  # noqa: SLF001 - nothing remembered
        with pytest.raises(MetadataRefused, match="500"):
            await fresh.mcp()


async def test_a_client_is_registered_where_the_server_says() -> None:
    async with world() as here:
        here.site.openid(OAUTH)
        redirect = "https://keyturn.example/callback/x"
        made = {"client_id": "c-1", "redirect_uris": [redirect]}
        here.site.page("/register", made, status=201)
        found = await here.mcp()
        client = await here.metadata.register(found, redirect_uri=redirect, client_name="Keyturn")
        assert (client.client_id, client.client_auth) == ("c-1", "none")
        sent = here.site.listener.heard[-1].partition(b"\r\n\r\n")[2]
        assert json.loads(sent)["redirect_uris"] == [redirect]


# Keys


async def test_keys_are_fetched_once_and_again_for_one_that_is_not_there() -> None:
    async with world() as here:
        here.site.page(JWKS, jwks(jwk(RSA, kid="k1")))
        assert await here.keys() == ["k1"]
        assert await here.keys() == ["k1"]
        here.site.page(JWKS, jwks(jwk(RSA, kid="k1"), jwk(OTHER_RSA, kid="k2")))
        here.clock.now += PAUSE
        assert await here.keys("k2") == ["k1", "k2"]
        assert here.site.asked == [JWKS, JWKS]


async def test_two_tokens_of_a_new_key_at_the_same_time_both_find_it() -> None:
    async with world() as here:
        here.site.page(JWKS, jwks(jwk(RSA, kid="k1")))
        await here.keys()
        here.site.page(JWKS, jwks(jwk(RSA, kid="k2")))
        here.site.delay = 0.05
        here.clock.now += PAUSE
        found = await asyncio.gather(here.keys("k2"), here.keys("k2"))
        assert list(found) == [["k2"], ["k2"]]
        assert here.site.asked == [JWKS, JWKS]


async def test_attack_tokens_of_unknown_keys_that_make_us_ask_all_the_time() -> None:
    async with world() as here:
        here.site.page(JWKS, jwks(jwk(RSA, kid="k1")))
        await here.keys()
        for number in range(50):
            assert await here.keys(f"evil-{number}") == ["k1"]
        assert here.site.asked == [JWKS]
        here.clock.now += PAUSE
        for number in range(50):
            assert await here.keys(f"evil-{number}") == ["k1"]
        assert here.site.asked == [JWKS, JWKS]
        here.site.page(JWKS, b"", status=500)
        here.clock.now += PAUSE
        for number in range(50):
            assert await here.keys(f"evil-{number}") == ["k1"]
        assert len(here.site.asked) == 3


async def test_a_token_without_kid_is_checked_with_keys_of_the_last_minute() -> None:
    async with world() as here:
        here.site.page(JWKS, jwks(jwk(RSA, kid="k1")))
        await here.keys(None)
        here.clock.now += PAUSE - 1
        await here.keys(None)
        assert here.site.asked == [JWKS]
        here.clock.now += 1
        await here.keys(None)
        assert here.site.asked == [JWKS, JWKS]


async def test_old_keys_verify_nothing_once_they_cannot_be_fetched() -> None:
    async with world() as here:
        here.site.page(JWKS, jwks(jwk(RSA, kid="k1")))
        await here.keys()
        here.site.page(JWKS, b"", status=503)
        here.clock.now += FRESH
        for _ in range(2):
            with pytest.raises(MetadataRefused):
                await here.keys()


async def test_attack_keys_of_two_megabytes() -> None:
    async with world() as here:
        here.site.page(JWKS, jwks(jwk(RSA, kid="k1", x="y" * 2_000_000)))
        with pytest.raises(AnswerTooLarge):
            await here.keys()


async def test_only_what_verifies_is_remembered_of_a_key() -> None:
    async with world() as here:
        more = {"x5c": ["A" * 1_000], "d": "private", "kid": "k1", "junk": 1}
        long = {"kty": "RSA", "kid": "k0", "key_ops": ["verify"] * 1_000}
        here.site.page(JWKS, jwks(long, *(jwk(RSA) | more for _ in range(80))))
        found = await here.metadata.keys(f"{here.site.url}{JWKS}", kid="k1")
        assert len(found["keys"]) == 64
        assert set(found["keys"][0]) == {"kty", "n", "e", "kid"}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": 5}', b'{"keys": null}', b"\xff"])
async def test_keys_that_are_none(body: bytes) -> None:
    async with world() as here:
        here.site.page(JWKS, body)
        with pytest.raises(MetadataRefused, match="keys cannot be read"):
            await here.keys()


async def test_an_issuer_that_is_away_says_so() -> None:
    async with calling() as egress:
        with pytest.raises(Unreachable):
            await Metadata(egress).keys("http://127.0.0.1:9/jwks")


# The keys of a token


async def test_a_tokens_keys_are_looked_up_at_its_issuer_and_verify_it() -> None:
    async with world() as here:
        here.site.openid()
        here.site.page(JWKS, jwks(jwk(RSA, kid="k1")))
        oidc = Oidc(issuer=here.site.url)
        token = signed(claims(iss=here.site.url), kid="k1")
        keys = await here.metadata.keys_of(token, oidc=oidc, issuer=oidc.issuer, jwks_url=None)
        found = id_token.verify(
            token,
            oidc=oidc,
            issuer=oidc.issuer,
            client_id="client-1",
            client_secret=None,
            nonce="n-1",
            keys=keys,
            now=NOW,
        )
        assert found["sub"] == "s-1"
        assert here.site.asked == [OPENID, JWKS]


async def test_each_tenant_has_its_own_document() -> None:
    tid = "9188040d-6c67-4c5b-b112-36a304b66dad"
    async with world() as here:
        template = f"{here.site.url}/{{tid}}/v2.0"
        here.site.openid(f"/{tid}/v2.0{OPENID}", issuer=f"{here.site.url}/{tid}/v2.0")
        here.site.page(JWKS, jwks(jwk(RSA, kid="k1")))
        oidc = Oidc(issuer=template)
        token = signed(claims(tid=tid), kid="k1")
        keys = await here.metadata.keys_of(token, oidc=oidc, issuer=template, jwks_url=None)
        assert id_token.names_key(keys, "k1")
        evil = signed(claims(tid="../../evil"), kid="k1")
        with pytest.raises(id_token.IdTokenRefused):
            await here.metadata.keys_of(evil, oidc=oidc, issuer=template, jwks_url=None)


@pytest.mark.parametrize("algorithm", ["HS256", "none", "ES256"])
async def test_a_token_that_no_published_key_may_sign_makes_us_ask_nobody(algorithm: str) -> None:
    async with world() as here:
        oidc = Oidc(issuer=ISSUER, algorithms=("HS256", "RS256"))
        header = json.dumps({"alg": algorithm}).encode()
        token = Secret(f"{encoded(header)}.{signed(claims()).reveal().split('.', 1)[1]}")
        asked = f"{here.site.url}{JWKS}"
        found = await here.metadata.keys_of(token, oidc=oidc, issuer=ISSUER, jwks_url=asked)
        assert found == {"keys": []}
        assert here.site.asked == []


async def test_attack_a_token_that_names_its_own_keys_is_not_followed() -> None:
    async with world() as here:
        here.site.page(JWKS, jwks(jwk(RSA, kid="k1")))
        token = signed(claims(), OTHER_RSA, kid="k1", jku=f"{here.site.url}/evil")
        oidc = Oidc(issuer=ISSUER)
        asked = f"{here.site.url}{JWKS}"
        await here.metadata.keys_of(token, oidc=oidc, issuer=ISSUER, jwks_url=asked)
        assert here.site.asked == [JWKS]


async def test_no_failure_repeats_what_the_other_side_said() -> None:
    async with world() as here:
        pages: list[Callable[[], None]] = [
            lambda: here.site.page(OPENID, b"s3ntinel"),
            lambda: here.site.page(OPENID, {"issuer": "https://s3ntinel.example"}),
            lambda: here.site.page(OPENID, b"", status=418, X="s3ntinel"),
        ]
        for write in pages:
            write()
            with pytest.raises(VaultError) as caught:
                await here.openid()
            assert "s3ntinel" not in repr(caught.value)
