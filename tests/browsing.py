"""Waiting for a page whose Content-Security-Policy forbids Playwright's `wait_for_function`."""


def wait_until(page, expression, seconds=10):
    """Wait until a JavaScript expression is true."""
    for _ in range(20 * seconds):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{expression} is not true after {seconds} s")
