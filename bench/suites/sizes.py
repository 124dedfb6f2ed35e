"""Whether the suites run at tiny shapes: a test of themselves (``--tiny``)."""

TINY = False
