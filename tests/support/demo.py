"""The demo, with a sandbox that writes down every token that it gives out: ``python -m support.demo
FILE [deny]``. ``deny``: whoever is asked for consent says no, so that the story fails.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from broker.demo import Transcript, perform
from broker.sandbox import Consent, Sandbox
from broker.sandbox.grants import Ledger


class Remembering(Ledger):
    """A ledger that keeps what the sandbox itself does not."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox.history, sandbox.fingerprint)
        self.issued: list[str] = []

    def issue(self, *given: Any, **more: Any) -> str:
        text = super().issue(*given, **more)
        self.issued.append(text)
        return text


def main() -> int:
    file, *words = sys.argv[1:]
    sandbox = Sandbox()
    ledger = sandbox.ledger = Remembering(sandbox)
    if words == ["deny"]:
        sandbox.consent = Consent(auto="deny")
    code = asyncio.run(perform(Transcript(sys.stdout, colours=False), sandbox))
    secrets = [one.secret for one in sandbox.clients.values() if one.secret]
    for account in sandbox.elevenlabs.accounts.values():
        secrets += [one.value for one in account.secrets.values()]
        for held in account.conversations.values():
            secrets += [str(v) for name, v in held.variables.items() if name.startswith("secret__")]
    Path(file).write_text("\n".join([*ledger.issued, *secrets]))
    return code


if __name__ == "__main__":
    sys.exit(main())
