"""libpq's environment variables."""

from __future__ import annotations

from psycopg import pq

from penstock.libpq import KEPT, VARIABLES, forget_variables


def test_every_variable_of_libpq_is_forgotten_or_kept_on_purpose() -> None:
    known = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    assert known - VARIABLES - KEPT == set()
    assert not VARIABLES & KEPT


def test_what_is_not_libpqs_stays() -> None:
    environment = {"PGHOST": "nowhere", "PGPASSWORD": "x", "PGDATA": "/data", "HOME": "/home/me"}
    forget_variables(environment)
    assert environment == {"PGPASSWORD": "x", "PGDATA": "/data", "HOME": "/home/me"}
