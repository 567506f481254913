import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import telemetry
from penstock.errors import NotFound, SettingsError

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(autouse=True)
def nothing_exported_afterwards() -> Iterator[None]:
    yield
    telemetry.shut_down()


def to_console(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    telemetry.shut_down()
    decoder, text, spans = json.JSONDecoder(), capsys.readouterr().err.strip(), []
    while text:
        found, end = decoder.raw_decode(text)
        spans.append(found)
        text = text[end:].strip()
    return spans


def test_outside_of_a_span_each_call_starts_a_trace() -> None:
    first, second = telemetry.current_traceparent(), telemetry.current_traceparent()
    assert first.split("-")[1] != second.split("-")[1]
    assert telemetry._parsed(first) is not None


@pytest.mark.parametrize("exporter", ["none", "console"])
def test_a_span_continues_the_trace_of_the_record(exporter: str) -> None:
    telemetry.set_up("test", {telemetry.VARIABLE: exporter})
    with telemetry.span("fold", PARENT) as outer:
        assert outer.trace_id == TRACE
        assert outer.traceparent == telemetry.current_traceparent() != PARENT
        with telemetry.span("append") as inner:
            assert inner.trace_id == TRACE
            assert inner.traceparent == telemetry.current_traceparent() != outer.traceparent
        assert telemetry.current_traceparent() == outer.traceparent


@pytest.mark.parametrize("exporter", ["none", "console"])
def test_a_record_of_another_trace_wins_over_the_current_span(exporter: str) -> None:
    telemetry.set_up("test", {telemetry.VARIABLE: exporter})
    with telemetry.span("outer"), telemetry.span("inner", traceparent=PARENT) as inner:
        assert inner.trace_id == TRACE


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_sampled_flag_is_passed_on(flags: str) -> None:
    with telemetry.span("fold", PARENT[:-2] + flags) as inside:
        assert inside.traceparent.endswith(flags)


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "garbage",
        PARENT.upper(),
        PARENT + "-more",
        PARENT + "\n",
        "ff" + PARENT[2:],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
    ],
)
def test_a_malformed_traceparent_starts_a_trace(malformed: str) -> None:
    with telemetry.span("fold", malformed) as inside:
        assert inside.trace_id != TRACE


def test_a_later_version_of_the_format_is_understood() -> None:
    with telemetry.span("fold", "01" + PARENT[2:] + "-more") as inside:
        assert inside.trace_id == TRACE


@given(st.text())
def test_no_text_makes_a_span_fail(text: str) -> None:
    with telemetry.span("fold", text) as inside:
        assert telemetry._parsed(inside.traceparent) is not None


def test_the_console_shows_names_parents_and_attributes(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.set_up("penstock-test", {telemetry.VARIABLE: "console"})
    with telemetry.span("run", PARENT, pipeline="orders", missing=None) as run:
        run.note(rows=3)
        with telemetry.span("commit"):
            pass
    commit, shown = to_console(capsys)
    assert [commit["name"], shown["name"]] == ["commit", "run"]
    assert shown["parent_id"] == "0xb7ad6b7169203331"
    assert commit["parent_id"] == f"0x{run.traceparent.split('-')[2]}"
    assert shown["attributes"] == {"pipeline": "orders", "rows": 3}
    assert "penstock-test" in json.dumps(shown["resource"])


@pytest.mark.parametrize(
    ("error", "description"),
    [(NotFound("no such pipeline", value="secret"), "not_found"), (ValueError("secret"), "ValueError")],
)
def test_a_failed_span_has_the_code_and_never_the_text(
    error: Exception, description: str, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.set_up("test", {telemetry.VARIABLE: "console"})
    with pytest.raises(type(error)), telemetry.span("run"):
        raise error
    (shown,) = to_console(capsys)
    assert shown["status"] == {"status_code": "ERROR", "description": description}
    assert "secret" not in json.dumps(shown)


def test_a_trace_that_is_not_sampled_is_not_exported(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.set_up("test", {telemetry.VARIABLE: "console"})
    with telemetry.span("run", PARENT[:-2] + "00", pipeline="orders"):
        pass
    assert to_console(capsys) == []


def test_after_the_shut_down_nothing_is_exported(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.set_up("test", {telemetry.VARIABLE: "console"})
    telemetry.shut_down()
    with telemetry.span("late"):
        pass
    assert to_console(capsys) == []


def test_an_unknown_exporter_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingsError, match=r"PENSTOCK_TRACES: .*'consol'; did you mean `console`\?"):
        telemetry.set_up("test", {telemetry.VARIABLE: "consol"})


def test_otlp_without_its_package_names_the_package() -> None:
    with pytest.raises(SettingsError, match="pip install opentelemetry-exporter-otlp"):
        telemetry.set_up("test", {telemetry.VARIABLE: "otlp"})


def test_without_an_exporter_opentelemetry_is_not_imported() -> None:
    program = (
        "import sys\n"
        "from penstock import telemetry\n"
        "telemetry.set_up('test', {})\n"
        "with telemetry.span('run', rows=1) as span: span.note(rows=2); print(telemetry.current_traceparent())\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
