"""`make publish TO=s3://…` to a real S3 server."""

import json

import pytest

from scripts.publish import to_s3
from scripts.publish.targets import PublishFailed
from scripts.s3 import manifest as manifests
from scripts.s3.address import parse
from scripts.s3.client import connect
from scripts.s3.objects import pull
from scripts.s3.trouble import S3Failed
from tests.unit.publish_cases import give, make_base, make_run
from train import stored
from train.errors import InputError


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, make_base(tmp_path / "base"))


def objects(url: str) -> set[str]:
    return set(manifests.listing(connect(), parse(url)))


def test_what_is_published_comes_back_whole(run, bucket, tmp_path, capsys):
    assert give(run, f"{bucket}/models/tiny") == 0
    assert f"published {bucket}/models/tiny (sha256-" in capsys.readouterr().out
    pull(f"{bucket}/models/tiny", tmp_path / "back")
    assert stored.damage(tmp_path / "back") == []
    assert (tmp_path / "back" / "model.safetensors").read_text() == "merged weights"
    assert "# tiny\n" in (tmp_path / "back" / "README.md").read_text()
    assert not list(run.glob(".publish*"))


def test_the_same_again_sends_nothing(run, bucket, capsys, monkeypatch):
    give(run, f"{bucket}/tiny")
    monkeypatch.setattr(to_s3, "push", None)
    assert give(run, f"{bucket}/tiny") == 0
    assert "this very publication is there already" in capsys.readouterr().out


def test_another_publication_is_replaced_only_when_allowed_and_leaves_nothing_behind(run, bucket):
    give(run, f"{bucket}/tiny")
    with pytest.raises(InputError, match=r"(?s)holds another publication, tiny sha256-.*ALLOW=replace replaces it"):
        give(run, f"{bucket}/tiny", "adapter")
    assert give(run, f"{bucket}/tiny", "adapter", "replace") == 0
    manifest = json.loads(manifests.read_text(connect(), parse(f"{bucket}/tiny"), stored.MANIFEST))
    assert objects(f"{bucket}/tiny") == {*manifest["files"], stored.MANIFEST}
    assert "model.safetensors" not in manifest["files"]


def test_objects_of_others_are_never_replaced(run, bucket):
    connect().put_object(Bucket=parse(bucket).bucket, Key="tiny/thesis.tex", Body=b"years of work")
    with pytest.raises(InputError, match=r"no publication lies there \(thesis.tex") as caught:
        give(run, f"{bucket}/tiny", "", "replace")
    assert "ALLOW" not in str(caught.value)
    assert objects(f"{bucket}/tiny") == {"thesis.tex"}


def test_a_model_of_somebody_else_with_the_same_names_is_never_overwritten(run, bucket):
    foreign = {"config.json": b"{}", "model.safetensors": b"somebody's weights"}
    for name, body in foreign.items():
        connect().put_object(Bucket=parse(bucket).bucket, Key=f"tiny/{name}", Body=body)
    with pytest.raises(InputError, match=r"no publication lies there \(config.json, model.safetensors"):
        give(run, f"{bucket}/tiny", "", "replace")
    address = parse(f"{bucket}/tiny")
    assert {name: manifests.read_text(connect(), address, name).encode() for name in foreign} == foreign


def test_what_a_cut_publication_left_is_gone_on_with(run, bucket, monkeypatch):
    push = to_s3.push

    def cut(directory, url):
        push(directory, url)
        connect().delete_object(Bucket=parse(url).bucket, Key=parse(url).key(stored.MANIFEST))
        raise S3Failed("the server did not answer")

    monkeypatch.setattr(to_s3, "push", cut)
    with pytest.raises(PublishFailed, match="did not answer"):
        give(run, f"{bucket}/tiny")
    assert stored.MANIFEST not in objects(f"{bucket}/tiny")
    monkeypatch.setattr(to_s3, "push", push)
    assert give(run, f"{bucket}/tiny") == 0
    assert stored.MANIFEST in objects(f"{bucket}/tiny") and to_s3.MARK not in objects(f"{bucket}/tiny")


def test_a_bucket_that_is_not_there_is_the_users(run, server):
    with pytest.raises(InputError, match="nowhere"):
        give(run, "s3://nowhere-at-all/tiny")
