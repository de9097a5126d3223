"""``python -m broker.sandbox``: the sandbox on a port of this machine."""

import argparse
import asyncio

from broker.sandbox.server import listen, run


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(
        prog="broker.sandbox", description="A fake provider and a fake ElevenLabs."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8430, help="0 takes a free one")
    options = parser.parse_args()
    with listen(options.host, options.port) as listener:
        port = listener.getsockname()[1]
        address = f"http://{options.host}:{port}"
        print(f"The sandbox is at {address}", flush=True)  # noqa: T201 - whoever started it waits
        asyncio.run(run(listener))


if __name__ == "__main__":
    main()
