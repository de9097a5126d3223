"""Ask the service in this container whether it is alive; the exit code is the answer."""

import http.client
import os
import sys

SECONDS = 4


def alive(port: int) -> bool:
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        asked.request("GET", "/livez")
        return asked.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if alive(int(os.environ.get("KEYTURN_PORT") or 8420)) else 1)
