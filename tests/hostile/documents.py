# ruff: noqa: E501 - tables and grammars of invalid input
"""Malicious or corrupted project files."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

from dataflows.transforms.expressions.check import check_expressions
from penstock.models.documents import read_documents

PIPELINE = """apiVersion: penstock/v1
kind: Pipeline
metadata: {name: orders, owner: data-team, labels: {tier: gold}}
spec:
  mode: batch
  source: {connection: shop, object: public.orders, cursor: {field: updated_at, lag: 5m}}
  schedule: {cron: "*/15 * * * *", timezone: Europe/Berlin, missed: latest}
  mapping: {fields: [{target: order_id, from: id}, {target: total, sql: "price * quantity"}]}
  transforms:
    - {name: cast, cast: {placed_at: timestamptz}}
    - {name: eur, when: "currency <> 'EUR'", set: {amount: "amount * rate"}}
    - {name: mask, mask: {phone: hash}}
  validate: {not_null: [order_id], checks: {positive: "amount >= 0"}}
  sink: {connection: warehouse, object: sales.orders, write: merge, key: [order_id]}
  errors: {retry: {base: 1s, factor: 2.0, max: 5m, attempts: 6}, dead_letter: {keep: 30d, fail_above: 1%}}
  limits: {batch_rows: 65536, workers: 1}
  tests: [{name: usd, given: [{id: 1, price: 2, quantity: 3}], expect: [{order_id: 1, total: 6}]}]
"""
POLICY = """apiVersion: penstock/v1
kind: AgentPolicy
metadata: {name: default}
spec:
  discovery: {autonomy: act, every: 1h, sample_rows: 10000}
  mapping: {autonomy: propose, act_above: 0.90}
  monitor: {sensitivity: 4.0, warm_up: 20}
"""
CONNECTIONS = """shop: {type: postgres, dsn: "postgresql://shop@localhost/shop", password: "${env:PENSTOCK_SECRET_SHOP}"}
lake: {type: s3, url: "s3://lake/raw", endpoint: "http://127.0.0.1:9000"}
"""
VALUES = [
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!binary '///'", "!!int ''", "!!int x", "!!int '-'",
    "!!float x", "!!float ''", "!!bool maybe", "!!null x", "!!timestamp x", "!!timestamp '2024-99-99'", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]",
    "!!map [1, 2]", "!!seq {a: 1}", "!!str [1]", "!!map x", "!!merge '<<'", "!!value '='", "=", "<<", "{<<: *a}", "&a [*a]", "*nothing", "&a", "!x y", "!<tag:x> y",
    "9" * 5000, "0x" + "f" * 3000, "-" + "1" * 400, "0o777", "0b101", "1:2:3", ":".join(["59"] * 300), ":".join(["59"] * 400) + ".5", ".inf", "-.inf", ".nan", "1e999",
    "1_000", "~", "null", "NULL", "yes", "No", "2024-02-30", '"\\ud800"', '"\\0"', '"\\x00"', '"\\uffff"', '"\\U00110000"', "'", '"', "|", ">-\n\n", "? a", "? [a]\n: b", "{? {a: 1} : 2}",
    "[" * 3000, "[" * 900 + "]" * 900, "{a: " * 500, "- " * 400 + "x", "{}", "[]", "''", "@x", "`x", "%x", "\t", "\x85", "\u2028", "\ufeff", "\x07", "\x7f", "\U0001f600", "a" * 70_000,
    "{a: 1, a: 2}", "{1: 2}", "{null: 1}", "{true: 1}", "{1.5: 2}", "{[]: 1}", "{? [a, b] : 1}", "${env:PENSTOCK_SECRET_CANARY}", "${env:HOME}", "${file:/etc/passwd}", "${file:canary}", "<<: {a: 1}",
]  # fmt: skip
WORDS = [
    "kind", "name", "spec", "source", "connection", "object", "cursor", "lag", "cron", "timezone", "mapping", "fields", "sql", "from", "target", "when", "set", "cast",
    "filter", "mask", "rename", "explode", "lookup", "python", "deduplicate", "select", "retry", "factor", "limits", "tests", "given", "expect", "types", "format",
]  # fmt: skip


def alias_bomb(rng: random.Random) -> str:
    """YAML aliases of aliases, which expand exponentially."""
    wide, deep = rng.choice([(2, 40), (9, 9), (10, 5), (3, 300)])
    lines = ["a0: &a0 [x, y]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * wide)}]" for n in range(1, deep)]
    return "\n".join(lines)


def generate(number: int) -> tuple[str, bytes]:
    """Return a file's name and content."""
    rng = random.Random(number)
    name, text = rng.choice([("p.yaml", PIPELINE), ("p.yaml", POLICY), ("connections.yaml", CONNECTIONS)])
    way = rng.randrange(10)
    if way == 0:
        name, text = name.replace(".yaml", ".json"), _as_json(rng, text)
    elif way == 1:
        text = alias_bomb(rng) + "\n" + text
    elif way == 2:
        text = "\n---\n".join(
            rng.choice([PIPELINE, POLICY, "", "x", "[]", "null", "a: b"]) for _ in range(rng.randrange(2, 8))
        )
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 8])):
        text = _changed(rng, text)
    data = text.encode(errors="surrogatepass")
    if rng.random() < 0.25:
        data = corrupted(rng, data)
    return name, data


def _as_json(rng: random.Random, text: str) -> str:
    import yaml

    data = yaml.safe_load(text)
    out = json.dumps(data, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5)
    return rng.choice(
        [
            out,
            out + "\n" + out,
            out.replace("1", "1e5"),
            out.replace("}", ",}"),
            f"[{out}]",
            out.replace('"', "'"),
            out.replace("1", "-Infinity"),
        ]
    )


def _changed(rng: random.Random, text: str) -> str:
    """Replace one value, key or line by something else."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    way = rng.randrange(7)
    if way == 0:
        lines.insert(
            at,
            rng.choice(
                [
                    "---",
                    "...",
                    "%YAML 9.9",
                    "%TAG ! x:",
                    "\t",
                    "- a",
                    lines[at],
                    "? x",
                    "#",
                    "  extra: 1",
                    "x: &a {b: *a}",
                ]
            ),
        )
    elif way == 1:
        lines[at] = " " * rng.randrange(9) + lines[at].lstrip()
    elif way == 2:
        del lines[at]
    elif way == 3:
        found = [word for word in WORDS if word in text]
        return (
            text.replace(rng.choice(found), rng.choice([*WORDS, "", "\ud800", "🙂", "nmae", '"\\ud83d"', "a" * 300]), 1)
            if found
            else text
        )
    else:
        line = lines[at]
        starts = [n for n, sign in enumerate(line) if sign in ":[,{"]
        if starts:
            start = rng.choice(starts) + 1
            ends = [n for n in range(start, len(line)) if line[n] in ",]}"] or [len(line)]
            lines[at] = f"{line[:start]} {rng.choice(VALUES)}{line[ends[0] :]}"
    return "\n".join(lines)


def corrupted(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat or insert bytes, or change the encoding of the whole."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        if not out:
            break
        at, way = rng.randrange(len(out)), rng.randrange(5)
        if way == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            out[at] = rng.choice(b"\x00\xff\xc3\xed\x80\r\n\t\"'{}[]:,&*!|>%@`\x1a\xfe")
        elif way == 2:
            del out[at : at + rng.choice([1, 10, 100, len(out)])]
        elif way == 3:
            out[at:at] = out[at : at + rng.randrange(1, 40)] * rng.randrange(1, 4)
        else:
            out[at:at] = rng.choice(
                [b"\xef\xbb\xbf", b"\xff\xfe", b"\0\0", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\r", b"\x85"]
            )
    if rng.random() < 0.1:
        return bytes(out).decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-7"]))
    return bytes(out)


def _no_json(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


def check(case: tuple[str, bytes]) -> str:
    name, data = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        documents = read_documents([path], check_expressions)
    for one in (*documents.pipelines, *documents.policies, *documents.connections.values()):
        again = type(one).parse(one.to_dict())
        assert again == one, "the document does not survive a round trip"
        json.loads(one.to_json().encode(), parse_constant=_no_json)
    return f"valid: {len(documents) > 0}"
