"""Components of an installation, and what it means if one of them does not work."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Final

from dataflows.process.condition import SETTLES, Condition
from dataflows.process.site import Site
from dataflows.work.classify.classifier import classified
from dataflows.work.classify.fingerprint import fingerprint
from penstock.errors import PenstockError
from penstock.models.domain import Error
from penstock.models.failures import Classification

__all__ = ["condition", "process_condition", "report_killed"]

MEANINGS: Final = {
    "metering": "metrics are not counted",
    "sealing": "the log is not sealed",
    "detecting": "series are not scored",
    "openlineage": "lineage is not sent",
    "policy_files": "the policy in force stays",
    "webhooks": "a webhook is not answered",
    "metrics_export": "metrics are not exported",
}
"""What does not happen while a component does not work."""

OFTEN: Final = frozenset({"metering", "detecting"})
"""Components that try again every few seconds; one success of another means that it works."""


def condition(site: Site, component: str, subject: str | None = None) -> Condition:
    """Return the condition of a component."""
    return Condition(
        component,
        partial(site.open_log, "condition"),
        site.catalog_dsn,
        classify=_classified,
        meaning=MEANINGS[component],
        subject=subject,
        settles=SETTLES if component in OFTEN else 0,
    )


def process_condition(site: Site, flows: Sequence[str]) -> Condition:
    """Return the condition of a process that runs these flows."""
    open_log, meaning = partial(site.open_log, "condition"), "the process has ended"
    return Condition("-".join(flows), open_log, site.catalog_dsn, classify=_classified, meaning=meaning, settles=0)


def report_killed(site: Site, flows: Sequence[str], error: PenstockError) -> None:
    """Report that the process of these flows was killed; in the background, since the log may be gone as well."""
    threading.Thread(target=process_condition(site, flows), args=[error], daemon=True).start()


def _classified(component: str, error: Error) -> Classification:
    """Classify an error of a component, which has a fingerprint of its own."""
    found = classified(error, None, {})
    print_ = fingerprint(error.code, component, found.template)
    return Classification(**{**found.to_dict(), "origin": "platform", "connection": None, "fingerprint": print_})
