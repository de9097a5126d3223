"""What is left of a mint when nothing is decided: our two statements, our sealing, our answer.

* A batch's keys, users, profiles and tokens are read, opened and put into an answer as ours is; a
  grant is drawn, a promise sealed, and conversation, holds and line in the record are written.
* Nobody asks whether it may be, nor what of it: there is no gate, no agent, no variable, and one
  kind of user. How an answer looks, the product says once, of whoever comes first.

So this is about the least that a mint with these statements and this sealing costs here.
"""

import os
from functools import partial
from typing import Any

import msgspec
from litestar.types import Receive, Send

from bench.baselines.hello_raw import Message
from broker import boot, conversations, settings
from broker.api.conversation_messages import ConversationIn, ConversationMade
from broker.api.raw import answered, received, whole
from broker.broker import Broker
from broker.conversation import START_WITHIN, Wanted
from broker.mint.batches import Batches
from broker.mint.looking import Question, look_up, places_from
from broker.mint.quick import GATHER
from broker.mint.stencils import Stencil
from broker.mint.writing import Deed, write_down
from vault import bearer
from vault.model import Caller, new_id
from vault.vault import Vault
from vault.vault.surveys import Opened, SealedTokens

BATCH = 128
KEPT = bytes(1_550)  # so much is promised to the conversation of the benchmark
REQUEST = "req_bare"

_decode = msgspec.json.Decoder(ConversationIn).decode
_json = msgspec.json.Encoder().encode


class Minted:
    """What mints."""

    def __init__(self, vault: Vault, broker: Broker) -> None:
        self._vault = vault
        self._broker = broker
        self._looks = Batches(partial(look_up, vault), BATCH, gather=GATHER)
        self._writes = Batches(partial(write_down, vault), BATCH, gather=GATHER)
        self._like: Stencil | None = None

    async def answer(self, key: str, body: bytes) -> bytes:
        wanted, key_hash = _decode(body).wanted(), self._vault.fingerprint(key)
        row = await self._looks.ask(None, Question(key_hash, wanted.user_id, "", wanted.agent_id))
        assert row is not None
        caller, stands = row.caller(REQUEST), row.stands()
        tokens = zip(
            places_from(row.shape),
            stands.ids,
            stands.tokens_generations,
            stands.sealed,
            strict=True,
        )
        sealed = [
            SealedTokens(one, int(generation), row.environment, some)
            for _, one, generation, some in sorted(tokens)
        ]
        opened = await self._vault.opened(caller, wanted.user_id, row, sealed)
        if self._like is None:
            self._like = await self._first(caller, wanted, opened)
        conversation_id, grant = new_id("kcv"), bearer.generate("grant")
        context = conversations.context(caller.workspace, conversation_id)
        ids = " ".join(stands.ids)
        deed = Deed(
            hashes=key_hash,
            workspace_ids=caller.workspace,
            conversation_ids=conversation_id,
            event_ids="evt" + conversation_id[3:],
            user_ids=wanted.user_id,
            user_refs=opened.user_ref,
            agent_ids=wanted.agent_id,
            environments=row.environment,
            runtimes="sealed",
            channels=wanted.channel,
            deliveries="inline",
            branch_ids="",
            reached=ids,
            kept=self._vault.seal_owned(caller, opened.owner, context, KEPT),
            armed=True,
            bearer_kinds="grant",
            bearer_hashes=self._vault.fingerprint(grant),
            ticket_hashes=None,
            start_within=START_WITHIN,
            lasts=wanted.lasts,
            promised=0,
            request_ids=REQUEST,
            looking=False,
            token_ids=ids,
            token_generations=" ".join(stands.generations),
            unnoticed=False,
        )
        times = await self._writes.ask(None, deed)
        assert times is not None
        values = [conversation_id.encode(), grant.reveal_bytes(), _json(times.expires_at)]
        return self._like.filled(values + _values(wanted.user_id, opened))

    async def _first(self, caller: Caller, wanted: Wanted, opened: Opened) -> Stencil:
        """An answer of the product's, cut where another one's differs."""
        made = await self._broker.minting.mint(caller, wanted)
        grant = str(made.variables["secret__keyturn_authorization"]).removeprefix("Bearer ")
        gaps = [made.conversation_id.encode(), grant.encode(), _json(made.expires_at)]
        answer = _json(ConversationMade.of(made))
        return Stencil(answer, gaps + _values(wanted.user_id, opened))


class App:
    """Mints for every request, while it is open."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._opened(receive, send)
            return
        key = dict(scope["headers"])[b"authorization"][len("Bearer ") :].decode()
        body = whole(await received(receive))
        assert body is not None
        await answered(send, 201, await self._minted.answer(key, body))

    async def _opened(self, receive: Receive, send: Send) -> None:
        begun: Any = {"type": "lifespan.startup.complete"}
        over: Any = {"type": "lifespan.shutdown.complete"}
        await receive()
        async with boot.house(settings.load(os.environ)) as house:
            self._minted = Minted(house.vault, house.broker)
            await send(begun)
            await receive()
        await send(over)


def _values(user_id: str, opened: Opened) -> list[bytes]:
    tokens = [str(one.access_token).encode() for one in opened.tokens]
    return [_json(user_id), _json(opened.profile.name), *tokens]


app = App()
