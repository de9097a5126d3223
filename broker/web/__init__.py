"""Pages that people see. No build step, no script, nothing loaded from anywhere else.

``/docs`` is made from the same OpenAPI document that ``/schema/openapi.json`` serves, so it cannot
be out of date. Pico CSS 2.1.1 is vendored in ``static/`` with its licence. The pages of connecting
an account are in ``connect.py``; one of them has a script, which its policy names by its hash.
"""

from typing import Any, Final

import jinja2
from litestar import Request, Response, Router, get

from broker.api.problems import STATUS, TITLES
from broker.web import static

POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
METHODS: Final = ("get", "put", "post", "delete", "patch")
CACHED: Final = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}

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
    return Response(static.pico(), media_type="text/css", headers=CACHED)


@get("/static/connect.css", include_in_schema=False)
async def connect_style() -> Response[bytes]:
    return Response(static.connect_style(), media_type="text/css", headers=CACHED)


router = Router("/", route_handlers=[docs, style, connect_style])
