"""What can be wrong with an address, an environment and a server, each told in one message with its fix.

.venv/bin/python -m pytest tests/s3/test_s3_trouble.py
"""

import contextlib
import http.server
import subprocess
import sys
import threading

import pytest
import s3_server

from scripts.s3 import objects
from scripts.s3.address import Address, parse
from scripts.s3.client import addressing, connect
from scripts.s3.trouble import S3Failed
from train.errors import InputError

SECRET = "never-to-be-seen"


# ---- addresses ----


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("models/one", "S3: models/one: is no address of S3"),
        ("https://host/bucket", "is no address of S3"),
        (f"s3://key:{SECRET}@bucket/x", "holds credentials, which end up in logs"),
        ("s3://", r"bucket \(none\)"),
        ("s3://My_Bucket/x", "names the bucket My_Bucket, which is no bucket's name"),
        ("s3://bucket/a//b", "has a prefix with"),
        ("s3://bucket/../other", "has a prefix with"),
        ("s3://bucket/a?versionId=1", "has a prefix with"),
    ],
)
def test_a_wrong_address_is_told_with_what_to_write(url, says):
    with pytest.raises(InputError, match=says) as caught:
        parse(url)
    assert "fix: " in str(caught.value) and SECRET not in str(caught.value)


def test_an_address_knows_its_keys():
    assert parse("s3://bucket/") == Address("bucket", "") and parse("s3://bucket").key("a") == "a"
    assert parse("s3://bucket/team/one/").key("a/b") == "team/one/a/b"
    assert str(parse("s3://bucket/team") / "runs" / "x") == "s3://bucket/team/runs/x"


# ---- the environment ----


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"AWS_ENDPOINT_URL_S3": "10.0.0.1:9000"}, r"AWS_ENDPOINT_URL_S3: 10.0.0.1:9000 does not begin with https://"),
        ({"AWS_ENDPOINT_URL_S3": f"https://key:{SECRET}@host"}, "holds credentials"),
        ({"AWS_ENDPOINT_URL_S3": "https://host/bucket"}, "has more than host and port"),
        ({"AWS_ENDPOINT_URL_S3": "https://host:port"}, "is no address"),
        ({"S3_ADDRESSING": "subdomain"}, "S3_ADDRESSING: is subdomain"),
        ({"AWS_CA_BUNDLE": "/no/such/ca.pem"}, "AWS_CA_BUNDLE: /no/such/ca.pem is no file"),
        ({"AWS_PROFILE": "nobody"}, r"profile \(nobody\) could not be found"),
        ({"AWS_ACCESS_KEY_ID": ""}, "no credentials for S3 are set"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "(?i)partial credentials"),
    ],
)
def test_a_wrong_environment_is_told_by_its_variable(keys, variables, says):
    for name, value in variables.items():
        keys.setenv(name, value) if value else keys.delenv(name)
    with pytest.raises(InputError, match=says) as caught:
        connect()
    assert "fix: " in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "style"),
    [
        ("", "auto"),
        ("https://s3.example.com", "auto"),
        ("http://10.0.0.1:9000", "path"),
        ("http://[fd00::1]:9000", "path"),
        ("http://minio:9000", "path"),
    ],
)
def test_buckets_are_named_as_the_endpoint_can_take_it(endpoint, style):
    assert addressing(endpoint) == style


def test_the_addressing_that_is_asked_for_is_used(keys):
    keys.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com")
    for style, url in (("virtual", "https://bucket.s3.example.com/k"), ("path", "https://s3.example.com/bucket/k")):
        keys.setenv("S3_ADDRESSING", style)
        signed = connect().generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
        assert signed.startswith(f"{url}?")


# ---- a real server ----


def test_a_bucket_that_is_not_there_is_told_with_the_command_that_makes_it(server):
    with pytest.raises(InputError, match=r"there is no such bucket\n  fix: .* aws s3 mb s3://not-there"):
        objects.exists("s3://not-there/x")


def test_a_wrong_secret_and_an_unknown_key_are_told_apart(server, bucket, keys):
    keys.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(InputError, match="the secret is wrong") as caught:
        objects.exists(f"{bucket}/x")
    assert SECRET not in str(caught.value)
    keys.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(InputError, match="the server knows no such key"):
        objects.exists(f"{bucket}/x")


def test_tls_that_the_server_does_not_speak_is_told(server, bucket, keys):
    keys.setenv("AWS_ENDPOINT_URL_S3", server.endpoint.replace("http:", "https:"))
    with pytest.raises(InputError, match=r"TLS was asked for, and the server speaks none\n  fix: write http://127"):
        objects.exists(f"{bucket}/x")


def test_nobody_at_the_endpoint_is_told_after_a_while(server, keys):
    keys.setattr(objects, "FIRST_SECONDS", 1)
    keys.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(S3Failed, match=r"http://127.0.0.1:9 cannot be reached"):
        objects.exists("s3://bucket/x")


def test_a_server_with_an_authority_of_its_own_is_believed_when_that_is_named(program, tmp_path, keys):
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    words = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=s3", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run(
        ["openssl", "req", "-x509", *words, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    own = ["--cert", certificate, "--key", key]
    with s3_server.serving(program, tmp_path / "data", *own, scheme="https") as server:
        keys.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        with pytest.raises(InputError, match=r"AWS_CA_BUNDLE: nobody known here vouches for https://127"):
            objects.exists("s3://bucket/x")
        keys.setenv("AWS_CA_BUNDLE", str(certificate))
        connect().create_bucket(Bucket="bucket")
        assert not objects.exists("s3://bucket/x")


# ---- answers that the real server does not give on demand ----


@contextlib.contextmanager
def answering(status: int, body: str, **headers: str):
    """A server that gives every request the same answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_HEAD = do_PUT = do_GET

        def log_message(self, *words) -> None:
            """Nothing: tests print enough."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def refusal(code: str, more: str = "") -> str:
    """The body of an error as S3 writes it."""
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>no</Message>{more}</Error>'


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (403, refusal("AccessDenied"), r"the key may not do this \(ListObjectsV2\)"),
        (400, refusal("ExpiredToken"), r"AWS_SESSION_TOKEN: the credentials have expired"),
        (403, refusal("InvalidToken"), "does not take this session token"),
        (403, refusal("RequestTimeTooSkewed"), r"clock: this machine's clock is wrong: \d{4}-.*\n  fix: set the clock"),
        (400, refusal("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), "fix: set AWS_REGION=eu-west-1"),
        (403, refusal("QuotaExceeded"), "the server has no room left"),
        (507, refusal("XMinioStorageFull"), "the server has no room left"),
        (501, refusal("NotImplemented"), "ListObjectsV2 was refused: NotImplemented no"),
        (404, "<html>a proxy's page</html>", "does not answer as S3 does"),
        (400, "Client sent an HTTP request to an HTTPS server.", "https:// where the server speaks TLS"),
    ],
)
def test_a_refusal_is_told_in_words(keys, status, body, says):
    keys.setattr(objects, "FIRST_SECONDS", 1)
    with answering(status, body) as endpoint, pytest.raises((InputError, S3Failed), match=says):
        keys.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        objects.exists("s3://bucket/x")


def test_a_server_that_is_busy_is_waited_for(keys):
    keys.setattr(objects, "FIRST_SECONDS", 1)
    with answering(503, refusal("SlowDown")) as endpoint, pytest.raises(S3Failed, match="SlowDown no; waited"):
        keys.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        objects.exists("s3://bucket/x")


def test_the_program_ends_with_2_for_what_was_given(server):
    for url, status, says in (("s3://a:b@bucket/x", 2, "holds credentials"), ("s3://not-there/x", 2, "no such bucket")):
        words = [sys.executable, "-m", "scripts.s3.objects", "list", url]
        done = subprocess.run(words, cwd=s3_server.ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == status and says in done.stderr and "Traceback" not in done.stderr
