"""The card of `make publish`: what it says of made-up runs, and what it admits not to know."""

import json
import re

import pytest
import yaml

from scripts.publish.card import fenced
from scripts.publish.origin import STORED, local_name
from tests.unit.publish_cases import COMMIT, change, entry, give, make_base, make_run, write


@pytest.fixture
def base(tmp_path):
    return make_base(tmp_path / "base")


def card_of(run, tmp_path, what="", name="out", *allowed) -> str:
    assert give(run, tmp_path / name, what, *allowed) == 0
    return (tmp_path / name / "README.md").read_text()


def header(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_says_every_figure_of_the_run(tmp_path, base):
    card = card_of(make_run(tmp_path, base), tmp_path)
    for said in ("| exact match | 0 of 20 (0 %) | 19 of 20 (95 %) |", "| validation loss | 3.25 | 0.500 |",
                 "| validation loss, first and best | 3.25, 0.5 |", "| steps | 9, the best at step 9 was kept |",
                 "| time | 8.0 s, 100 tokens a second |", "| passed | check 5 | 5 of 5 |", "lora_r: 16",
                 "| learning_rate | 0.0002 |", "| seed | 42 |", "the processor can", "torch 2.13.0", "d" * 64, "e" * 64,
                 "![Loss over the steps](loss.png)", "Apache License 2.0", "2 of 1 threads each"):  # fmt: skip
        assert said in card, said
    assert "lora_r |" not in card, "what the recipe states is no default"
    assert "bnb_4bit" not in card and "report_to" not in card


def test_admits_what_is_not_recorded(tmp_path, base):
    run = make_run(tmp_path, base, hardware=None, versions=None, layout=None, git=None, dtype=None, started=None)
    card = card_of(run, tmp_path)
    for said in ("How many rows were read and kept is unknown here", "| hardware | unknown |", "| versions | unknown |",
                 "| processes | unknown |", "| number format | unknown |", "start unknown", "its licence: not recorded",
                 "Trained with versions that are not recorded."):  # fmt: skip
        assert said in card, said
    assert "None" not in card and "Undefined" not in card


def test_the_manifest_of_a_fetched_base_says_its_licence(tmp_path):
    base = make_base(tmp_path / "store" / "models" / "owner" / "base" / COMMIT, card="---\nlicense: mit\n---\n")
    files = {path.name: entry(path) for path in base.iterdir()}
    facts = {"licence": ["other"], "licence_name": "llama2", "files": files}
    write(base / "tunefleet.json", {"kind": "model", "name": "owner/base", "revision": COMMIT} | facts)
    card = card_of(make_run(tmp_path, base), tmp_path)
    assert header(card)["license"] == "llama2" and "as the hub said when it was fetched" in card
    assert header(card)["base_model"] == "owner/base"


def test_a_directory_is_no_name_on_the_hub(tmp_path, base):
    found = header(card_of(make_run(tmp_path, base), tmp_path))
    assert found["license"] == "apache-2.0" and found["library_name"] == "transformers"
    assert found["pipeline_tag"] == "text-generation" and "lora" in found["tags"]
    assert "base_model" not in found and "datasets" not in found and "language" not in found


def test_names_model_and_data_of_the_hub_with_their_commits(tmp_path, base):
    artifacts = {"model": {"name": "owner/base-7b", "revision": COMMIT, "licence": "mit"},
                 "dataset": {"name": "owner/rows", "revision": COMMIT, "licence": "cc-by-4.0"}}  # fmt: skip
    card = card_of(make_run(tmp_path, base, artifacts=artifacts), tmp_path)
    found = header(card)
    assert (found["base_model"], found["base_model_relation"]) == ("owner/base-7b", "finetune")
    assert found["datasets"] == ["owner/rows"] and found["license"] == "mit"
    assert f"trained by LoRA on `owner/base-7b`, revision `{COMMIT}`" in card
    assert f"Trained on `owner/rows`, revision `{COMMIT}`" in card
    assert "`cc-by-4.0`, as the hub said when it was fetched" in card


def test_reads_name_and_commit_from_a_store_of_a_cluster(tmp_path, base):
    card = card_of(make_run(tmp_path, base, model_path=f"/store/models/owner/base-7b/{COMMIT}"), tmp_path, "", "out",
                   "licence")  # fmt: skip
    assert header(card)["base_model"] == "owner/base-7b"
    assert f"model_revision: {COMMIT}" in card and "/store" not in card


def test_no_row_and_no_path_of_this_machine_stands_in_what_is_published(tmp_path, base):
    for what in ("merged", "adapter"):
        give(make_run(tmp_path / what, base), tmp_path / "out" / what, what)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes().decode(errors="replace")
        assert "PRIVATE ROW" not in content and str(tmp_path) not in content and "/home/ann" not in content, path.name
    assert "train_file: rows.jsonl" in (tmp_path / "out" / "merged" / "README.md").read_text()


def test_a_full_training_needs_no_proof_and_says_so(tmp_path, base):
    card = card_of(make_run(tmp_path, base, method="full"), tmp_path)
    assert "Nothing was merged: every weight was trained." in card and "trained by full fine-tuning" in card
    assert "lora_alpha" not in card and header(card)["tags"] == ["tunefleet", "full"]
    assert not (tmp_path / "out" / "proof.json").exists()


def test_an_adapter_whose_recipe_does_not_merge_needs_no_proof_and_says_so(tmp_path, base):
    card = card_of(make_run(tmp_path, base, merged=False), tmp_path)
    assert "so nothing was proven of a merge" in card and header(card)["library_name"] == "peft"


def test_the_licences_files_go_along_and_a_notice_is_written_where_none_lies_there(tmp_path):
    base = make_base(tmp_path / "base", card="---\nlicense: llama2\n---\n", LICENSE="terms", **{"USE_POLICY.md": "no"})
    card = card_of(make_run(tmp_path, base), tmp_path)
    assert "lie beside this card: LICENSE, NOTICE, USE_POLICY.md." in card
    assert (tmp_path / "out" / "LICENSE").read_text() == "terms"
    assert "LLAMA 2 Community License" in (tmp_path / "out" / "NOTICE").read_text()
    assert "- outputs are not used to improve another large language model" in card


def test_a_notice_that_lies_there_is_kept(tmp_path):
    base = make_base(tmp_path / "base", card="---\nlicense: gemma\n---\n", NOTICE="theirs")
    card_of(make_run(tmp_path, base), tmp_path)
    assert (tmp_path / "out" / "NOTICE").read_text() == "theirs"


def test_another_model_at_the_bases_place_says_nothing_of_the_licence(tmp_path, base):
    run = make_run(tmp_path, base)
    (base / "config.json").write_text('{"other": 1}')
    assert "The base's licence is unknown." in card_of(run, tmp_path, "", "out", "licence")


def test_the_manifest_lists_every_file_and_where_it_comes_from(tmp_path, base):
    card_of(make_run(tmp_path, base), tmp_path)
    manifest = json.loads((tmp_path / "out" / "tunefleet.json").read_text())
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"tunefleet.json"}
    assert set(manifest["files"]) == names
    assert manifest["published"] == {"run": "tiny-1", "identity": "f" * 64, "what": "merged", "allowed": []}
    assert manifest["licence"] == "apache-2.0" and manifest["base"]["files"]
    assert re.fullmatch(r"sha256-[0-9a-f]{16}", manifest["revision"])


def test_a_recipe_with_backticks_does_not_end_its_block(tmp_path, base):
    run = make_run(tmp_path, base)
    record = json.loads((run / "run.json").read_text())
    prompt = "```\n{instruction}\n```\n<b>|</b>"
    change(run / "run.json", recipe=record["recipe"] | {"prompt_without_input": prompt})
    given = yaml.safe_load((run / "train.yaml").read_text())
    (run / "train.yaml").write_text(yaml.safe_dump(given | {"prompt_without_input": prompt}))
    card = card_of(run, tmp_path)
    assert "````yaml\n" in card or "```yaml\n" in card
    block = re.search(r"^(`{3,})yaml\n(.*?)^\1$", card, re.DOTALL | re.MULTILINE)[2]
    assert yaml.safe_load(block)["prompt_without_input"] == prompt


def test_a_fence_is_longer_than_any_inside():
    assert fenced("a ```` b", "") == "`````\na ```` b\n`````"


@pytest.mark.parametrize(
    ("given", "shown"),
    [("/home/ann/base", "base"), ("~/base", "base"), ("../base", "base"), ("demo/model", "demo/model"), ("x", "x")],
)
def test_of_a_path_only_its_last_part_is_public(given, shown):
    assert local_name(given) == shown


def test_only_a_commit_in_the_stores_layout_makes_a_name_of_the_hub():
    assert STORED.search(f"/store/models/o/m/{COMMIT}").groups() == ("o/m", COMMIT)
    assert not STORED.search("/store/models/o/m/main") and not STORED.search(f"/store/other/o/m/{COMMIT}")


def test_a_publication_is_a_base_like_any_other_and_its_card_is_not_the_next_ones(tmp_path, base):
    give(make_run(tmp_path / "first", base), tmp_path / "published" / "first")
    again = make_run(tmp_path / "second", tmp_path / "published" / "first")
    for name in ("README.md", "loss.png", "proof.json"):
        (again / "merged" / name).write_bytes((tmp_path / "published" / "first" / name).read_bytes())
    (again / "metrics.jsonl").unlink()
    files = {path.name: entry(path) for path in (again / "merged").iterdir() if path.name != "merge.json"}
    change(again / "merged" / "merge.json", files=files)
    card = card_of(again, tmp_path)
    assert "trained by LoRA on `first`" in card and header(card)["license"] == "apache-2.0"
    assert "loss.png" not in card and not (tmp_path / "out" / "loss.png").exists()
