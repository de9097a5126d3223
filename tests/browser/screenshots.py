"""Paint the pictures of the documentation: ``python tests/browser/screenshots.py``."""

import asyncio
import sys
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

from support.browser import browsing  # noqa: E402 - as pytest does it for the tests
from support.connect_pages import showing  # noqa: E402 - as above

IMAGES: Final = CHECKOUT / "docs" / "images"
SIZE: Final = (440, 560)
MAX_BYTES: Final = 60_000
# The picture, the page of tests/support/connect_pages.py, and whether it is dark.
PICTURES: Final = (
    ("connect", "connect", False),
    ("confirm", "confirm", True),
    ("fewer-scopes", "end_narrower", False),
    ("expired", "end_expired", True),
)


async def paint(folder: Path) -> list[Path]:
    """Take each picture; return their files."""
    painted = []
    async with showing() as shown, browsing() as browser:
        for picture, page, dark in PICTURES:
            visitor = await browser.visitor(size=SIZE, dark=dark, still=True)
            await visitor.goto(shown.url(page))
            painted.append(folder / f"{picture}.png")
            await visitor.screenshot(painted[-1])
            await visitor.go_away()
    return painted


def main() -> int:
    """Paint them where the documentation shows them."""
    IMAGES.mkdir(exist_ok=True)
    for file in asyncio.run(paint(IMAGES)):
        size = file.stat().st_size
        sys.stdout.write(f"{file.relative_to(CHECKOUT)}: {size:,} bytes\n")
        if size > MAX_BYTES:
            sys.stderr.write(f"That is more than {MAX_BYTES:,}.\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
