"""What lies in ``examples/`` works as it stands: the backend, the tools, the page."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Tenant
from support.browser import PACKAGES, Browser
from support.connecting import integrate
from support.minting import Desk, minting
from support.ports import free_port
from support.sandbox import Provider
from support.visitor import Visitor, visiting

from broker.tools.lint import lint

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ORIGIN = "https://keyturn.example.com"
SECRET_ID = "SECRET_ID_OF_THE_RUNTIME_KEY"
ESBUILD = PACKAGES / ".bin" / "esbuild"
bundled = pytest.mark.skipif(
    not (ESBUILD.exists() and (PACKAGES / "@elevenlabs" / "react").is_dir()),
    reason="needs 'npm install' in tests/peers (.ci/run does it)",
)


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider) as found:
        yield found


def read(name: str) -> Any:
    return json.loads((EXAMPLES / name).read_text())


# The tools


@pytest.mark.parametrize(
    ("agent", "tools"),
    [("agent.json", "tools.json"), ("agent-gateway.json", "tools-gateway.json")],
)
async def test_the_tools_are_those_that_the_agent_is_given(
    desk: Desk, agent: str, tools: str
) -> None:
    await desk.profile(**read(agent))
    reply = await desk.api.post("/v1/agents/agent_desk/tools/push", {})
    assert reply.status == 200, reply.body
    made = (await desk.api.get("/v1/agents/agent_desk/tools")).json
    assert made["findings"] == []
    service = made["tools"][0]["config"]["api_schema"]["url"].partition("/tokens/")[0]
    given = json.dumps([one["config"] for one in made["tools"]])
    given = given.replace(service, ORIGIN).replace(made["runtime_secret_id"], SECRET_ID)
    assert json.loads(given) == read(tools)
    assert [fault for one in read(tools) for fault in lint(one)] == []


# The backend


@contextlib.asynccontextmanager
async def backend(desk: Desk, folder: Path) -> AsyncIterator[str]:
    """Run a copy of the example, with a key that can do no more than it says it needs."""
    key = await desk.api.post("/v1/keys", {"name": "backend", "scopes": ["mint", "connect"]})
    shutil.copytree(EXAMPLES, folder / "examples")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(folder / "examples" / "backend.py"),
        env={"BASE": desk.api.base, "KEY": key.json["key"], "PORT": str(port)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def started(visitor: Visitor, base: str) -> Any:
    asked = await visitor.post(f"{base}/conversation", b"{}", Content_Type="application/json")
    assert asked.status == 200
    return json.loads(asked.text)


async def at_the_provider(desk: Desk) -> None:
    """One integration alone, so that a link leads straight to its consent."""
    assert (await desk.api.delete("/v1/integrations/slack")).status in (200, 204)
    callback = f"{desk.api.base}/oauth/oidc/google/callback"
    await integrate(desk.api, desk.provider, callback, name="google")


async def test_the_backend_connects_a_user_and_starts_a_conversation(
    desk: Desk, tmp_path: Path
) -> None:
    await at_the_provider(desk)
    await desk.profile(integrations=[{"integration": "google"}])
    await desk.user()
    async with backend(desk, tmp_path) as base, visiting() as browser:
        assert await started(browser, base) == {"signed_url": None, "code": "connection_missing"}
        link = await browser.follow(await browser.get(f"{base}/connect"))
        back = await browser.follow(await browser.submit(link))
        home = await browser.follow(await browser.follow(back))
        assert home.location == f"{base}/?active"
        found = await started(browser, base)
        assert found["code"] is None
        async with desk.eleven.talking(found["signed_url"]) as talk:
            await talk.say("hello")
            assert await talk.response() == "You said: hello"
        page = await browser.get(f"{base}/")
        assert 'src="app.js"' in page.text


async def test_the_backend_takes_no_form_of_another_site_and_no_code_of_another_browser(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.user()
    async with backend(desk, tmp_path) as base, visiting() as browser:
        refused = await browser.post(f"{base}/conversation", {"user_id": "grace"})
        assert refused.status == 404
        forged = f"{base}/connected?connect_session=cs_1&code=guessed"
        assert (await browser.get(forged)).location == f"{base}/?refused"
        assert (await browser.get(f"{base}/../backend.py")).status == 404


# The page


@bundled
async def test_the_page_talks_over_the_relay_and_its_browser_holds_no_secret(
    desk: Desk, browser: Browser, tmp_path: Path
) -> None:
    await at_the_provider(desk)
    await desk.profile(integrations=[{"integration": "google"}])
    await desk.user()
    async with backend(desk, tmp_path) as base:
        await bundle(tmp_path / "examples" / "page")
        ada = await browser.visitor()
        await ada.goto(base)
        await ada.click("Start")
        await ada.wait_for_text("Connect your account")
        token = await desk.connect()
        await ada.click("Start")
        await ada.fill("Your question", "who am I?")
        await ada.click("Ask")
        await ada.wait_for_text("Desk: You said: who am I?")
        assert await ada.complaints() == []
        seen = json.dumps([await ada.html(), await ada.requests()])
        assert token not in seen
        assert not re.search(r"kt[gh]?_[0-9A-Za-z]{20}", seen)
        assert await ada.axe() == []
        await ada.click("End")
        await ada.wait_for_text("disconnected")
        await ada.go_away()


async def bundle(page: Path) -> None:
    """Build the page as its first lines say."""
    [words] = re.findall(r"npx esbuild (.+)", (page / "app.jsx").read_text())
    process = await asyncio.create_subprocess_exec(
        str(ESBUILD),
        *words.split(),
        "--log-level=error",
        cwd=page,
        env={"PATH": os.environ["PATH"], "NODE_PATH": str(PACKAGES)},
    )
    assert await process.wait() == 0
