"""Policies as files: quiet hours by the clock of a zone, and what contradicts itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidDocument
from penstock.models.documents import read_documents
from penstock.models.policy import CAPABILITIES, AgentPolicy
from penstock.models.policy_checks import contradictions
from penstock.models.quiet import quiet_at, quiet_until

BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("hours", "zone", "at", "quiet"),
    [
        ("22:00-06:00", "UTC", "2026-03-02T21:59:59", False),
        ("22:00-06:00", "UTC", "2026-03-02T22:00:00", True),
        ("22:00-06:00", "UTC", "2026-03-03T05:59:59", True),
        ("22:00-06:00", "UTC", "2026-03-03T06:00:00", False),
        ("22:00-06:00", BERLIN, "2026-03-02T21:00:00", True),
        ("22:00-06:00", BERLIN, "2026-07-02T20:00:00", True),  # in summer the zone is two hours ahead
        ("22:00-06:00", BERLIN, "2026-07-03T04:00:00", False),
        ("02:15-02:45", BERLIN, "2026-03-29T01:30:00", False),  # the clock skips from 02:00 to 03:00
        ("02:15-02:45", BERLIN, "2026-10-25T00:30:00", True),  # it shows 02:30 twice
        ("02:15-02:45", BERLIN, "2026-10-25T01:30:00", True),
        ("02:15-02:45", BERLIN, "2026-10-25T01:00:00", False),
        ("sat,sun 00:00-24:00", "UTC", "2026-03-01T23:59:59", True),
        ("sat,sun 00:00-24:00", "UTC", "2026-03-02T00:00:00", False),
        ("fri 22:00-06:00", "UTC", "2026-03-07T05:00:00", True),  # it began on Friday
        ("fri 22:00-06:00", "UTC", "2026-03-06T05:00:00", False),
        ("fri-mon 12:00-13:00", "UTC", "2026-03-01T12:30:00", True),
        ("fri-mon 12:00-13:00", "UTC", "2026-03-03T12:30:00", False),
    ],
)
def test_quiet_hours_are_those_that_the_clock_of_the_zone_shows(hours: str, zone: str, at: str, quiet: bool) -> None:
    assert (quiet_at([hours], zone, datetime.fromisoformat(at).replace(tzinfo=UTC)) == hours) is quiet


TIMES = st.times().map(lambda one: f"{one.hour:02}:{one.minute:02}")
HOURS = st.tuples(st.sampled_from(["", "mon ", "sat,sun ", "mon-fri "]), TIMES, TIMES).map(
    lambda one: f"{one[0]}{one[1]}-{one[2]}"
)
MOMENTS = st.datetimes(datetime(2026, 3, 20), datetime(2026, 11, 1)).map(lambda one: one.replace(tzinfo=UTC))


@given(hours=st.lists(HOURS, min_size=1, max_size=3), zone=st.sampled_from(["UTC", BERLIN, "America/New_York"]),
       at=MOMENTS)  # fmt: skip
def test_the_end_of_quiet_hours_is_the_first_moment_after_them(hours: list[str], zone: str, at: datetime) -> None:
    end = quiet_until(hours, zone, at)
    if quiet_at(hours, zone, at) is None:
        assert end == at
        return
    assert end > at
    if end - at < timedelta(days=20):  # else they follow each other without an end
        assert quiet_at(hours, zone, end) is None
        before = max(at, end - timedelta(seconds=1))
        assert quiet_at(hours, zone, before) or _skipped(zone, end)


def _skipped(zone: str, end: datetime) -> bool:
    """True if the clock of the zone was set forward within the hour before, so that the end was never shown."""
    offsets = [moment.astimezone(ZoneInfo(zone)).utcoffset() for moment in (end - timedelta(hours=2), end)]
    return offsets[0] != offsets[1]


def of(**rooms: Any) -> AgentPolicy:
    return AgentPolicy.parse({"metadata": {"name": "p"}, "spec": rooms})


@pytest.mark.parametrize(
    ("rooms", "path", "words"),
    [
        ({"error_resolution": {"actions": {"retry": "act"}}, "constraints": {"never": ["retry"]}},
         "error_resolution.actions.retry", "`constraints.never` lists it"),
        ({"evolution": {"approve": ["types"]}, "constraints": {"never": ["approve"]}},
         "evolution.approve", "never"),
        ({"discovery": {"every": "1h"}, "constraints": {"never": ["discover"]}}, "discovery.every", "never"),
        ({"constraints": {"never": ["pause"], "limits": {"pause": {"per_hour": 1}}}},
         "constraints.limits.pause", "never"),
        ({"constraints": {"limits": {"pause": {}}}}, "constraints.limits.pause", "`per_hour` or `per_pipeline`"),
        ({"constraints": {"limits": {"pause": {"per_hour": 1, "per_pipeline": 2}}}},
         "constraints.limits.pause", "more"),
        ({"constraints": {"limits": {"discover": {"per_pipeline": 2}}}},
         "constraints.limits.discover.per_pipeline", "per_hour"),
        ({"constraints": {"blast_radius": {"within": "2h"}}},
         "constraints.blast_radius", "`pipelines`, `tables` or `rows`"),
        ({"constraints": {"quiet_hours": ["22:00-25:00"]}}, "constraints.quiet_hours[0]", "24:00"),
        ({"constraints": {"quiet_hours": ["22:60-23:00"]}}, "constraints.quiet_hours[0]", "24:00"),
        ({"constraints": {"quiet_hours": ["22:00-22:00"]}}, "constraints.quiet_hours[0]", "00:00-24:00"),
        ({"constraints": {"quiet_hours": ["mox 22:00-23:00"]}}, "constraints.quiet_hours[0]", "mon, tue"),
        ({"constraints": {"quiet_hours": ["22:00-23:00"], "timezone": "Berlin"}},
         "constraints.timezone", "Europe/Berlin"),
        ({"constraints": {"timezone": BERLIN}}, "constraints.timezone", "leave it out"),
    ],
)  # fmt: skip
def test_a_policy_that_contradicts_itself_is_refused_with_the_path(
    rooms: dict[str, Any], path: str, words: str, tmp_path: Path
) -> None:
    (issue,) = contradictions(of(**rooms))
    assert issue.path == f"spec.{path}"
    assert words in issue.message
    file = tmp_path / "policy.json"
    file.write_text(of(**rooms).to_json())
    with pytest.raises(InvalidDocument) as caught:
        read_documents([file])
    assert f"policy.json:1: spec.{path}" in caught.value.issues[0].path


@pytest.mark.parametrize(
    ("rooms", "path", "words"),
    [
        ({"error_resolution": {"actions": {"retri": "act"}}}, "error_resolution.actions.retri", "retry"),
        ({"error_resolution": {"actions": {"approve": "act"}}}, "error_resolution.actions.approve", "retry"),
        ({"constraints": {"never": ["drop_tables"]}}, "constraints.never[0]", "did you mean `drop_table`"),
        ({"constraints": {"limits": {"retrry": {"per_hour": 1}}}}, "constraints.limits.retrry", "retry"),
        ({"mapping": {"act_above": 1.5}}, "mapping.act_above", "1"),
        ({"evolution": {"act_above": -0.1}}, "evolution.act_above", "0"),
        ({"constraints": {"blast_radius": {"rows": 1, "within": "2d"}}}, "constraints.blast_radius.within", "1d"),
    ],
)
def test_what_no_agent_can_do_is_refused_with_a_suggestion(rooms: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        of(**rooms)
    (issue,) = caught.value.issues
    assert issue.path.startswith(f"spec.{path}")
    assert words in issue.message


def test_what_agents_can_do_has_one_name_each() -> None:
    actions = [action for actions in CAPABILITIES.values() for action in actions]
    assert len(actions) == len(set(actions))


def test_a_policy_without_new_settings_keeps_its_hash() -> None:
    assert of().spec.constraints.to_dict() == {"max_rows_skipped": 1000, "never": [], "quiet_hours": []}
