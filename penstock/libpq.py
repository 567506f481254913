"""libpq's environment variables, which do not reach Penstock: a connection is what its file says, in every shell.

The embedded server's own connections would fail by them too. What only names files, or is a password, stays.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

__all__ = ["KEPT", "VARIABLES", "forget_variables"]

VARIABLES: Final = frozenset(
    f"PG{name}"
    for name in (
        "APPNAME", "CHANNELBINDING", "CLIENTENCODING", "CONNECT_TIMEOUT", "DATABASE", "DATESTYLE", "GEQO",
        "GSSDELEGATION", "GSSENCMODE", "GSSLIB", "HOST", "HOSTADDR", "KRBSRVNAME", "LOADBALANCEHOSTS",
        "MAXPROTOCOLVERSION", "MINPROTOCOLVERSION", "OPTIONS", "PORT", "REALM", "REQUIREAUTH", "REQUIREPEER",
        "REQUIRESSL", "SERVICE", "SSLCERT", "SSLCERTMODE", "SSLCOMPRESSION", "SSLCRL", "SSLCRLDIR", "SSLKEY",
        "SSLKEYLOGFILE", "SSLMAXPROTOCOLVERSION", "SSLMINPROTOCOLVERSION", "SSLMODE", "SSLNEGOTIATION", "SSLROOTCERT",
        "SSLSNI", "TARGETSESSIONATTRS", "TZ", "USER",
    )
)  # fmt: skip
KEPT: Final = frozenset({"PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE", "PGSYSCONFDIR", "PGLOCALEDIR"})


def forget_variables(environment: MutableMapping[str, str] = os.environ) -> None:
    """Remove libpq's variables from the environment of this process and those that it starts."""
    for name in VARIABLES & environment.keys():
        del environment[name]
