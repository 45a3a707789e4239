"""The version of the installed package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vlm-heads")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"
