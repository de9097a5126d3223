"""The least that our framework can cost: a typed Litestar handler, set up as Keyturn's are."""

from litestar import Litestar, post
from litestar.params import JSONBody

from bench.baselines import Greeting, Hello, greet


@post("/hello", status_code=200)
async def hello(data: JSONBody[Hello]) -> Greeting:
    """Greet."""
    return greet(data)


app = Litestar([hello], openapi_config=None, logging_config=None, debug=False)
