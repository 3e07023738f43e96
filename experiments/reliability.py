"""Run the tests of all faults and write docs/reliability.md: python -m experiments.reliability."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple
from xml.etree import ElementTree

import torch
import typer
import yaml

from experiments.command import new_app, run_app
from experiments.reporting import MISSING, cpu_name, markdown_table

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "reliability"

INTRODUCTION = """# When something goes wrong

What can go wrong, what happens then, and the tests that show it, in `tests/reliability`. Made by
`python -m experiments.reliability` on {machine}: {tests:,} tests in {minutes:.0f} minutes.

{table}
"""

app = new_app()


class Outcome(NamedTuple):
    """The outcome of a test."""

    file: str
    name: str
    result: str  # passed, failed or skipped


@app.command()
def reliability(
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = ROOT
    / "docs/reliability.md",
) -> None:
    """Run tests/reliability, with the slow tests, and write the table. Exit with 1 on failures."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        options = ["-m", "not data", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", str(TESTS), *options]
        failed = subprocess.run(command, cwd=ROOT, check=False).returncode
        suite = ElementTree.parse(report).getroot()
    faults = yaml.safe_load((TESTS / "faults.yaml").read_text(encoding="utf-8"))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    text = INTRODUCTION.format(
        machine=f"{platform.system()}, {cpu_name()}, {versions}",
        tests=len(suite.findall(".//testcase")),
        minutes=sum(float(case.get("time", 0)) for case in suite.iter("testcase")) / 60,
        table=table(faults, outcomes_by_row(suite)),
    )
    output.write_text(text, encoding="utf-8")
    raise typer.Exit(min(failed, 1))


def outcomes_by_row(suite: ElementTree.Element) -> dict[int, list[Outcome]]:
    """Group the tests of a JUnit report by the rows of the table that they prove."""
    rows: dict[int, list[Outcome]] = defaultdict(list)
    for case in suite.iter("testcase"):
        for row in case.iterfind("properties/property[@name='row']"):
            rows[int(row.get("value", 0))].append(_outcome(case))
    return rows


def _outcome(case: ElementTree.Element) -> Outcome:
    file = case.get("classname", "").rpartition(".")[2] + ".py"
    result = "passed"
    if case.find("skipped") is not None:
        result = "skipped"
    if case.find("failure") is not None or case.find("error") is not None:
        result = "failed"
    return Outcome(file, case.get("name", ""), result)


def table(faults: Mapping[int, Mapping[str, str]], rows: Mapping[int, Sequence[Outcome]]) -> str:
    """Return a table with a line for every fault, also those without a test."""
    lines = (
        (str(row), fault["fault"], fault["must"], *_proof(fault, rows.get(row, [])))
        for row, fault in faults.items()
    )
    return markdown_table([("", "fault", "what happens", "tests", "result"), *lines])


def _proof(fault: Mapping[str, str], tests: Sequence[Outcome]) -> Iterator[str]:
    """Yield two cells: the test files, and the number of tests by their results."""
    files = sorted({test.file for test in tests})
    yield "<br>".join(f"[{file}](../tests/reliability/{file})" for file in files) or MISSING
    not_tested = f"not here: {fault['not_here']}" if "not_here" in fault else ""
    yield "; ".join(filter(None, [_counts(tests) or "**no test**", not_tested]))


def _counts(tests: Sequence[Outcome]) -> str:
    counts = {
        result: sum(test.result == result for test in tests) for result in ("passed", "skipped")
    }
    failed = [f"**{test.name} failed**" for test in tests if test.result == "failed"]
    return ", ".join([*(f"{count} {result}" for result, count in counts.items() if count), *failed])


if __name__ == "__main__":
    run_app(app, "experiments.reliability")
