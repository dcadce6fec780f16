"""One module a command: its configuration and its `main`.

What takes long to import is imported inside the functions, so that ``--help`` answers at once.
"""
