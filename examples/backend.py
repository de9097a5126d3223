"""A platform's backend: its users connect accounts, and start conversations.

BASE=http://127.0.0.1:8420 KEY=kt_... python3 examples/backend.py    (scopes: mint and connect)
"""

import json
import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, quote, urlsplit
from urllib.request import Request, urlopen

BASE, KEY, PORT = os.environ["BASE"], os.environ["KEY"], int(os.environ.get("PORT", "8440"))
BACK = f"http://127.0.0.1:{PORT}/connected"  # its origin stands in the workspace's settings
USER = "ada"  # stands for who is signed in: from your own session, never from what a page sends


def keyturn(path: str, **body: object) -> Any:
    """Ask Keyturn; a refusal is an answer, too: it has a ``code``."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    try:
        with urlopen(Request(BASE + path, json.dumps(body).encode(), headers), timeout=10) as reply:
            return json.load(reply)
    except HTTPError as refused:
        return json.load(refused)


class Backend(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        where = urlsplit(self.path)
        if where.path == "/connect":
            session = keyturn("/v1/connect-sessions", user_id=USER, return_url=BACK)
            self.answer(303, "Location", session.get("url", "/?refused"))
        elif where.path == "/connected":  # the browser brings a code; whose it is, we know
            sent = dict(parse_qsl(where.query))
            complete = f"/v1/connect-sessions/{quote(sent.get('connect_session', ''))}/complete"
            made = keyturn(complete, code=sent.get("code", ""), user_id=USER)
            self.answer(303, "Location", f"/?{made.get('state', 'refused')}")
        else:
            super().do_GET()  # the page

    def do_POST(self) -> None:
        if self.path != "/conversation" or self.headers["Content-Type"] != "application/json":
            return self.send_error(404)  # another site's form cannot send JSON
        made = keyturn("/v1/conversations", agent_id="agent_desk", user_id=USER)
        shown = {"signed_url": made.get("signed_url"), "code": made.get("code")}
        return self.answer(200, "Content-Type", "application/json", json.dumps(shown))

    def answer(self, status: int, header: str, value: str, body: str = "") -> None:
        self.send_response(status)
        self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body.encode())


serve = partial(Backend, directory=Path(__file__).with_name("page"))
ThreadingHTTPServer(("127.0.0.1", PORT), serve).serve_forever()
