"""The architecture is a test: who imports whom, who may reveal a secret, how large things get.

A rule is a function from the sources to complaints, so that each can be shown a toy that breaks it.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import pytest
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import fields

from broker.settings import Settings
from vault.secret import Secret
from vault.settings import VaultSettings

CHECKOUT = Path(__file__).resolve().parents[1]
MAX_LINES, MAX_FUNCTION, MAX_ENTRIES = 500, 60, 40

# A module imports only what stands before it. A new module gets its step here, and a line in
# docs/architecture.md.
STEPS: Final = """
    vault vault.secret vault.errors vault.auth_kinds vault.model vault.settings
    vault.tracing vault.seal vault.bearer vault.kms vault.kms.file
    vault.kms.remote vault.kms.aws vault.kms.transit vault.kms.pkcs11 vault.kms.gcp vault.kms.azure
    vault.keyring
    vault.dsn vault.database.faults vault.database.line vault.database.reaching
    vault.database.locks vault.database
    vault.embedded.programs vault.embedded.files vault.embedded
    vault.sql vault.migrations
    vault.egress.address vault.egress.names vault.egress.deadline vault.egress.unpacking
    vault.egress.messages vault.egress.waits vault.egress.journey vault.egress.wire
    vault.egress.pool vault.egress.failures vault.egress.errand vault.egress.sessions
    vault.egress.streams vault.egress.sockets
    vault.egress vault.egress.certificates
    vault.providers.schema vault.providers.check vault.providers.derived
    vault.providers.failures vault.providers
    vault.oauth.app vault.oauth.keys vault.oauth.paths vault.oauth.replies vault.oauth
    vault.oauth.signatures vault.oauth.filling vault.oauth.refusals vault.oauth.lifetimes
    vault.oauth.id_token vault.oauth.discovery vault.oauth.device vault.oauth.header
    vault.oauth.api
    vault.oauth.assertions vault.oauth.authorize vault.oauth.callbacks vault.oauth.accounts
    vault.oauth.oauth1 vault.oauth.renewing vault.oauth.revoking vault.oauth.typed
    vault.oauth.requests vault.oauth.reading
    vault.lifecycle vault.lifecycle.terms vault.lifecycle.life vault.lifecycle.events
    vault.lifecycle.intents vault.lifecycle.backoff vault.lifecycle.takeover
    vault.lifecycle.machine vault.lifecycle.clocks vault.lifecycle.schedule
    vault.lifecycle.handout vault.lifecycle.turns vault.lifecycle.window
    vault.lifecycle.breaker vault.lifecycle.rate vault.lifecycle.retries
    vault.lifecycle.standing vault.lifecycle.endpoint
    vault.dialogue.clients vault.dialogue.metadata vault.dialogue vault.consent
    vault.environments
    vault.shredding vault.shredding.ledger
    vault.audit vault.idempotency vault.events vault.events.deliveries
    vault.store.owners vault.store vault.store.environments vault.store.auth_tokens
    vault.store.connections vault.store.tries vault.store.refreshing vault.store.calls
    vault.store.answers
    vault.store.events vault.store.surveys vault.store.keys vault.store.counts
    vault.store.sealed_rows
    vault.authenticate
    vault.keyring.announcing vault.keyring.rotations vault.keyring.roots
    vault.keyring.workspaces vault.keyring.verifying
    vault.refreshing.batches vault.refreshing.spool vault.refreshing.folder
    vault.refreshing.marks
    vault.refreshing.replica vault.refreshing.room
    vault.refreshing.page vault.refreshing.observing vault.refreshing.consents
    vault.refreshing.resting vault.refreshing.lane vault.refreshing.outlets
    vault.refreshing.keeping vault.refreshing.calling vault.refreshing.flight vault.refreshing
    vault.chain vault.chain.anchors vault.chain.rows vault.chain.sealing vault.chain.verifying
    vault.chain.exporting vault.chain.forgetting
    vault.backup vault.backup.archive vault.backup.tables vault.backup.taking
    vault.backup.moving_on vault.backup.restoring
    vault.access vault.scheduler
    vault.vault.door vault.vault.guests vault.vault.tenants vault.vault.variables
    vault.vault.secrets
    vault.vault.authentication vault.vault.calls vault.vault.catalogue
    vault.vault.integrations vault.vault.returns vault.vault.connections
    vault.vault.explaining vault.vault.refreshing vault.vault.provider_apis vault.vault.surveys
    vault.vault.looks vault.vault.chaining vault.vault.counting vault.vault.rekeying
    vault.vault.backups
    vault.vault.tries vault.vault.invitations vault.vault.connect vault.vault.events vault.vault

    broker broker.migrations broker.settings broker.logs broker.admission broker.frames
    broker.events broker.metrics
    broker.runtimes broker.runtimes.sealed broker.runtimes.livekit
    broker.runtimes.signing
    broker.resolve.masking broker.resolve.templates broker.resolve.meanings broker.resolve.urls
    broker.resolve.bodies broker.resolve.configs broker.resolve broker.invoke
    broker.gateway broker.gateway.paths
    broker.profile broker.variables broker.variables.filling
    broker.tools.lint broker.tools broker.tools.stored
    broker.environment_file.tree broker.environment_file.reader broker.environment_file.document
    broker.environment_file.writing broker.environment_file.plan broker.environment_file.values
    broker.environment_file.showing broker.environment_file
    broker.targets broker.targets.own broker.targets.remote
    broker.upstreams.client broker.upstreams.once broker.upstreams.rows broker.agents
    broker.telephone broker.telephone.numbers broker.upstreams broker.upstreams.livekit
    broker.upstreams.drift
    broker.tools.pushing
    broker.runtimes.elevenlabs broker.conversation broker.conversations
    broker.sealed_rows broker.delivery
    broker.mint.scenes broker.mint broker.mint.batches broker.mint.looking broker.mint.writing
    broker.mint.stencils broker.mint.patterns broker.mint.quick broker.mint.reads broker.grants
    broker.readiness
    broker.gateway.limits broker.gateway.renewal_rules broker.gateway.renewals
    broker.gateway.headers broker.gateway.calls broker.gateway.tool_calls
    broker.gateway.stored_calls
    broker.telephone.phone_numbers broker.telephone.incoming broker.telephone.overtaken
    broker.telephone.outgoing broker.telephone.post_call
    broker.broker broker.relay
    broker.api broker.api.lights
    broker.api.messages broker.api.provider_messages broker.api.resolve_messages
    broker.api.connect_messages broker.api.token_messages broker.api.event_messages
    broker.api.agent_messages broker.api.conversation_messages
    broker.api.reasons broker.api.problems broker.api.requests broker.api.responses
    broker.api.examples broker.api.gate broker.api.tracing
    broker.api.workspaces broker.api.keys broker.api.users broker.api.audit_events
    broker.api.settings broker.api.resolve broker.api.providers
    broker.api.integrations broker.api.connections broker.api.tokens
    broker.api.connect_sessions broker.api.event_endpoints broker.api.agents
    broker.api.upstreams broker.api.conversations broker.api.raw broker.api.raw.tokens
    broker.api.signing_keys
    broker.api.hooks broker.api.refresh_tool broker.api.gateway
    broker.api.convai.errors broker.api.convai.messages broker.api.convai.passing
    broker.api.convai.environment_variables broker.api.convai.environments
    broker.api.convai.secrets broker.api.convai.auth_connections broker.api.convai.sessions
    broker.api.convai.outbound_calls broker.api.convai.phone_numbers
    broker.api.convai.conversation_socket broker.api.convai
    broker.api.health broker.api.surface
    broker.web.static broker.web broker.web.wording broker.web.endings broker.web.forms
    broker.web.connect broker.web.catalogue broker.web.people
    broker.boot broker.cli.restoring broker.app broker.server broker.doctor.advice broker.doctor
    broker.sandbox.knobs broker.sandbox.history broker.sandbox.evil broker.sandbox.device
    broker.sandbox.elevenlabs.knobs broker.sandbox.elevenlabs.leaks broker.sandbox.elevenlabs
    broker.sandbox.elevenlabs.chunked broker.sandbox.dialect broker.sandbox.signing
    broker.sandbox.grants broker.sandbox.faults broker.sandbox.elevenlabs.account
    broker.sandbox.pages broker.sandbox.shapes broker.sandbox.elevenlabs.wire
    broker.sandbox.elevenlabs.templates broker.sandbox.consent broker.sandbox.elevenlabs.agents
    broker.sandbox.elevenlabs.values broker.sandbox.elevenlabs.credentials
    broker.sandbox.elevenlabs.authorize broker.sandbox.state
    broker.sandbox.elevenlabs.toolrequests broker.sandbox.elevenlabs.conversations
    broker.sandbox.clients broker.sandbox.panel broker.sandbox.elevenlabs.sessions
    broker.sandbox.elevenlabs.history broker.sandbox.elevenlabs.toolcalls broker.sandbox.minting
    broker.sandbox.oauth1 broker.sandbox.elevenlabs.deliveries broker.sandbox.elevenlabs.dialogue
    broker.sandbox.tokens broker.sandbox.speaking broker.sandbox.elevenlabs.workspace
    broker.sandbox.elevenlabs.calls broker.sandbox.elevenlabs.socket broker.sandbox.provider
    broker.sandbox.elevenlabs.panel broker.sandbox.elevenlabs.app broker.sandbox.registration
    broker.sandbox.routes broker.sandbox.app broker.sandbox broker.sandbox.server
    broker.sandbox.__main__
    broker.demo.world broker.demo.browser broker.demo.talk broker.demo.transcript
    broker.demo.stage broker.demo.story broker.demo
    broker.terminal broker.cli.agent broker.cli.upstream broker.cli.env broker.cli.provider
    broker.cli.integration broker.cli.connection broker.cli.events broker.cli.rekey broker.cli.audit
    broker.cli.backup broker.cli.serving
    broker.cli broker.cli.__main__
"""
STAIRCASE: Final = tuple(STEPS.split())
UPWARD: Final = {
    ("vault.kms", f"vault.kms.{kind}"): "a kind of root key is imported where its address names it"
    for kind in ("file", "aws", "transit", "pkcs11", "gcp", "azure")
}
JOSE: Final = {
    "vault.oauth",
    "vault.oauth.keys",
    "vault.oauth.id_token",
    "vault.oauth.assertions",
    "broker.runtimes.sealed",  # what a runtime opens by itself is signed, and encrypted for it
    "broker.runtimes.livekit",  # LiveKit's own token
}
ONLY_IN: Final = {
    "asyncpg": {
        "vault.database",
        "vault.database.faults",
        "vault.database.reaching",
        "vault.database.locks",
    },
    "aiohttp": {
        "vault.egress.failures",
        "vault.egress.sessions",
        "vault.egress.sockets",
        "vault.egress.streams",
    },
    "aiohappyeyeballs": {"vault.egress.pool"},
    "httptools": {"vault.egress.wire"},
    "authlib": set(),  # a peer of the tests: vault.oauth.oauth1 says why it does not sign here
    "joserfc": JOSE,
    "apscheduler": {"vault.scheduler"},
    # The sandbox signs as the outside world does, and so with nothing of ours.
    "cryptography": {"vault.seal", "vault.kms.file", "broker.sandbox.signing"},
    "AESGCM": {"vault.seal", "vault.kms.file"},
    # Extras: a kind of root key each.
    "boto3": {"vault.kms.aws"},
    "hvac": {"vault.kms.transit"},
    "pkcs11": {"vault.kms.pkcs11"},
    "google": {"vault.kms.gcp"},
    "azure": {"vault.kms.azure"},
    "opentelemetry": {"broker.api.tracing"},  # an extra
    "uvicorn": {"broker.server", "broker.sandbox.server"},
}
NEVER_IN_VAULT: Final = {"broker", "litestar", "uvicorn", "starlette", "elevenlabs"}
REVEALING: Final = {
    "vault.bearer": "a bearer is parsed and hashed",
    "vault.dsn": "a login is made from an address with its password",
    "vault.database.reaching": "asyncpg wants an address with its password",
    "vault.egress.messages": "credentials leave in headers and bodies of outbound calls",
    "vault.egress.sockets": "a signed URL is opened; the first frame of a conversation leaves",
    "vault.kms": "the root key's address may hold a credential",
    "vault.kms.transit": "a token or a secret id opens Transit",
    "vault.kms.pkcs11": "a PIN opens a token",
    "vault.egress.certificates": "a client's certificate and key go into a TLS context",
    "vault.oauth": "an assertion is signed, and goes into the body of a token request",
    "vault.oauth.replies": "the claims of a token that was given are read",
    "vault.oauth.accounts": "a part of a token may name the account",
    "vault.oauth.assertions": "an assertion is signed",
    "vault.oauth.authorize": "a verifier is hashed into its challenge",
    "vault.oauth.filling": "values go into the addresses, headers and bodies of requests",
    "vault.oauth.id_token": "an ID token is decoded and verified",
    "vault.oauth.oauth1": "a request is signed with two secrets",
    "vault.oauth.signatures": "what came back is checked against a secret",
    "vault.oauth.typed": "what a person typed goes into a request, or is too long",
    "vault.authenticate": "a fetched token becomes a header, and is sealed",
    "vault.store.connections": "tokens, and what a person typed, are sealed",
    "vault.store.events": "an endpoint's address and secrets are sealed",
    "vault.refreshing.lane": "an answer that could not be read is sealed as it came",
    "vault.vault.secrets": "the value of a secret is sealed",
    "vault.vault.integrations": "the value of a label becomes part of an app registration",
    "vault.vault.connect": "state and nonce go into the address of a consent page",
    "vault.vault.invitations": "the code that completes goes back with the person's browser",
    "broker.runtimes.sealed": "a token is signed with the workspace's private key",
    "broker.runtimes.livekit": "a token is signed with the project's secret, and holds a handle",
    "broker.gateway.calls": "a credential may be a part of the base URL; an answer is masked",
    "broker.runtimes.signing": "a private key just made is sealed",
    "broker.admission": "a ticket stands in the URL that a client opens",
    "broker.delivery": "a bearer becomes a header's value; values go to who they are delivered to",
    "broker.gateway.tool_calls": "an API's address, to be compared with where a request goes",
    "broker.upstreams.livekit": "a project's API secret is hashed, and sealed",
    "broker.upstreams": "an account's API key is hashed, and sealed with its webhook secrets",
    "broker.telephone.outgoing": "what an answer repeats of what was put in is masked",
    "broker.telephone.post_call": "a webhook's signature is checked",
    "broker.tools.pushing": "a runtime key just made goes into the account's secret store",
    "broker.resolve.meanings": "a secret's value becomes part of a header",
    "broker.events": "a delivery is signed",
    "broker.invoke": "an answer that repeats a secret is masked",
    "broker.targets.own": "what a file's secrets say is stored, in an auth connection",
    "broker.targets.remote": "what a file's secrets say is sent to the target",
    "broker.settings": "two operator keys stand in one variable",
    "broker.api.requests": "an operator's key is compared",
    "broker.api.problems": "a link that was asked for says how to connect what is missing",
    "broker.api.messages": "a key just made is answered, once",
    "broker.api.connect_messages": "a link just made is answered, once",
    "broker.api.event_messages": "a secret just made is answered, once",
    "broker.api.conversation_messages": "what a client starts with is answered, once",
    "broker.api.convai.sessions": "what a client starts with is answered, once",
    "broker.api.refresh_tool": "a token is answered, to the conversation that holds it",
    "broker.api.token_messages": "a token is answered, to who may read it",
    "broker.web.people": "a browser's cookie is set; the state stands in the page's own form",
    "broker.cli": "a key just made is printed, once",
    "broker.cli.serving": "the first key of a new deployment is printed, once",
}
MAY_PRINT: Final = {"broker.terminal", "broker.sandbox.__main__"}
NO_NAMES: Final = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "manager",
    "core",
    "base",
    "misc",
}
MARKS: Final = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


class Source(Struct, frozen=True):
    """One module of the product."""

    name: str
    text: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


Sources = dict[str, Source]
Rule = Callable[[Sources], list[str]]


def product() -> Sources:
    found = {}
    for path in sorted([*(CHECKOUT / "vault").rglob("*.py"), *(CHECKOUT / "broker").rglob("*.py")]):
        name = ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        is_package = name.endswith(".__init__")
        name = name.removesuffix(".__init__")
        found[name] = Source(name, path.read_text(), is_package)
    return found


def imported(source: Source, known: Sources) -> Iterator[str]:
    """What a module imports, wherever in it that stands; whole dotted names where they are ours."""
    package = source.name if source.is_package else source.name.rpartition(".")[0]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            parts = [above if node.level else "", node.module or ""]
            origin = ".".join(part for part in parts if part)
            for one in node.names:
                whole = f"{origin}.{one.name}"
                yield whole if whole in known else origin


def names_in(source: Source) -> set[str]:
    return {
        one.name
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom)
        for one in node.names
    }


def goes_down(sources: Sources, steps: tuple[str, ...] = STAIRCASE) -> list[str]:
    complaints = [f"{name} has no step" for name in sources if name not in steps]
    complaints += [f"step {name} has no module" for name in steps if name not in sources]
    place = {name: number for number, name in enumerate(steps)}
    for source in sources.values():
        for target in imported(source, sources):
            if target not in sources or (source.name, target) in UPWARD:
                continue
            if place.get(target, 0) >= place.get(source.name, len(steps)):
                complaints.append(f"{source.name} imports {target}, which stands above it")
    return complaints


def vault_knows_no_web(sources: Sources) -> list[str]:
    return [
        f"{source.name} imports {target}"
        for source in sources.values()
        if source.name.split(".")[0] == "vault"
        for target in imported(source, sources)
        if target.split(".")[0] in NEVER_IN_VAULT
    ]


def one_importer(sources: Sources) -> list[str]:
    return [
        f"{source.name} imports {target}"
        for source in sources.values()
        for target in {one.split(".")[0] for one in imported(source, sources)} | names_in(source)
        if source.name not in ONLY_IN.get(target, {source.name})
    ]


def few_reveal(sources: Sources) -> list[str]:
    found = {
        source.name
        for source in sources.values()
        for node in ast.walk(source.tree)
        # The attribute and not the call: `map(Secret.reveal, ...)` reveals too.
        if isinstance(node, ast.Attribute) and node.attr in {"reveal", "reveal_bytes", "_value"}
        if source.name != "vault.secret" and not _is_of_self(node)
    }
    complaints = [f"{name} reveals secrets" for name in sorted(found - REVEALING.keys())]
    listed = REVEALING.keys() & sources.keys()
    return complaints + [f"{name} reveals nothing any more" for name in sorted(listed - found)]


def _is_of_self(node: ast.Attribute) -> bool:
    return node.attr == "_value" and isinstance(node.value, ast.Name) and node.value.id == "self"


def says_what_it_is(sources: Sources) -> list[str]:
    return [f"{one.name} has no docstring" for one in sources.values() if not _docstring(one)]


def _docstring(source: Source) -> str | None:
    return ast.get_docstring(source.tree)


def stays_small(sources: Sources) -> list[str]:
    complaints = []
    for source in sources.values():
        if (lines := source.text.count("\n")) > MAX_LINES:
            complaints.append(f"{source.name} has {lines} lines")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION:
                    complaints.append(f"{source.name}.{node.name} has {length} lines")
    return complaints


def has_a_name(sources: Sources) -> list[str]:
    return [
        f"{source.name} is called by no name"
        for source in sources.values()
        if set(re.split(r"[._]", source.name)) & NO_NAMES
    ]


def has_no_marks(sources: Sources) -> list[str]:
    return [f"{one.name} has a mark" for one in sources.values() if MARKS.search(one.text)]


def prints_nothing(sources: Sources) -> list[str]:
    return [
        f"{source.name} prints"
        for source in sources.values()
        if source.name not in MAY_PRINT
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Name) and node.id == "print")
        or (
            isinstance(node, ast.Attribute)
            and ast.unparse(node).startswith("sys.std")
            and node.attr == "write"
        )
    ]


def queries(sources: Sources) -> set[tuple[str, str, str]]:
    """Package, noun and name of every ``Query(...)``, and of both in a ``Kind.of(...)``."""
    sealed = {
        (source.name.split(".")[0], "sealed", f"{deed}_{node.args[0].value!s}")
        for source in sources.values()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Kind.of"
        and isinstance(node.args[0], ast.Constant)
        for deed in ("list", "replace")
    }
    return sealed | {
        (source.name.split(".")[0], str(node.args[0].value), str(node.args[1].value))
        for source in sources.values()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Query"
        and len(node.args) > 1
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[1], ast.Constant)
    }


def no_default(kind: type[Struct]) -> list[str]:
    """Fields that name a credential and would be filled in for who says nothing."""
    telling = re.compile(r"key|secret|password|token|credential|kek|database_url|dsn")
    return [
        f"{kind.__name__}.{field.name} has a default"
        for field in fields(kind)
        if telling.search(field.name) and field.default not in (None, NODEFAULT)
    ]


RULES: Final[tuple[Rule, ...]] = (
    goes_down,
    vault_knows_no_web,
    one_importer,
    few_reveal,
    says_what_it_is,
    stays_small,
    has_a_name,
    has_no_marks,
    prints_nothing,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_product_keeps_the_rule(rule: Rule) -> None:
    assert rule(product()) == []


def toy(**modules: str) -> Sources:
    """Sources by name, with ``__`` for a dot; a name that others begin with is a package."""
    names = {name.replace("__", "."): text for name, text in modules.items()}
    return {
        name: Source(name, text, any(other.startswith(f"{name}.") for other in names))
        for name, text in names.items()
    }


TOY_STEPS = ("vault", "vault.low", "vault.high", "broker")


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        (toy(vault__low="import vault.high"), "vault.low imports vault.high"),
        (toy(vault__low="from vault import high"), "vault.low imports vault.high"),
        (toy(vault__low="from vault.high import x"), "vault.low imports vault.high"),
        (toy(vault__low="from .high import x"), "vault.low imports vault.high"),
        (toy(vault__low="from . import high"), "vault.low imports vault.high"),
        (toy(vault__low="def f():\n    from vault import high"), "vault.low imports vault.high"),
        (toy(vault__low="if TYPE_CHECKING:\n    import broker"), "vault.low imports broker"),
        (toy(vault__low="from vault.low import x"), "vault.low imports vault.low"),
        (toy(vault__other=""), "vault.other has no step"),
    ],
)
def test_an_import_that_goes_up_is_found(sources: Sources, complaint: str) -> None:
    whole = {**toy(vault="", vault__low="", vault__high="", broker=""), **sources}
    assert [one for one in goes_down(whole, TOY_STEPS) if one.startswith(complaint)]


def test_imports_that_go_down_are_fine_and_a_step_without_a_module_is_not() -> None:
    fine = toy(vault="", vault__low="import os", vault__high="from vault import low", broker="")
    assert goes_down(fine, TOY_STEPS) == []
    del fine["vault.low"]
    assert "step vault.low has no module" in goes_down(fine, TOY_STEPS)


@pytest.mark.parametrize(
    ("rule", "broken", "fine"),
    [
        (
            vault_knows_no_web,
            toy(vault__x="from litestar import get"),
            toy(broker__x="import litestar"),
        ),
        (
            vault_knows_no_web,
            toy(vault__x="def f():\n    import broker.app"),
            toy(vault__x="import os"),
        ),
        (one_importer, toy(vault__x="import asyncpg.pool"), toy(vault__database="import asyncpg")),
        (
            one_importer,
            toy(vault__x="def f():\n    from aiohttp import X"),
            toy(vault__egress__streams="import aiohttp"),
        ),
        (
            one_importer,
            toy(broker__x="from authlib.jose import jwt"),
            toy(vault__oauth="import joserfc"),
        ),
        (
            one_importer,
            toy(vault__x="from a.b import AESGCM"),
            toy(vault__seal="from a.b import AESGCM"),
        ),
        (few_reveal, toy(vault__x="y = key.reveal()"), toy(vault__x="y = reveal()")),
        (
            few_reveal,
            toy(vault__x="y = map(Secret.reveal_bytes, z)"),
            toy(vault__x="y = self._value"),
        ),
        (few_reveal, toy(vault__x="y = key._value"), toy(vault__bearer="y = key.reveal()")),
        (few_reveal, toy(vault__bearer="y = key"), toy(vault__bearer="y = key.reveal_bytes()")),
        (says_what_it_is, toy(vault__x="import os"), toy(vault__x='"""What it is."""')),
        (stays_small, toy(vault__x="a\n" * 501), toy(vault__x="a\n" * 500)),
        (
            stays_small,
            toy(vault__x="def f():" + "\n    a" * 60),
            toy(vault__x="def f():" + "\n    a" * 59),
        ),
        (
            stays_small,
            toy(vault__x="class A:\n  async def f(self):" + "\n    a" * 60),
            toy(vault__x=""),
        ),
        (has_a_name, toy(vault__utils=""), toy(vault__database="")),
        (has_a_name, toy(broker__key_manager=""), toy(broker__managers="")),
        (has_no_marks, toy(vault__x="a = 1  # TODO: later"), toy(vault__x="a = 'TODOS'")),
        (has_no_marks, toy(vault__x='"""FIXME"""'), toy(vault__x="")),
        (prints_nothing, toy(vault__x="print(1)"), toy(broker__terminal="print(1)")),
        (
            prints_nothing,
            toy(broker__x="import sys\nsys.stderr.write('x')"),
            toy(broker__x="say = 'print(1)'"),
        ),
        (prints_nothing, toy(broker__x="show = print"), toy(broker__x="blueprint(1)")),
    ],
)
def test_each_rule_finds_what_breaks_it_and_nothing_else(
    rule: Rule, broken: Sources, fine: Sources
) -> None:
    assert rule(broken)
    assert rule(fine) == []


def test_every_exception_is_still_needed() -> None:
    sources = product()
    for lower, upper in UPWARD:
        assert upper in set(imported(sources[lower], sources)), f"{lower} -> {upper}"
    for name in MAY_PRINT:
        assert "print(" in sources[name].text


def test_no_folder_grows_beyond_what_one_sees() -> None:
    for package in ("vault", "broker"):
        folders = [CHECKOUT / package, *(CHECKOUT / package).rglob("*")]
        for folder in folders:
            if folder.is_dir() and folder.name != "__pycache__":
                # The catalogue is data: one looks a provider up by its name.
                entries = [
                    one
                    for one in folder.iterdir()
                    if one.name != "__pycache__" and one.suffix != ".toml"
                ]
                assert len(entries) <= MAX_ENTRIES, folder


def test_every_query_has_its_statement_and_every_statement_its_query() -> None:
    written = set()
    for package in ("vault", "broker"):
        for file in (CHECKOUT / package).glob("sql/*.sql"):
            for name in re.findall(r"^-- name: (\w+)$", file.read_text(), re.MULTILINE):
                written.add((package, file.stem, name))
    assert queries(product()) == written


def test_no_credential_has_a_default() -> None:
    assert no_default(VaultSettings) == []
    assert no_default(Settings) == []


def test_a_default_of_a_credential_is_found() -> None:
    class Careless(Struct):
        name: str
        api_key: Annotated[str, Meta(min_length=1)]
        kek: Secret | None = None
        admin_password: str = "admin"
        database_url: Any = "postgresql://postgres:postgres@localhost/keyturn"

    assert no_default(Careless) == [
        "Careless.admin_password has a default",
        "Careless.database_url has a default",
    ]
