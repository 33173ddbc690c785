"""What S3 refuses, in words; and what passes by itself, waited for."""

import os
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions
from botocore.parsers import ResponseParserError

from train.errors import InputError, problem, see

PATIENCE = 300.0  # seconds in which a server that does not answer may come back
LONGEST_PAUSE = 15.0
REFUSED = (exceptions.BotoCoreError, exceptions.ClientError, ResponseParserError)
PASSES = (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError)  # cut, silent, away
PASSING = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "InternalError",
           "ServiceUnavailable", "BadDigest", "IncompleteBody", "OperationAborted", "429", "408"}  # fmt: skip
NO_ACCESS = {"AccessDenied", "AllAccessDisabled", "403", "Forbidden", "UnauthorizedAccess", "AccountProblem"}
WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "InvalidSecurity",
             "XAdminUserNotFound"}  # fmt: skip
EXPIRED = {"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException", "RequestExpired"}
WRONG_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301",
                "TemporaryRedirect", "InvalidRegion"}  # fmt: skip
FULL = {
    "QuotaExceeded",
    "XMinioStorageFull",
    "InsufficientStorage",
    "StorageFull",
    "507",
    "XMinioAdminBucketQuotaExceeded",
}
KEYS = "AWS_ACCESS_KEY_ID"
NO_TLS = ("wrong version number", "record layer failure", "unknown protocol", "unexpected eof")


class S3Failed(Exception):
    """The server did not answer for so long that waiting was given up; the same again goes on where this stopped."""


def patiently(
    work: Callable[[], Any],
    where: object,
    seconds: float = PATIENCE,
    tell: Callable[[str], None] = lambda text: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Any:
    """What `work` returns, tried again while the trouble is one that passes; `tell` hears of it.

    Raises InputError for what no waiting mends, S3Failed after `seconds` in vain or when `stopped` says so.
    """
    began, pause = time.monotonic(), 0.5
    while True:
        try:
            return work()
        except REFUSED as error:
            if message := explain(error, where):
                raise InputError(message) from None
            if time.monotonic() - began + pause > seconds or stopped():
                waited = time.monotonic() - began
                raise S3Failed(f"{where}: {in_short(error)}; waited {waited:.0f} s for it") from None
            tell(f"{where}: {in_short(error)}; tried again in {pause:.0f} s")
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


def explain(error: Exception, where: object) -> str | None:
    """The message for what no waiting mends: place, what is wrong, fix. None for what may pass by itself."""
    if isinstance(error, exceptions.ClientError):
        return of_answer(error, where)
    if isinstance(error, exceptions.SSLError):
        return of_tls(error, where)
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; in a pod: both keys of Secret s3-credentials"
        return problem(where, KEYS, "credentials are missing or only half there", fix)
    if isinstance(error, (exceptions.CredentialRetrievalError, exceptions.TokenRetrievalError)):
        return problem(where, "AWS_PROFILE", f"credentials cannot be had: {error}", "log in again")
    if isinstance(error, PASSES):
        return None
    if isinstance(error, ResponseParserError):
        return problem(where, endpoint(), "does not answer as S3 does", "correct AWS_ENDPOINT_URL_S3")
    return problem(where, "", str(error), "correct the address or the environment (docs/s3.md)")


def of_answer(error: exceptions.ClientError, where: object) -> str | None:
    """The message for an answer that is a no."""
    said, about = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    code, status = str(said.get("Code", "")), about.get("HTTPStatusCode", 0)
    bucket = str(where).removeprefix("s3://").partition("/")[0]
    if code in PASSING or (status in (500, 502, 503, 504) and code not in FULL) or status == 429:
        return None
    if code == "NoSuchBucket":
        fix = f"correct the name, or make it: aws s3 mb s3://{bucket}; endpoint is {endpoint()}"
        return problem(where, bucket, "there is no such bucket", fix)
    if code in EXPIRED:
        fix = "get new ones and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN again"
        fix += see("token-expired")
        return problem(where, "AWS_SESSION_TOKEN", "the credentials have expired", fix)
    if code == "InvalidToken":
        fix = (
            "set the three of one login: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; or unset the last"
        )
        return problem(
            where, "AWS_SESSION_TOKEN", "the server does not take this session token; it may have expired", fix
        )
    if code in WRONG_KEY:
        which = (
            "the server knows no such key"
            if code in ("InvalidAccessKeyId", "InvalidClientTokenId", "XAdminUserNotFound")
            else "the secret is wrong"
        )
        fix = f"correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for {endpoint()}{see('s3-refuses')}"
        return problem(where, KEYS, f"{which} ({code})", fix)
    if code == "RequestTimeTooSkewed":
        fix = "set the clock (timedatectl, chronyc), of the node where this ran in a pod"
        return problem(where, "clock", f"this machine's clock is wrong: {time.strftime('%FT%TZ', time.gmtime())}", fix)
    if code in WRONG_REGION or (status == 400 and "region" in said.get("Message", "").lower()):
        right = (
            said.get("Region") or (about.get("HTTPHeaders") or {}).get("x-amz-bucket-region") or said.get("Endpoint")
        )
        fix = f"set AWS_REGION={right}" if right else "set AWS_REGION, and the endpoint, to the bucket's own"
        return problem(
            where, "AWS_REGION", f"is {os.environ.get('AWS_REGION') or 'not set'}; the bucket is elsewhere", fix
        )
    if code in FULL or status == 507:
        return problem(
            where,
            bucket,
            f"the server has no room left ({code})",
            f"free some there, or have the quota raised{see('store-full')}",
        )
    if code in NO_ACCESS:
        fix = "have the key allowed to list, get, put and delete under this prefix (docs/s3.md has the policy)"
        fix += see("s3-refuses")
        return problem(where, KEYS, f"the key may not do this ({error.operation_name})", fix)
    if status == 404 and code in ("", "404") and error.operation_name == "ListObjectsV2":
        return problem(where, endpoint(), "does not answer as S3 does", "correct AWS_ENDPOINT_URL_S3")
    if code in ("NoSuchKey", "404"):
        return problem(where, "", "there is no such object", "list what there is: python -m scripts.s3.objects list")
    message = f"{error.operation_name} was refused: {code} {said.get('Message', '')}".strip()
    fix = "is AWS_ENDPOINT_URL_S3 right, and https:// where the server speaks TLS?"
    return problem(where, endpoint(), message, fix)


def of_tls(error: exceptions.SSLError, where: object) -> str:
    """The message for a connection that never became a safe one."""
    text = str(error)
    if any(sign in text.lower() for sign in NO_TLS):
        fix = f"write http://{urlsplit(endpoint()).netloc} if a connection without encryption is meant"
        return problem(where, endpoint(), "TLS was asked for, and the server speaks none", fix)
    if "self-signed" in text or "self signed" in text or "unable to get local issuer" in text:
        fix = "name the file with its authority's certificate: AWS_CA_BUNDLE; on a cluster: ConfigMap s3-ca"
        return problem(where, "AWS_CA_BUNDLE", f"nobody known here vouches for {endpoint()}", fix)
    reason = text.rpartition("certificate verify failed: ")[2] if "verify failed" in text else text
    return problem(
        where, endpoint(), f"TLS fails: {reason.split(' (_ssl')[0]}", "correct the address or the certificate"
    )


def endpoint() -> str:
    """The server that is asked."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"


def in_short(error: Exception) -> str:
    """A passing trouble in a few words."""
    if isinstance(error, exceptions.ClientError):
        said = error.response.get("Error", {})
        return f"the server says {said.get('Code', 'no')} {said.get('Message', '')}".strip()
    if isinstance(error, exceptions.EndpointConnectionError):
        return f"{endpoint()} cannot be reached"
    if isinstance(error, (exceptions.ReadTimeoutError, exceptions.ConnectTimeoutError)):
        return f"{endpoint()} does not answer"
    return f"the connection to {endpoint()} was cut"
