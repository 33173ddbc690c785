"""The connection to S3, from the environment that every S3 program reads.

AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE …: credentials, as boto3 finds them
AWS_REGION              region of the bucket; default us-east-1
AWS_ENDPOINT_URL_S3     another server than AWS: https://host:port, or http://host:port where it speaks no TLS
AWS_CA_BUNDLE           file with the certificate of the authority that signed the server's
S3_ADDRESSING           path or virtual; default: path where the endpoint is an address or a single name
"""

import ipaddress
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
from botocore.config import Config

from train.errors import InputError, problem

STYLES = ("auto", "path", "virtual")
CONNECTIONS = 16
CONNECT_SECONDS, READ_SECONDS = 10, 40
TRIES = 3  # for hiccups; what lasts longer is waited for in trouble.py
REGION = "us-east-1"


def connect() -> Any:
    """A client for many threads. Raises InputError with everything that is wrong with the environment."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    style, bundle = os.environ.get("S3_ADDRESSING") or "auto", os.environ.get("AWS_CA_BUNDLE", "")
    problems = endpoint_problems(endpoint)
    if style not in STYLES:
        problems.append(problem("environment", "S3_ADDRESSING", f"is {style}", f"take one of: {', '.join(STYLES)}"))
    if bundle and not Path(bundle).is_file():
        fix = "name a PEM file with the authority's certificate, or unset it"
        problems.append(problem("environment", "AWS_CA_BUNDLE", f"{bundle} is no file", fix))
    if problems:
        raise InputError(problems)
    config = Config(
        s3={"addressing_style": addressing(endpoint) if style == "auto" else style},
        # Servers other than AWS's do not know the checksums that boto3 sends by default; ours are MD5 and sha256.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "max_attempts": TRIES},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        tcp_keepalive=True,
        max_pool_connections=CONNECTIONS,
    )
    try:
        session = boto3.session.Session()
        region = session.region_name or os.environ.get("AWS_REGION") or REGION
        client = session.client("s3", endpoint_url=endpoint or None, region_name=region, config=config)
        found = session.get_credentials()
    except botocore.exceptions.BotoCoreError as error:
        raise InputError(
            problem("environment", "AWS_*", str(error), "correct it, or unset what is not meant")
        ) from None
    if found is None:
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; in a pod: Secret s3-credentials"
        raise InputError(problem("environment", "AWS_ACCESS_KEY_ID", "no credentials for S3 are set", fix))
    return client


def endpoint_problems(endpoint: str) -> list[str]:
    """What is wrong with the address of a server; an empty one is AWS's own."""
    if not endpoint:
        return []
    where = ("environment", "AWS_ENDPOINT_URL_S3")
    shown = endpoint.rpartition("@")[2]
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        return [problem(*where, f"{shown} is no address", "write https://host or https://host:port")]
    if parts.username or parts.password:
        fix = "give keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return [problem(*where, f"…@{shown} holds credentials", fix)]
    if parts.scheme not in ("https", "http") or not host:
        fix = f"write https://{shown}, or http://{shown} where the server speaks no TLS"
        return [problem(*where, f"{shown} does not begin with https://", fix)]
    if parts.path.strip("/") or parts.query:
        return [problem(*where, f"{shown} has more than host and port", "the bucket belongs into s3://bucket/prefix")]
    return []


def addressing(endpoint: str) -> str:
    """How to name buckets: as path where `bucket.host` could be no name in DNS, else as boto3 does."""
    host = urlsplit(endpoint).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "path" if host and "." not in host else "auto"
    return "path"
