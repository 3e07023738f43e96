"""The table of faults has every row with its tests: also those without, and those that fail."""

import re
from xml.etree import ElementTree

import yaml

from experiments import reliability

FAULTS = {
    1: {"fault": "a fire", "must": "an alarm"},
    2: {"fault": "a flood", "must": "a boat"},
    3: {"fault": "a storm", "must": "a cellar", "not_here": "no wind in here"},
    4: {"fault": "a thief", "must": "a dog"},
    5: {"fault": "a wave", "must": "a hill", "not_here": "no sea"},
}
REPORT = """<testsuites><testsuite>
<testcase classname="tests.reliability.test_fires" name="test_small">{row1}</testcase>
<testcase classname="tests.reliability.test_fires" name="test_large">{row1}<skipped/></testcase>
<testcase classname="tests.reliability.test_storms" name="test_breeze">{row3}</testcase>
<testcase classname="tests.reliability.test_thieves" name="test_night">{row4}<failure/></testcase>
<testcase classname="tests.reliability.test_more" name="test_of_no_row"/>
</testsuite></testsuites>"""


def test_every_row_has_the_results_of_its_tests():
    rows = {
        f"row{n}": f'<properties><property name="row" value="{n}"/></properties>' for n in FAULTS
    }
    lines = reliability.table(
        FAULTS, reliability.outcomes_by_row(ElementTree.fromstring(REPORT.format(**rows)))
    ).splitlines()[2:]
    fires, storms, thieves = (
        f"[test_{name}.py](../tests/reliability/test_{name}.py)"
        for name in ("fires", "storms", "thieves")
    )
    assert lines == [
        f"| 1 | a fire | an alarm | {fires} | 1 passed, 1 skipped |",
        "| 2 | a flood | a boat | – | **no test** |",
        f"| 3 | a storm | a cellar | {storms} | 1 passed; not here: no wind in here |",
        f"| 4 | a thief | a dog | {thieves} | **test_night failed** |",
        "| 5 | a wave | a hill | – | **no test**; not here: no sea |",
    ]


def test_the_rows_of_tests_are_those_of_the_table():
    faults = yaml.safe_load((reliability.TESTS / "faults.yaml").read_text())
    listed = "".join(path.read_text() for path in reliability.TESTS.glob("test_*.py"))
    rows = {int(row) for row in re.findall(r"mark\.row\((\d+)\)", listed)}
    assert rows <= set(faults)
