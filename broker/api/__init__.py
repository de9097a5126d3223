"""What goes over HTTP. ``surface`` names every route."""
