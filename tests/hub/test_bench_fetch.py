"""The bench of fetching: what it needs is named beforehand, and it leaves nothing.

.venv/bin/python -m pytest tests/hub/test_bench_fetch.py
"""

import shutil

import pytest

from scripts import bench_fetch
from train.errors import InputError


def bench(monkeypatch, tmp_path) -> int:
    words = ["bench_fetch", "--megabytes", "1", "--rounds", "2", "--rate", "50e6", "--directory", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    return bench_fetch.main()


def test_without_curl_it_says_so_before_it_makes_anything(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_fetch.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="curl: is not installed"):
        bench(monkeypatch, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_each_round_fetches_into_an_empty_store_and_takes_it_away(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_fetch, "GOAL", 0.0)
    fetching = bench_fetch.fetch

    def fetch(endpoint, store):
        assert not [path for path in store.parent.iterdir() if path.name.startswith("store")]
        fetching(endpoint, store)

    monkeypatch.setattr(bench_fetch, "fetch", fetch)
    assert bench(monkeypatch, tmp_path) == 0
    assert not list(tmp_path.iterdir())
