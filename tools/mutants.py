"""Mutation tests: change one thing in a module that keeps data, and see whether the tests that aim at it notice.

    make mutants                                          # five mutants of each module of tests/mutation/modules.toml
    make mutants ARGS="postgres/merge catalog --sample 20 --seed 7"
    make mutants ARGS="agents/gate --all --list"          # names the mutants, tests none

cosmic-ray makes the mutants, in a copy of the working tree; `tools/mutations.py` adds those of SQL and of statements. A
mutant is killed when a test of the module fails, or takes more than some minutes, that passes without it. The mutants
are picked by the seed: first a place in the module, then one of its changes. A mutant that changes nothing that can be
seen is listed as equivalent in modules.toml, with the reason.
"""

import argparse
import ast
import contextlib
import difflib
import itertools
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

from tools.mutations import OPERATORS

ROOT: Final = Path(__file__).parents[1]
TABLE: Final = ROOT / "tests" / "mutation" / "modules.toml"
TEST_SECONDS: Final = 150
SECONDS: Final = 900
PLUGINS: Final = ("-p", "no:cacheprovider", "-p", "tools.without_shrinking")
CORE: Final = {
    "AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "NumberReplacer",
    "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop", "ReplaceUnaryOperator_Delete_Not",
    "ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add", "ReplaceBinaryOperator_Mul_Add",
    "ReplaceBinaryOperator_BitOr_BitAnd", "ReplaceBinaryOperator_BitAnd_BitOr",
    "ReplaceComparisonOperator_Eq_NotEq", "ReplaceComparisonOperator_NotEq_Eq", "ReplaceComparisonOperator_Lt_LtE",
    "ReplaceComparisonOperator_LtE_Lt", "ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is",
}  # fmt: skip
"""The operators of cosmic-ray whose mutants are mistakes that people make; the others only add more of them."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a module."""

    line: int
    code: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"line {self.line}\n    - {self.before}\n    + {self.after}"


@dataclass(slots=True)
class Result:
    """Result of one module's mutants."""

    module: str
    killed: int = 0
    survivors: list[Mutant] = field(default_factory=list)
    unsure: list[Mutant] = field(default_factory=list)
    """Mutants at which a test failed that fails as the module is, too: neither killed nor survivors."""

    @property
    def total(self) -> int:
        """Number of tested mutants."""
        return self.killed + len(self.survivors)


def _places(source: str) -> dict[tuple[int, int], list[tuple[Any, int]]]:
    """Changes of a module by their place, without those of annotations, decorators and constants; none is made yet."""
    core = OperatorProvider()
    operators = [core[name] for name in sorted(CORE)] + list(OPERATORS.values())
    tree = ast.parse(source)
    skipped, settings = set(_without_effect(tree)), set(_settings(tree))
    nodes = list(ast_nodes(get_ast(source)))
    found: dict[tuple[int, int], list[tuple[Any, int]]] = {}
    for operator in (one() for one in operators):
        places = [place for node in nodes for place, _ in operator.mutation_positions(node)]
        for occurrence, place in enumerate(places):
            if place[0] not in skipped and place not in settings:
                found.setdefault(place, []).append((operator, occurrence))
    return found


def _made(source: str, operator: Any, occurrence: int) -> Mutant | None:
    code = mutate_code(source, operator, occurrence)
    if code is None or code == source or "[ -1]" in code or not _is_python(code):
        return None
    return _mutant(source, code)


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def _without_effect(tree: ast.Module) -> Iterator[int]:
    """Lines of annotations, decorators, constants of the module that are no SQL, and reports of defects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _lines(node)
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if annotation is not None and "BitOr" in ast.dump(annotation):
                yield from _lines(annotation)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from (line for one in node.decorator_list for line in _lines(one))
        if isinstance(node, ast.Raise) and "'AssertionError'" in ast.dump(node):
            yield from _lines(node)
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and not any("SELECT" in one for one in _texts(node)):
            yield from _lines(node)


def _settings(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Places of `init` in fields of dataclasses, a parameter more, and of `strict`, by which `zip` reports defects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in {"init", "strict"}:
            yield node.value.lineno, node.value.col_offset


def _texts(node: ast.AST) -> Iterator[str]:
    return (one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))


def _lines(node: Any) -> range:
    return range(node.lineno, node.end_lineno + 1)


def _mutant(source: str, code: str) -> Mutant:
    old, new = source.splitlines(), code.splitlines()
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            return Mutant(a + 1, code, " ".join(old[a:b]).strip(), " ".join(new[c:d]).strip())
    raise AssertionError


def picked(source: str, count: int | None, seed: int, equivalent: set[tuple[str, str]]) -> list[Mutant]:
    """Mutants in an order that only the seed decides: one of each place before a second one of any."""
    rng = random.Random(seed)  # noqa: S311 - a sample
    places = sorted(_places(source).items(), key=lambda one: one[0])
    rng.shuffle(places)
    queues = [rng.sample(changes, len(changes)) for _, changes in places]
    order = (queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue))
    found = (mutant for operator, occurrence in order if (mutant := _made(source, operator, occurrence)))
    return list(itertools.islice((one for one in found if (one.before, one.after) not in equivalent), count))


class Copy:
    """A copy of the working tree in which one module at a time is changed."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="penstock-mutants-"))
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in filter(
            None, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
        ):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)

    def fails(self, tests: list[str]) -> str | None:
        """The first test that fails, all of them if none can be named, or None if they pass."""
        limits = ("--timeout", str(TEST_SECONDS), "-x", "-q", "-n", "0")
        command = [sys.executable, "-m", "pytest", *limits, *PLUGINS, *tests]
        environment = os.environ | {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}
        log = self.root / "mutant.log"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command, cwd=self.root, env=environment, stdout=output, stderr=output, start_new_session=True
            ) as process,
        ):
            try:
                if process.wait(SECONDS) in {0, 5}:  # 5: no test was chosen
                    return None
            except subprocess.TimeoutExpired:
                _end(process)
                return ""
            except BaseException:  # it is in a session of its own, so that a Ctrl-C does not reach it
                _end(process)
                raise
        named = re.search(r"^(?:FAILED|ERROR) (.+?\.py::.+?)(?: - |$)", log.read_text(errors="replace"), re.MULTILINE)
        return named[1] if named else ""

    def remove(self) -> None:
        """Delete the copy."""
        shutil.rmtree(self.root, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tested(copy: Copy, module: str, tests: list[str], mutants: list[Mutant]) -> Result:
    """Run the tests once for each mutant, and those that fail once more as the module is, where they have to pass."""
    path, result, passed = copy.root / module, Result(module), set[str]()
    source = path.read_text()
    try:
        for mutant in mutants:
            path.write_text(mutant.code)
            failed = copy.fails(tests)
            path.write_text(source)
            if failed is None:
                result.survivors.append(mutant)
                print(f"survived: {module}, {mutant}", flush=True)
            elif failed in passed or copy.fails([failed] if failed else tests) is None:
                result.killed += 1
                passed.add(failed)
            else:
                result.unsure.append(mutant)
                print(f"unsure, {failed or tests} fails without it, too: {module}, {mutant}", flush=True)
        if mutants and not result.killed:
            path.write_text("raise ImportError\n" + source.replace("from __future__ import annotations", ""))
            if copy.fails(tests) is None:
                sys.exit(f"mutants: {', '.join(tests)} pass without {module}")
    finally:
        path.write_text(source)
    return result


def table(results: list[Result]) -> str:
    """The results as lines, with the sum below."""
    lines = [f"{'module':48} mutants  killed"]
    for one in [*results, _sum(results)]:
        share = f"{100 * one.killed / one.total:.0f} %" if one.total else "-"
        lines.append(f"{one.module:48} {one.total:7} {share:>7}")
    return "\n".join(lines)


def _sum(results: list[Result]) -> Result:
    survivors = [mutant for one in results for mutant in one.survivors]
    unsure = [mutant for one in results for mutant in one.unsure]
    return Result("all", sum(one.killed for one in results), survivors, unsure)


def main(words: list[str]) -> Result:
    """Run what the command line asks for, and print the table."""
    parser = argparse.ArgumentParser(prog="mutants", description="Mutation tests of the modules that keep data")
    parser.add_argument("modules", nargs="*", help="parts of their paths, such as postgres/merge; all of the table")
    parser.add_argument("--sample", type=int, default=5, help="mutants of each module (5)")
    parser.add_argument("--all", action="store_true", help="every mutant of them")
    parser.add_argument("--seed", type=int, default=1, help="what the sample depends on (1)")
    parser.add_argument("--list", action="store_true", help="name the mutants, and test none")
    asked = parser.parse_args(words)
    settings = tomllib.loads(TABLE.read_text())
    chosen = {
        module: tests
        for module, tests in settings["modules"].items()
        if not asked.modules or any(part in module for part in asked.modules)
    }
    listed = settings.get("equivalent", [])
    results: list[Result] = []
    copy = Copy()
    try:
        for module, tests in chosen.items():
            source = (ROOT / module).read_text()
            equivalent = {(one["was"], one["now"]) for one in listed if one["module"] == module}
            mutants = picked(source, None if asked.all else asked.sample, asked.seed, equivalent)
            if asked.list:
                print("\n".join(f"{module}, {mutant}" for mutant in mutants))
                continue
            results.append(tested(copy, module, shlex.split(tests), mutants))
            print(f"{module}: {results[-1].killed} of {results[-1].total} killed", flush=True)
    finally:
        copy.remove()
    print(table(results))
    return _sum(results)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what it has started ends, too
    main(sys.argv[1:])
