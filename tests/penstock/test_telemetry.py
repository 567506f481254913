import io
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import telemetry
from penstock.errors import NotFound, SettingsError
from tests.otlp import Receiver, receiver

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


def test_spans_that_overlap_in_other_threads_leave_the_one_that_holds_everywhere() -> None:
    begun, over = threading.Event(), threading.Event()

    def work() -> None:
        with telemetry.span("split"):
            begun.set()
            assert over.wait(30)

    def look() -> None:
        seen.append(telemetry.current_traceparent())

    seen: list[str] = []
    early = threading.Thread(target=work)
    early.start()
    assert begun.wait(30)
    with telemetry.span("run", everywhere=True) as run:
        over.set()
        early.join()
        _in_a_thread(look)
        begun.clear()
        over.clear()
        late = threading.Thread(target=work)
        late.start()
        assert begun.wait(30)
    over.set()
    late.join()
    _in_a_thread(look)
    assert seen[0] == run.traceparent
    assert run.trace_id not in seen[1], "it is over"


def _in_a_thread(do: Callable[[], None]) -> None:
    thread = threading.Thread(target=do)
    thread.start()
    thread.join()


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


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_otlp_without_its_package_names_the_package(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(telemetry, "import_module", missing)
    package = f"pip install opentelemetry-exporter-otlp-proto-{protocol.partition('/')[0]}"
    with pytest.raises(SettingsError, match=package):
        telemetry.set_up("test", {telemetry.STANDARD: "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})


@pytest.fixture
def otlp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiver() as found:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        yield found


def test_spans_arrive_by_otlp_as_the_standard_variables_say(otlp: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OTEL_SERVICE_NAME": "orders-team",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }.items():
        monkeypatch.setenv(name, value)
    telemetry.set_up("penstock-test")
    with telemetry.span("run", PARENT, rows=3) as run:
        run.link(f"00-{'1' * 32}-{'2' * 16}-01")
        run.link("no trace")
        telemetry.record("decide", run.traceparent, time.time_ns() - 5_000_000)
    telemetry.flush()
    (decide,), (sent,) = otlp.named("decide"), otlp.named("run")
    assert (sent.trace, sent.parent, sent.service, sent.attributes) == (
        TRACE,
        PARENT[36:52],
        "orders-team",
        {"rows": 3},
    )
    assert sent.links == ("1" * 32,)
    assert (decide.parent, decide.trace) == (sent.id, TRACE)
    assert decide.end - decide.begin >= 5_000_000
    assert otlp.headers[0]["authorization"] == "Bearer x"


@pytest.mark.parametrize(
    "variables",
    [
        {telemetry.VARIABLE: "none", telemetry.STANDARD: "otlp"},
        {telemetry.STANDARD: "otlp", "OTEL_SDK_DISABLED": "true"},
        {telemetry.VARIABLE: "", telemetry.STANDARD: "none"},
    ],
)
def test_nothing_is_exported_if_a_variable_says_so(variables: dict[str, str]) -> None:
    telemetry.set_up("test", variables)
    assert not telemetry.exporting()


def test_a_receiver_that_does_not_answer_holds_up_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(telemetry, "SHUT_DOWN_SECONDS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        telemetry.set_up("test", {telemetry.STANDARD: "otlp"})
        for _ in range(3):
            with telemetry.span("run"):
                pass
            telemetry.flush()
        telemetry.shut_down()


def test_lines_of_a_log_end_with_the_id_of_their_trace() -> None:
    written = io.StringIO()
    log, handler = logging.getLogger("penstock.test.traces"), logging.StreamHandler(written)
    log.propagate = False
    log.addHandler(handler)
    telemetry.add_trace_ids(handler)
    log.warning("before")
    log.warning("told", extra={"traceparent": PARENT})
    with telemetry.span("run", everywhere=True) as run:
        thread = threading.Thread(target=log.warning, args=("inside",))
        thread.start()
        thread.join()
        assert telemetry.current_traceparent() == run.traceparent
    log.warning("after")
    expected = ["before", f"told (trace {TRACE})", f"inside (trace {run.trace_id})", "after"]
    assert written.getvalue().splitlines() == expected


def test_without_an_exporter_opentelemetry_is_not_imported() -> None:
    program = (
        "import sys\n"
        "import agents.operator, api.cli.redrives, dataflows.runs.parallel, dataflows.runs.serving, dataflows.worker\n"
        "from penstock import telemetry\n"
        "telemetry.set_up('test', {})\n"
        "with telemetry.span('run', rows=1) as span: span.note(rows=2); print(telemetry.current_traceparent())\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
