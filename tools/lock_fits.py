"""Check that requirements.lock fits pyproject.toml: every requirement is pinned within its bounds, without extra pins.

It asks no index, so it is quick and gives the same answer every day. That the pins fit each other is checked by
``pip check`` when they are installed.
"""

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+)\s+# via (?P<via>.+)$")


def wishes(pyproject: str) -> list[Requirement]:
    """Return the requirements of the project and all its extras."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for text in [*project["dependencies"], *(line for extra in extras for line in extra)]]


def findings(pyproject: str, lock: str) -> list[str]:
    """One sentence for each thing that does not fit; empty if the lock is in step."""
    pins = {canonicalize_name(m["name"]): m for line in lock.splitlines() if (m := PIN.match(line))}
    asked = {canonicalize_name(wish.name): wish for wish in wishes(pyproject)}
    missing = [f"{wish} is not in the lock" for name, wish in asked.items() if name not in pins]
    outside = [
        f"{name} is pinned to {pins[name]['version']}, outside of {wish.specifier}"
        for name, wish in asked.items()
        if name in pins and not wish.specifier.contains(pins[name]["version"], prereleases=True)
    ]
    left = [
        f"{name} is pinned for the project, which no longer asks for it"
        for name, pin in pins.items()
        if "penstock (pyproject.toml)" in pin["via"] and name not in asked
    ]
    return missing + outside + left


def main() -> int:
    """Print what does not fit; the exit code."""
    found = findings(Path("pyproject.toml").read_text(), Path("requirements.lock").read_text())
    for sentence in found:
        print(f"{sentence}; run make lock", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
