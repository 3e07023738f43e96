"""What is said while a model is loaded."""

import io

import pytest
from rich.console import Console

from captioner import console
from captioner.console import loading


@pytest.mark.parametrize("is_terminal", [True, False])
def test_loading_is_told_on_a_terminal_only(monkeypatch, is_terminal):
    shown = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=shown, force_terminal=is_terminal))
    with loading("the model"):
        pass
    assert ("loading the model" in shown.getvalue()) == is_terminal
