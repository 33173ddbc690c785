"""The cluster of these tests: with TUNEFLEET_TEST_CLUSTER=1 kubectl's own, else SHARED's testbed.

A cluster of somebody's own needs the image on its nodes (make image push, or TUNEFLEET_TEST_IMAGE=name) and the
operators; what needs root on nodes, or breaks something beside the tests' own namespaces, is skipped there by name.
"""

import os
from types import SimpleNamespace

import pytest

from tests.cluster import testbed


LONGEST = ("test_use_cases_run.py", "test_runbooks.py", "test_lost_pods.py", "test_rank_sweep.py")


def pytest_collection_modifyitems(items) -> None:
    """The longest files first, and the others beside them: none is begun when everything else is done."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


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
