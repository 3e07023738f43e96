"""Runs the Python blocks of a page in one namespace: a line of JSON in, a line of JSON out.

It is a process of its own, in the folder of the page. What the blocks print goes to stderr.
"""

import doctest
import json
import os
import sys
import traceback

NAMESPACE = {"__name__": "__main__"}


def run(text: str, name: str, line: int) -> str:
    """Run a block, and return what went wrong. Line numbers are those of the page."""
    try:
        if ">>>" in text:
            return run_examples(text, name, line)
        exec(compile("\n" * line + text, name, "exec"), NAMESPACE)
    except BaseException:
        return traceback.format_exc()
    return ""


def run_examples(text: str, name: str, line: int) -> str:
    """Run `>>>` lines, and compare what they print."""
    report: list[str] = []
    test = doctest.DocTestParser().get_doctest(text, NAMESPACE, name, name, line)
    test.globs = NAMESPACE
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.append, clear_globs=False)
    return "".join(report)


if __name__ == "__main__":
    sys.path[0] = ""  # as of `python` in the folder
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for request in sys.stdin:
        print(json.dumps(run(**json.loads(request))), file=answers, flush=True)
