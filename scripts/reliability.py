"""Make docs/reliability.md: run the tests of every fault, the slow ones too, and say what came of them.

python scripts/reliability.py
"""

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
from command import new_app, run_app
from pages import NOTHING, cpu, markdown

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "reliability"

INTRODUCTION = """# When something goes wrong

What can go wrong, what happens then, and the tests that show it, in `tests/reliability`. Made by
`python scripts/reliability.py` on {machine}: {tests:,} tests in {minutes:.0f} minutes. Rows 26 to 29
are kept for a service, which does not exist yet.

{table}
"""

app = new_app()


class Outcome(NamedTuple):
    """What came of a test."""

    file: str
    name: str
    result: str  # passed, failed or skipped


@app.command()
def main(
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where the table goes.")] = ROOT
    / "docs/reliability.md",
) -> None:
    """Run the tests of tests/reliability, slow ones too, and write the table. Exits with 1 where a test fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [
            sys.executable,
            "-m",
            "pytest",
            str(TESTS),
            "-m",
            "not data",
            f"--junitxml={report}",
        ]
        failed = subprocess.run(command, cwd=ROOT, check=False).returncode
        suite = ElementTree.parse(report).getroot()
    faults = yaml.safe_load((TESTS / "faults.yaml").read_text(encoding="utf-8"))
    text = INTRODUCTION.format(
        machine=f"{platform.system()}, {cpu()}, Python {platform.python_version()}, torch {torch.__version__}",
        tests=len(suite.findall(".//testcase")),
        minutes=sum(float(case.get("time", 0)) for case in suite.iter("testcase")) / 60,
        table=table(faults, by_row(suite)),
    )
    output.write_text(text, encoding="utf-8")
    raise typer.Exit(min(failed, 1))


def by_row(suite: ElementTree.Element) -> dict[int, list[Outcome]]:
    """Sort the tests of a JUnit report by the rows that they prove."""
    rows: dict[int, list[Outcome]] = defaultdict(list)
    for case in suite.iter("testcase"):
        for row in case.iterfind("properties/property[@name='row']"):
            rows[int(row.get("value", 0))].append(_outcome(case))
    return rows


def _outcome(case: ElementTree.Element) -> Outcome:
    failed = case.find("failure") is not None or case.find("error") is not None
    result = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
    return Outcome(
        case.get("classname", "").rpartition(".")[2] + ".py", case.get("name", ""), result
    )


def table(faults: Mapping[int, Mapping[str, str]], rows: Mapping[int, Sequence[Outcome]]) -> str:
    """Draw a line for every fault, proved or not."""
    lines = (
        (str(row), fault["fault"], fault["must"], *_proof(fault, rows.get(row, [])))
        for row, fault in faults.items()
    )
    return markdown([("", "fault", "what happens", "tests", "result"), *lines])


def _proof(fault: Mapping[str, str], tests: Sequence[Outcome]) -> Iterator[str]:
    files = dict.fromkeys(test.file for test in tests)
    yield "<br>".join(f"[{file}](../tests/reliability/{file})" for file in files) or NOTHING
    missing = f"not here: {fault['not_here']}" if "not_here" in fault else ""
    yield "; ".join(filter(None, [_counted(tests) or "**no test**", missing]))


def _counted(tests: Sequence[Outcome]) -> str:
    found = {
        result: [test.name for test in tests if test.result == result]
        for result in ("passed", "skipped")
    }
    failed = [f"**{test.name} failed**" for test in tests if test.result == "failed"]
    return ", ".join(
        [*(f"{len(names)} {result}" for result, names in found.items() if names), *failed]
    )


if __name__ == "__main__":
    run_app(app)
