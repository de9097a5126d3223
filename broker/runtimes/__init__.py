"""Where conversations run: one module a runtime, and each knows only its own wire."""
