"""The tests; what they share is in `helpers` and, as fixtures, in `conftest`."""
