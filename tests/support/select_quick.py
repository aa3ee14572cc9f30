"""Select the tests of ``make quick``: those that cover most new lines per second, until a time budget is spent.

First run all tests with coverage and durations, then this script::

    pytest -n 2 --dist loadfile --cov --cov-context=test --cov-report= --junitxml=.junit.xml -k "not disk"
    python tests/support/select_quick.py .coverage .junit.xml

Tests of full disks limit the size of files in their process, and so that of the coverage database; they are left out.
It writes ``tests/quick.txt`` and prints the coverage of both sets.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

from coverage import CoverageData
from paths import TESTS

Lines = set[tuple[str, int]]
MIN_SECONDS = 0.02  # overhead of a test


def durations(junit: Path) -> dict[str, float]:
    """Seconds by test function (``tests/a.py::test_b``), its parameters added up."""
    seconds: dict[str, float] = defaultdict(float)
    for case in ET.parse(junit).iter("testcase"):
        path = case.attrib["classname"].replace(".", "/") + ".py"
        name = f"{path}::{case.attrib['name'].partition('[')[0]}"
        seconds[name] += MIN_SECONDS + float(case.attrib["time"])
    return seconds


def covered_lines(coverage: Path) -> dict[str, Lines]:
    """The lines that each test function covers; lines that only imports execute belong to none."""
    data = CoverageData(str(coverage))
    data.read()
    by_test: dict[str, Lines] = defaultdict(set)
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            for context in contexts:
                test = context.partition("|")[0].partition("[")[0]
                if test:
                    by_test[test].add((file, line))
    return by_test


def select(by_test: dict[str, Lines], seconds: dict[str, float], budget: float) -> tuple[list[str], Lines]:
    """Greedy: the test with the most new lines per second first."""
    chosen: list[str] = []
    covered: Lines = set()
    remaining = {test for test in by_test if test in seconds}
    while remaining:
        best = max(remaining, key=lambda test: len(by_test[test] - covered) / seconds[test])
        if not by_test[best] - covered:
            break
        remaining.remove(best)
        if seconds[best] <= budget:
            budget -= seconds[best]
            covered |= by_test[best]
            chosen.append(best)
    return chosen, covered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coverage", type=Path)
    parser.add_argument("junit", type=Path)
    parser.add_argument("--budget", type=float, default=80.0, help="seconds of all selected tests, one after another")
    args = parser.parse_args()
    by_test = covered_lines(args.coverage)
    everything = set().union(*by_test.values())
    seconds = durations(args.junit)
    chosen, covered = select(by_test, seconds, args.budget)
    (TESTS / "quick.txt").write_text("".join(f"{test}\n" for test in sorted(chosen)))
    print(f"all tests: {len(everything)} lines, {len(seconds)} functions, {sum(seconds.values()):.0f} s")
    share = 100 * len(covered) / len(everything)
    spent = sum(seconds[test] for test in chosen)
    print(f"quick:     {len(covered)} lines ({share:.1f} % of them), {len(chosen)} functions, {spent:.0f} s")


if __name__ == "__main__":
    main()
