"""A desk with a telephone: numbers, webhooks before and after a call, and who calls."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from conftest import Tenant
from msgspec import Struct

from broker.sandbox.elevenlabs.account import FIRST_KEY
from broker.sandbox.elevenlabs.knobs import Behaviour
from support.api import Api, Reply
from support.eleven import AGENT, Eleven
from support.minting import Desk, minting
from support.sandbox import Provider

NUMBERS: Final = "/v1/convai/phone-numbers"
SETTINGS: Final = "/v1/convai/settings"
WEBHOOKS: Final = "/v1/workspace/webhooks"
INITIATION: Final = "conversation_initiation_client_data"
ASKS_FIRST: Final = {"overrides": {"enable_conversation_initiation_client_data_from_webhook": True}}
ADA: Final = "+15550100001"
DESK: Final = "+15550200001"
TOKEN: Final = "secret__user_google_token"
HANDLE: Final = "secret__keyturn_authorization"


class Telephone(Struct, frozen=True):
    """The platform's telephone, and the world that it rings in."""

    desk: Desk
    hooks: Api  # with the key that ElevenLabs sends

    @property
    def api(self) -> Api:
        return self.desk.api

    @property
    def eleven(self) -> Eleven:
        return self.desk.eleven

    @property
    def hook(self) -> str:
        return f"/hooks/elevenlabs/{self.desk.tenant.id}"

    # Numbers

    async def number(
        self, number: str = DESK, *, through_us: bool = True, provider: str = "twilio", **more: Any
    ) -> str:
        """A number that the agent answers; through our API, or behind our back."""
        body = {"phone_number": number, "label": "Desk", "provider": provider}
        changed = {"agent_id": AGENT, **more}
        if through_us:
            made = (await self.api.post(NUMBERS, body)).json["phone_number_id"]
            reply = await self.api.call("PATCH", f"{NUMBERS}/{made}", body=changed)
        else:
            made = (await self.eleven.made(NUMBERS, body))["phone_number_id"]
            reply = await self.eleven.call("PATCH", f"{NUMBERS}/{made}", changed)
        assert reply.status == 200, reply.body
        return str(made)

    # Calls in

    async def asks_first(self, query: str = "", **agent: Any) -> None:
        """Have the agent ask our webhook, with the key in the account's secret store."""
        await self.eleven.agent(platform=ASKS_FIRST, **agent)
        key = {"type": "new", "name": "k", "value": f"Bearer {self.hooks._key}"}  # noqa: SLF001
        secret = await self.eleven.made("/v1/convai/secrets", key)
        headers = {"Authorization": {"secret_id": secret["secret_id"]}}
        hook = {"url": f"{self.api.base}{self.hook}/initiation{query}", "request_headers": headers}
        body = {"conversation_initiation_client_data_webhook": hook}
        reply = await self.eleven.call("PATCH", SETTINGS, body)
        assert reply.status == 200, reply.body

    async def ring(self, caller: str = ADA, called: str = DESK, **more: Any) -> Any:
        """Let somebody call; what became of it."""
        asked = {"caller_id": caller, "called_number": called, **more}
        return (await self.eleven.knob("POST", "/elevenlabs/inbound", asked)).json

    async def ask(self, caller: str = ADA, *, api: Api | None = None, **more: Any) -> Reply:
        """Ask our webhook as ElevenLabs does."""
        body = {
            "caller_id": caller,
            "agent_id": AGENT,
            "called_number": DESK,
            "call_sid": "CA1",
            **more,
        }
        return await (api or self.hooks).post(f"{self.hook}/initiation", body)

    async def answer(self, caller: str = ADA, **more: Any) -> Any:
        reply = await self.ask(caller, **more)
        assert reply.status == 200, reply.body
        assert reply.headers["Cache-Control"] == "no-store"
        return reply.json

    # Calls out

    async def call(
        self,
        line: str = "twilio/outbound-call",
        initiation: Mapping[str, Any] | None = None,
        *,
        api: Api | None = None,
        key: str | None = None,
        **more: Any,
    ) -> Reply:
        headers = {} if key is None else {"Idempotency-Key": key}
        body: dict[str, Any] = {"agent_id": AGENT, "to_number": ADA, **more}
        if initiation is not None:
            body[INITIATION] = initiation
        return await (api or self.api).post(f"/v1/convai/{line}", body, headers=headers)

    # What became of it

    def started_with(self, conversation_id: str) -> dict[str, Any]:
        """The variables that reached ElevenLabs."""
        found = self.eleven.world.accounts[FIRST_KEY].conversations[conversation_id]
        return dict(found.variables)

    def sent(self, line: str) -> Any:
        """The body of the last request of this kind that reached ElevenLabs."""
        every = [one for one in self.eleven.world.requests if one.path.endswith(line)]
        return every[-1].body

    async def conversations(self) -> list[Any]:
        """Ours, newest first."""
        found: list[Any] = (await self.api.get("/v1/conversations")).json["data"]
        return found

    # The end

    async def tells_us(self, *events: str) -> str:
        """Have ElevenLabs tell our webhook when a call is over; its secret."""
        url = f"{self.api.base}{self.hook}/post-call"
        settings = {"auth_type": "hmac", "name": "n", "webhook_url": url}
        made = await self.eleven.made(WEBHOOKS, {"settings": settings})
        chosen: dict[str, Any] = {"post_call_webhook_id": made["webhook_id"]}
        if events:
            chosen["events"] = [*events]
        reply = await self.eleven.call("PATCH", SETTINGS, {"webhooks": chosen})
        assert reply.status == 200, reply.body
        secret = str(made["webhook_secret"])
        await self.knows("retired-" + "0" * 24, secret)
        return secret

    async def knows(self, *secrets: str) -> None:
        body = {
            "base_url": self.desk.provider.base,
            "api_key": FIRST_KEY,
            "webhook_secrets": [*secrets],
        }
        reply = await self.api.put("/v1/upstreams/elevenlabs", body)
        assert reply.status == 200, reply.body

    async def hang_up(self, conversation_id: str, **how: Any) -> list[int | None]:
        """End a call at ElevenLabs; what our webhook answered."""
        asked = {"conversation_id": conversation_id, "webhook": how}
        reply = await self.eleven.knob("POST", "/elevenlabs/end", asked)
        return [one["status"] for one in reply.json["delivered"]]

    def signed(self, body: bytes, header: str, *, workspace: str | None = None) -> Any:
        """Post to the webhook of the end, signed so."""
        where = f"/hooks/elevenlabs/{workspace or self.desk.tenant.id}/post-call"
        headers = {"ElevenLabs-Signature": header}
        return self.api.with_key(None).call("POST", where, raw=body, headers=headers)


def over(conversation_id: str, kind: str = "post_call_transcription", **data: Any) -> bytes:
    """A webhook's body."""
    told = {"conversation_id": conversation_id, "agent_id": AGENT, **data}
    return json.dumps({"type": kind, "event_timestamp": 1, "data": told}).encode()


@contextlib.asynccontextmanager
async def telephoning(tenant: Tenant, provider: Provider) -> AsyncIterator[Telephone]:
    """A desk whose user Ada has a number, with an upstream and a key for the webhook."""
    # Whoever is asked before a call has time to answer, on any machine.
    provider.state.elevenlabs.behaviour = Behaviour(webhook_timeout=60)
    async with minting(tenant, provider) as desk:
        await desk.user(phone_numbers=[ADA])
        yield Telephone(desk, await desk.key("hooks"))
