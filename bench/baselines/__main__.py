"""``python -m bench.baselines NAME PORT``: serve a baseline as Keyturn serves itself."""

import asyncio
import sys
from importlib import import_module
from typing import cast

import uvloop
from litestar.types import ASGIApp
from msgspec import Struct

from broker import server
from broker.api.gate import Gate
from broker.app import Service
from broker.metrics import Metrics
from broker.settings import Settings


class NoRelay:
    """A baseline relays no conversation."""

    open = 0
    draining = False


class Bare(Struct, frozen=True):
    """What ``server.run`` needs of a service: no gate in front, only one to drain by."""

    app: ASGIApp
    gate: Gate
    relay: NoRelay

    def before(self, app: ASGIApp) -> ASGIApp:
        """Nothing more stands in front."""
        return app


def main(name: str, port: int) -> None:
    """Serve until a signal comes."""
    app: ASGIApp = import_module(f"bench.baselines.{name}").app
    settings = Settings(mode="development", port=port, drain_seconds=0)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        bare = Bare(app, Gate(Metrics()), NoRelay())
        runner.run(server.run(cast("Service", bare), settings))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
