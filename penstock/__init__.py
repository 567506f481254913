"""The core of Penstock: settings, errors, the domain's models, records and topics. It imports none of the other packages."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("penstock")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
