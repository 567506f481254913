"""The core: settings, errors, the domain's models, records and topics. It imports none of the other packages."""

__version__: str


def __getattr__(name: str) -> str:
    """Look up ``__version__`` on demand: the look-up takes as long as printing the help."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - the version is rarely asked for

    try:
        return version("penstock")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0.0.0"
