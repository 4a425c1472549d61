"""The version of ftloop."""

__version__ = "0.2.0"
