"""What every maskfleet process shares."""

__version__ = "0.1.0"
