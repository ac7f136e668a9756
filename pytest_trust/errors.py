"""Errors a user can act on: every message is one line that says what was given, what was expected and what to do."""


class TrustError(Exception):
    """Something the user can fix; the message is one line."""


class InvalidInput(TrustError, ValueError):
    """A value, file or option that was given is not what was expected."""
