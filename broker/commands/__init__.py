"""The groups of ``keyturn``'s commands, one noun a file; ``broker/cli.py`` puts them together."""
