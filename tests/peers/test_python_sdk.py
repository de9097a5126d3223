"""The unmodified official Python SDK, pointed at us, does not notice the difference."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx
import pytest
from conftest import Tenant
from elevenlabs import ElevenLabs
from elevenlabs.core.api_error import ApiError
from elevenlabs.environment_variables import (
    EnvironmentVariablesCreateRequestBody_AuthConnection as AuthVariable,
)
from elevenlabs.environment_variables import (
    EnvironmentVariablesCreateRequestBody_Secret as SecretVariable,
)
from elevenlabs.environment_variables import (
    EnvironmentVariablesCreateRequestBody_String as StringVariable,
)
from elevenlabs.workspace.auth_connections import types as auth
from support.loopback import Authority

T = TypeVar("T")


class Sdk:
    """The client, with every call moved off the loop that our server runs on."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._http = httpx.Client(timeout=30)
        self.client = ElevenLabs(base_url=base_url, api_key=api_key, httpx_client=self._http)

    def close(self) -> None:
        self._http.close()

    async def do(self, call: Callable[[ElevenLabs], T]) -> T:
        return await asyncio.to_thread(call, self.client)

    async def fails(self, call: Callable[[ElevenLabs], object]) -> ApiError:
        with pytest.raises(ApiError) as raised:
            await asyncio.to_thread(call, self.client)
        return raised.value


@pytest.fixture
def sdk(tenant: Tenant) -> Iterator[Sdk]:
    found = Sdk(tenant.api.base, tenant.key)
    yield found
    found.close()


def plain(model: Any) -> Any:
    return model.model_dump() if hasattr(model, "model_dump") else model


async def test_the_documentations_own_example_is_stored_and_read_back(sdk: Sdk) -> None:
    made = await sdk.do(
        lambda client: client.environment_variables.create(
            request=StringVariable(
                label="api_host",
                values={"production": "api", "staging": "staging.api", "development": "dev.api"},
            )
        )
    )
    assert made.id.startswith("envvar_")
    assert (made.label, made.type) == ("api_host", "string")
    assert plain(made.values) == {
        "production": "api",
        "staging": "staging.api",
        "development": "dev.api",
    }
    read = await sdk.do(lambda client: client.environment_variables.get(made.id))
    assert plain(read) == plain(made)
    listed = await sdk.do(lambda client: client.environments.list())
    assert [one.name for one in listed.environments] == ["production", "development", "staging"]


async def test_a_variable_of_each_type_is_made_changed_and_deleted(sdk: Sdk) -> None:
    secret = await sdk.do(
        lambda client: client.conversational_ai.secrets.create(name="orders", value="s3cret")
    )
    connection = await sdk.do(
        lambda client: client.workspace.auth_connections.create(
            request=auth.AuthConnectionsCreateRequestBody_BearerAuth(
                name="orders", provider="acme", token="t0ken"
            )
        )
    )
    reference = {"secret_id": secret.secret_id}
    as_secret = await sdk.do(
        lambda client: client.environment_variables.create(
            request=SecretVariable(label="api_key", values={"production": reference})  # type: ignore[dict-item]
        )
    )
    as_auth = await sdk.do(
        lambda client: client.environment_variables.create(
            request=AuthVariable(
                label="oauth_creds",
                values={"production": {"auth_connection_id": connection.id}},  # type: ignore[dict-item]
            )
        )
    )
    assert as_secret.values == {"production": reference}
    assert as_auth.values == {"production": {"auth_connection_id": connection.id}}
    changed = await sdk.do(
        lambda client: client.environment_variables.update(
            as_secret.id,
            values={"staging": reference},  # type: ignore[dict-item]
        )
    )
    assert sorted(changed.values) == ["production", "staging"]
    removed = await sdk.do(
        lambda client: client.environment_variables.update(as_secret.id, values={"staging": None})  # type: ignore[dict-item]
    )
    assert sorted(removed.values) == ["production"]
    await sdk.do(lambda client: client.environment_variables.delete(as_secret.id))
    gone = await sdk.fails(lambda client: client.environment_variables.get(as_secret.id))
    assert gone.status_code == 404


async def test_a_list_obeys_every_filter_and_its_cursor(sdk: Sdk) -> None:
    for number in range(5):
        values = {"production": "p"} | ({"staging": "s"} if number % 2 else {})
        await sdk.do(
            lambda client, number=number, values=values: client.environment_variables.create(  # type: ignore[misc]
                request=StringVariable(label=f"label_{number}", values=values)
            )
        )
    seen: list[str] = []
    cursor = None
    while True:
        page = await sdk.do(
            lambda client, cursor=cursor: client.environment_variables.list(  # type: ignore[misc]
                page_size=2, cursor=cursor
            )
        )
        seen += [one.label for one in page.environment_variables]
        cursor = page.next_cursor
        assert page.has_more == (cursor is not None)
        if cursor is None:
            break
    assert seen == [f"label_{number}" for number in range(5)]
    staging = await sdk.do(lambda client: client.environment_variables.list(environment="staging"))
    assert [one.values for one in staging.environment_variables] == [{"staging": "s"}] * 2
    exact = await sdk.do(lambda client: client.environment_variables.list(label="label_3"))
    assert [one.label for one in exact.environment_variables] == ["label_3"]
    typed = await sdk.do(lambda client: client.environment_variables.list(type="secret"))
    assert typed.environment_variables == []


async def test_the_documented_errors_arrive_as_the_sdk_knows_them(sdk: Sdk) -> None:
    def create(label: str, values: dict[str, str]) -> Callable[[ElevenLabs], object]:
        return lambda client: client.environment_variables.create(
            request=StringVariable(label=label, values=values)
        )

    await sdk.do(create("taken", {"production": "p"}))
    # The SDK sends a 409 three times; none of the three changes anything.
    assert (await sdk.fails(create("taken", {"production": "p"}))).status_code == 409
    assert (await sdk.fails(create("no_production", {"staging": "s"}))).status_code == 400
    refused = await sdk.fails(create("bad label", {"production": "p"}))
    assert refused.status_code == 422
    assert refused.body["detail"][0]["loc"] == ["body", "label"]
    unknown = await sdk.fails(
        lambda client: client.environment_variables.create(
            request=SecretVariable(label="x", values={"production": {"secret_id": "nope"}})  # type: ignore[dict-item]
        )
    )
    assert unknown.status_code == 400
    listed = await sdk.do(lambda client: client.environment_variables.list())
    assert [one.label for one in listed.environment_variables] == ["taken"]


async def test_environments_are_listed_made_and_deleted(sdk: Sdk) -> None:
    made = await sdk.do(lambda client: client.environments.create(name="dev-us-east"))
    assert made.name == "dev-us-east"
    taken = await sdk.fails(lambda client: client.environments.create(name="dev-us-east"))
    assert taken.status_code == 409
    variable = await sdk.do(
        lambda client: client.environment_variables.create(
            request=StringVariable(label="v", values={"production": "p", "dev-us-east": "d"})
        )
    )
    await sdk.do(lambda client: client.environments.delete("dev-us-east"))
    read = await sdk.do(lambda client: client.environment_variables.get(variable.id))
    assert read.values == {"production": "p"}
    production = await sdk.fails(lambda client: client.environments.delete("production"))
    assert production.status_code == 400
    missing = await sdk.fails(lambda client: client.environments.delete("dev-us-east"))
    assert missing.status_code == 404


async def test_a_secret_is_made_listed_updated_and_refuses_deletion_while_in_use(sdk: Sdk) -> None:
    secrets = sdk.client.conversational_ai.secrets
    made = await sdk.do(lambda _: secrets.create(name="stripe_live", value="sk_1"))
    other = await sdk.do(lambda _: secrets.create(name="other", value="o"))
    found = await sdk.do(lambda _: secrets.list(search="stripe"))
    assert [one.name for one in found.secrets] == ["stripe_live"]
    paged = await sdk.do(lambda _: secrets.list(page_size=1))
    rest = await sdk.do(lambda _: secrets.list(page_size=1, cursor=paged.next_cursor))
    assert [one.secret_id for one in (*paged.secrets, *rest.secrets)] == [
        made.secret_id,
        other.secret_id,
    ]
    assert rest.next_cursor is None
    renamed = await sdk.do(
        lambda _: secrets.update(made.secret_id, name="stripe_test", value="sk_2")
    )
    assert (renamed.secret_id, renamed.name) == (made.secret_id, "stripe_test")
    variable = await sdk.do(
        lambda client: client.environment_variables.create(
            request=SecretVariable(
                label="key",
                values={"production": {"secret_id": made.secret_id}},  # type: ignore[dict-item]
            )
        )
    )
    refused = await sdk.fails(lambda _: secrets.delete(made.secret_id))
    assert refused.status_code == 409
    assert "key (production)" in str(refused.body)
    await sdk.do(lambda client: client.environment_variables.delete(variable.id))
    await sdk.do(lambda _: secrets.delete(made.secret_id))
    assert (await sdk.fails(lambda _: secrets.get(made.secret_id))).status_code == 404
    uses = await sdk.do(lambda _: secrets.get_dependencies(other.secret_id, "tools"))
    assert uses.dependencies == []


KINDS: dict[str, dict[str, Any]] = {
    "OAuth2ClientCredentials": {
        "client_id": "c",
        "token_url": "https://auth.example.com/token",
        "client_secret": "s3cret-client",
        "scopes": ["a", "b"],
        "extra_params": {"audience": "x"},
        "basic_auth_in_header": True,
        "custom_headers": {"X-A": "b"},
    },
    "Oauth2Jwt": {
        "issuer": "i",
        "audience": "a",
        "subject": "s",
        "token_url": "https://auth.example.com/token",
        "secret_key": "s3cret-key-that-is-long-enough-for-hs256",
        "key_id": "k1",
        "expiration_seconds": 600,
        "scopes": ["a"],
    },
    "PrivateKeyJwt": {
        "issuer": "i",
        "audience": "a",
        "subject": "s",
        "secret_key": "s3cret-key-that-is-long-enough-for-hs256",
    },
    "BasicAuth": {"username": "u", "password": "s3cret-password"},
    "BearerAuth": {"token": "s3cret-token"},
    "CustomHeaderAuth": {"header_name": "X-Token", "token": "s3cret-token"},
    "Mtls": {},  # a certificate is made for the run
}


@pytest.fixture(scope="module", autouse=True)
def _certificate(tmp_path_factory: pytest.TempPathFactory) -> None:
    pem = Authority(tmp_path_factory.mktemp("authority")).chain("client").read_text()
    KINDS["Mtls"] = {"client_certificate": pem, "client_key": pem}


def request_of(kind: str) -> Any:
    prefix = "AuthConnectionsCreateRequestBody_"
    wanted = f"{prefix}{kind}".lower()
    [name] = [one for one in dir(auth) if one.lower() == wanted]
    return getattr(auth, name)(name=f"my {kind}", provider="acme", **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_of_auth_connection_comes_back_without_its_secret(
    sdk: Sdk, kind: str
) -> None:
    connections = sdk.client.workspace.auth_connections
    made = await sdk.do(lambda _: connections.create(request=request_of(kind)))
    shown = plain(made)
    assert shown["name"] == f"my {kind}"
    assert shown["status"] == "active"
    assert "s3cret" not in str(shown)
    assert "-----BEGIN" not in str(shown)
    for name, value in KINDS[kind].items():
        if "s3cret" not in str(value) and "-----BEGIN" not in str(value):
            assert shown[name] == value
    listed = await sdk.do(lambda _: connections.list())
    assert [plain(one)["id"] for one in listed.auth_connections] == [made.id]
    await sdk.do(lambda _: connections.delete(made.id))
    assert (await sdk.do(lambda _: connections.list())).auth_connections == []


async def test_an_auth_connection_is_updated_where_its_kind_allows_it(
    sdk: Sdk, tenant: Tenant
) -> None:
    connections = sdk.client.workspace.auth_connections
    made = await sdk.do(lambda _: connections.create(request=request_of("BasicAuth")))
    changed = await sdk.do(
        lambda _: connections.update(
            made.id,
            request=auth.AuthConnectionsUpdateRequestBody_BasicAuth(username="new"),
        )
    )
    assert plain(changed)["username"] == "new"
    fetching = await sdk.do(
        lambda _: connections.create(request=request_of("OAuth2ClientCredentials"))
    )
    merged = await sdk.do(
        lambda _: connections.update(
            fetching.id,
            request=auth.AuthConnectionsUpdateRequestBody_Oauth2ClientCredentials(
                extra_params={"audience": None, "resource": "r"}, custom_headers={"X-B": "c"}
            ),
        )
    )
    assert plain(merged)["extra_params"] == {"resource": "r"}
    assert plain(merged)["custom_headers"] == {"X-A": "b", "X-B": "c"}
    path = f"/v1/workspace/auth-connections/{fetching.id}"
    whole = await tenant.api.call("PATCH", path, body={"extra_params": None, "scopes": ["z"]})
    assert (whole.status, whole.json["extra_params"]) == (200, {"resource": "r"})
    assert whole.json["scopes"] == ["z"]
    header = await sdk.do(lambda _: connections.create(request=request_of("CustomHeaderAuth")))
    refused = await sdk.fails(
        lambda _: connections.update(
            header.id, request=auth.AuthConnectionsUpdateRequestBody_BearerAuth(token="x")
        )
    )
    assert refused.status_code == 400


async def test_a_wrong_key_is_refused_as_elevenlabs_refuses_it(tenant: Tenant) -> None:
    stranger = Sdk(tenant.api.base, "wrong")
    refused = await stranger.fails(lambda client: client.environment_variables.list())
    stranger.close()
    assert refused.status_code == 401
    assert refused.body["detail"]["status"] == "invalid_api_key"
