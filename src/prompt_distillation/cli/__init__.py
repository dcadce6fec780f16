"""One module a command: its configuration and its `main`."""
