"""The cluster of these tests: with TUNEFLEET_TEST_CLUSTER=1 kubectl's own, else SHARED's testbed.

A cluster of somebody's own needs the image on its nodes (make image push, or TUNEFLEET_TEST_IMAGE=name) and the
operators; what needs root on nodes, or breaks something beside the tests' own namespaces, is skipped there by name.
"""

import os
from types import SimpleNamespace

import pytest

from tests.cluster import testbed


def pytest_collection_modifyitems(items) -> None:
    """The use cases first: they take longest, and the others run beside them."""
    items.sort(key=lambda item: item.path.name != "test_use_cases_run.py")


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """Where kubectl leads; `testbed` is its program, None on a cluster of somebody's own."""
    if os.environ.get("TUNEFLEET_TEST_CLUSTER") == "1":
        yield SimpleNamespace(testbed=None)
        return
    try:
        with testbed.running() as program:
            yield SimpleNamespace(testbed=program)
    except testbed.CannotRun as why:
        pytest.skip(str(why))
