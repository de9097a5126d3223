"""Pages that people see. No build step, no script, nothing loaded from anywhere else.

``/docs`` is made from the same OpenAPI document that ``/schema/openapi.json`` serves, so it cannot
be out of date. Pico CSS 2.1.1 is vendored in ``static/`` with its licence.
"""

import hashlib
from functools import cache
from importlib import resources
from typing import Any, Final

import jinja2
from litestar import Request, Response, Router, get

from broker.api.problems import STATUS, TITLES

# The vendored style sheet, byte for byte as its authors published it.
PICO_SHA256: Final = "fbc9a63fc9fc9f72d12fd7fc9806e11fa9f77ae4f9cad146b27003a1119ba3db"
POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
METHODS: Final = ("get", "put", "post", "delete", "patch")

_templates: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("broker.web"), autoescape=True, undefined=jinja2.StrictUndefined
)


@get("/docs", include_in_schema=False)
async def docs(request: Request[Any, Any, Any]) -> Response[str]:
    """The HTTP reference, to read in a browser without a network."""
    page = _templates.get_template("docs.html").render(
        spec=request.app.openapi_schema.to_schema(), methods=METHODS, titles=TITLES, status=STATUS
    )
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": POLICY})


@get("/static/pico.min.css", include_in_schema=False)
async def style() -> Response[bytes]:
    return Response(
        _pico(), media_type="text/css", headers={"Cache-Control": "public, max-age=86400"}
    )


@cache
def _pico() -> bytes:
    content = (resources.files(__name__) / "static" / "pico.min.css").read_bytes()
    if hashlib.sha256(content).hexdigest() != PICO_SHA256:
        raise RuntimeError("the vendored style sheet is not the one that was vendored")
    return content


router = Router("/", route_handlers=[docs, style])
