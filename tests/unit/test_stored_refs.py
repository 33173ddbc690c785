"""What branches meant is noted by many at once, and none of it is lost."""

from concurrent.futures import ThreadPoolExecutor

from train import stored


def test_fetches_of_different_revisions_note_their_branches_beside_each_other(tmp_path):
    (tmp_path / "models/o/m").mkdir(parents=True)
    wanted = {f"branch-{number}": f"{number:040x}" for number in range(8)}

    def note(branch: str) -> None:
        stored.remember(stored.Artifact("model", "o/m", wanted[branch]), tmp_path, branch)

    with ThreadPoolExecutor(len(wanted)) as pool:  # the lock is of an open file, so threads stand for processes
        list(pool.map(note, wanted))
    assert stored.read_json(tmp_path / "models/o/m" / stored.REFS) == wanted
