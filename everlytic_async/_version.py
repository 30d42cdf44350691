"""The version, in the one place that the build, the command and the User-Agent read."""

__version__ = "0.1.0"
