"""The one place where the version stands; the distribution takes it from here."""

__version__ = "0.1.0"
