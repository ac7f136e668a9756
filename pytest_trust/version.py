"""The version, for whoever needs it without what the package offers."""

__version__ = "0.1.0"
