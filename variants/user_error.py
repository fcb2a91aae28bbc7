"""The one error that ends a command with one line and exit status 2."""

from __future__ import annotations


class UserError(ValueError):
    """What was asked for cannot be done as asked; the message is one line for the user.

    It says what was expected and what was given. The command line catches this class in one
    place; libraries that call this product may catch it, too.
    """
