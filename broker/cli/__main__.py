"""``python -m broker.cli``: the command."""

from broker.cli import main

main()
