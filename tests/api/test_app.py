"""The API with boto3: operations, and errors as exceptions of botocore."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session

from streamedge.api.app import UNVERIFIED_BODIES_MAX
from streamedge.api.errors import ApiError
from streamedge.api.protocol.model import cloudfront
from streamedge.api.protocol.service import Call, Handlers, Output
from tests.support.api.api_operations import OFFERED_OPERATIONS, example
from tests.support.api.api_server import BODY_MAX_BYTES, ApiServer, run_api
from tests.support.patience import PATIENCE_S

NAMESPACE = "http://cloudfront.amazonaws.com/doc/2020-05-31/"


class Stubs:
    """Handlers that record their calls and return what a test sets."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answer: Callable[[Call], Output] = self.complete_output

    def handle(self, call: Call) -> Output:
        self.calls.append(call)
        return self.answer(call)

    @staticmethod
    def complete_output(call: Call) -> Output:
        """The operation's output with every member."""
        output: Output = example(cloudfront().operation(call.operation).output_shape)
        if "Location" in output:
            output["Location"] = "/2020-05-31/a/place"
        return output

    def refuse(self, code: str, message: str = "It is so.") -> None:
        def raise_error(_call: Call) -> Output:
            raise ApiError(code, message)

        self.answer = raise_error

    @property
    def handlers(self) -> Handlers:
        return dict.fromkeys(OFFERED_OPERATIONS, self.handle)


@pytest.fixture(scope="module")
def api_and_stubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiServer, Stubs]]:
    stubs = Stubs()
    with run_api(tmp_path_factory.mktemp("api"), stubs.handlers) as server:
        yield server, stubs


@pytest.fixture
def stubs(api_and_stubs: tuple[ApiServer, Stubs]) -> Stubs:
    _, stubs = api_and_stubs
    stubs.calls.clear()
    stubs.answer = stubs.complete_output
    return stubs


@pytest.fixture
def server(api_and_stubs: tuple[ApiServer, Stubs]) -> ApiServer:
    return api_and_stubs[0]


def test_start_does_not_import_botocore() -> None:
    """botocore is imported at the first call, in a thread."""
    lines = "import sys, streamedge.api.app; sys.exit('botocore' in sys.modules)"
    subprocess.run([sys.executable, "-c", lines], check=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def client(api_and_stubs: tuple[ApiServer, Stubs]) -> Iterator[Any]:
    with api_and_stubs[0].client() as client:
        yield client


@pytest.mark.parametrize("operation", OFFERED_OPERATIONS)
def test_operation_round_trips_through_boto3(
    server: ApiServer, stubs: Stubs, client: Any, operation: str
) -> None:
    model = cloudfront().operation(operation)
    members = example(model.input_shape)
    response = getattr(client, xform_name(operation))(**members)

    [call] = stubs.calls
    assert (call.operation, call.caller, call.input) == (operation, "AKIAEDGE", members)
    metadata = response.pop("ResponseMetadata")
    expected = stubs.complete_output(call)
    if "Location" in expected:
        expected["Location"] = server.address + expected["Location"]
    assert response == expected
    assert metadata["HTTPStatusCode"] == model.http["responseCode"]
    line = server.lines()[-1]
    assert (line["event"], line["caller"], line["operation"], line["status"]) == (
        *("api_call", "AKIAEDGE", operation),
        model.http["responseCode"],
    )
    assert line["request_id"] == metadata["RequestId"]


@pytest.mark.parametrize(
    ("operation", "code", "status"),
    [
        ("GetDistribution", "NoSuchDistribution", 404),
        ("UpdateDistribution", "PreconditionFailed", 412),
        ("UpdateDistribution", "InvalidIfMatchVersion", 400),
        ("DeleteDistribution", "DistributionNotDisabled", 409),
        ("CreateDistribution", "DistributionAlreadyExists", 409),
        ("CreateDistribution", "CNAMEAlreadyExists", 409),
        ("GetStreamingDistribution", "NoSuchStreamingDistribution", 404),
        ("DeleteStreamingDistribution", "StreamingDistributionNotDisabled", 409),
        ("GetInvalidation", "NoSuchInvalidation", 404),
        ("CreateInvalidation", "BatchTooLarge", 413),
        ("DeleteCachePolicy", "CachePolicyInUse", 409),
        ("GetPublicKey", "NoSuchPublicKey", 404),
        ("TagResource", "NoSuchResource", 404),
        ("ListDistributions", "InvalidArgument", 400),
        ("CreateKeyGroup", "KeyGroupAlreadyExists", 409),
    ],
)
def test_error_raises_the_exception_of_botocore(
    stubs: Stubs, client: Any, operation: str, code: str, status: int
) -> None:
    stubs.refuse(code, "Not <this> & not 'that'.")
    members = example(cloudfront().operation(operation).input_shape)
    with pytest.raises(getattr(client.exceptions, code)) as error_info:
        getattr(client, xform_name(operation))(**members)
    response = error_info.value.response
    expected = {"Type": "Sender", "Code": code, "Message": "Not <this> & not 'that'."}
    assert dict(response["Error"]) == expected
    assert response["ResponseMetadata"]["HTTPStatusCode"] == status
    headers = response["ResponseMetadata"]["HTTPHeaders"]
    assert response["ResponseMetadata"]["RequestId"] == headers["x-amzn-requestid"]


def test_poll_of_a_waiter_reaches_its_handler(stubs: Stubs, client: Any) -> None:
    def deployed_output(call: Call) -> Output:
        output = stubs.complete_output(call)
        output["Distribution"]["Status"] = "Deployed"
        return output

    stubs.answer = deployed_output
    client.get_waiter("distribution_deployed").wait(Id="E1", WaiterConfig={"MaxAttempts": 1})
    assert [call.operation for call in stubs.calls] == ["GetDistribution"]


def test_unsupported_operation_is_501_with_a_list_of_operations(stubs: Stubs, client: Any) -> None:
    with pytest.raises(ClientError) as error_info:
        client.get_function(Name="rewrite")
    error = dict(error_info.value.response["Error"])
    assert error_info.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert (error["Code"], error["Type"]) == ("NotImplemented", "Receiver")
    message = str(error["Message"])
    assert message.startswith("GetFunction is not offered; this edge offers Create")
    assert "CreateInvalidation, " in message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/2020-05-31/nonsense"),
        ("DELETE", "/2020-05-31/distribution"),
        ("PATCH", "/2020-05-31/distribution/E1"),
        ("GET", "/2020-05-31/distribution/"),
        ("POST", "/2020-05-31/tagging?Operation=Twist"),
    ],
)
def test_unknown_operation_is_501(server: ApiServer, stubs: Stubs, method: str, path: str) -> None:
    status, body = send(server, method, path)
    assert status == 501
    assert "CloudFront 2020-05-31 has no such operation" in body
    assert not stubs.calls


def test_failed_handler_is_500_with_the_cause_in_the_log_only(
    server: ApiServer, stubs: Stubs, client: Any
) -> None:
    def fail(_call: Call) -> Output:
        raise RuntimeError("the disk of host-7 is full")

    stubs.answer = fail
    with pytest.raises(ClientError) as error_info:
        client.get_distribution(Id="E1")
    response = error_info.value.response
    assert response["Error"] == {
        "Type": "Receiver",
        "Code": "InternalError",
        "Message": "We encountered an internal error.",
    }
    line = server.lines()[-1]
    assert line["request_id"] == response["ResponseMetadata"]["RequestId"]
    assert line["status"] == 500
    assert "RuntimeError: the disk of host-7 is full" in line["problem"]


@pytest.mark.parametrize(
    "output", [{"Distribution": {"Nonsense": 1}}, {"Nonsense": 1}, {"ETag": "E", "Id": "E1"}]
)
def test_output_with_unknown_members_is_500(stubs: Stubs, client: Any, output: Output) -> None:
    stubs.answer = lambda _call: output
    with pytest.raises(ClientError, match="InternalError"):
        client.get_distribution(Id="E1")


@pytest.mark.parametrize(
    ("key_id", "secret", "code"),
    [
        ("AKIAEDGE", "wrong", "SignatureDoesNotMatch"),
        ("AKIAEDGE", "another", "SignatureDoesNotMatch"),
        ("AKIANOBODY", "wrong", "InvalidClientTokenId"),
    ],
)
def test_call_without_a_valid_key_changes_nothing(
    server: ApiServer, stubs: Stubs, key_id: str, secret: str, code: str
) -> None:
    with server.client(key_id, secret) as other_client, pytest.raises(ClientError) as error_info:
        other_client.delete_distribution(Id="E1", IfMatch="E2")
    assert error_info.value.response["Error"]["Code"] == code
    assert error_info.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert not stubs.calls
    assert server.lines()[-1]["status"] == 403


def test_edge_without_keys_refuses_calls_until_it_has_one(
    server: ApiServer, stubs: Stubs, client: Any
) -> None:
    keys = dict(server.keys)
    server.keys.clear()
    try:
        with pytest.raises(client.exceptions.AccessDenied):
            client.get_distribution(Id="E1")
    finally:
        server.keys.update(keys)
    assert not stubs.calls
    client.get_distribution(Id="E1")


def test_unsigned_request_is_refused_before_its_body_is_read(server: ApiServer) -> None:
    head = f"POST /2020-05-31/distribution HTTP/1.1\r\nHost: {server.address}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n<Distr".encode())
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"<Code>MissingAuthenticationToken</Code>" in answer


def test_oversize_body_is_413(server: ApiServer, stubs: Stubs) -> None:
    status, body = send(server, "POST", "/2020-05-31/distribution", b" " * (BODY_MAX_BYTES + 1))
    assert status == 413
    assert "<Code>EntitySizeLimitExceeded</Code>" in body
    assert not stubs.calls


def test_signature_with_a_digest_is_verified_before_the_body_is_read(
    server: ApiServer, stubs: Stubs
) -> None:
    path, body = "/2020-05-31/distribution", b"<Distr"
    verified = signed(server, "POST", path, body, declares_digest=True)
    answer, connection = send_header(server, verified, "distribution/forged", len(body))
    connection.close()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"<Code>SignatureDoesNotMatch</Code>" in answer

    answer, connection = send_header(server, verified, "distribution", len(body))
    with connection:
        assert answer.startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"<other")
        refusal = connection.recv(65536)
    assert refusal.startswith(b"HTTP/1.1 403 ")
    assert b"header is not the body" in refusal
    assert not stubs.calls


def test_unverified_bodies_are_limited(tmp_path: Path, stubs: Stubs) -> None:
    path = "/2020-05-31/distribution"
    with run_api(tmp_path, stubs.handlers) as server, contextlib.ExitStack() as connections:
        unverified = signed(server, "POST", path, b"<Distr")
        waiting = []
        for _ in range(UNVERIFIED_BODIES_MAX):
            answer, connection = send_header(server, unverified, "distribution", 1000)
            waiting.append(connections.enter_context(connection))
            assert answer.startswith(b"HTTP/1.1 100 ")
        status, document = send(server, "POST", path, b"<Distr")
        assert status == 503
        assert "<Code>ServiceUnavailable</Code>" in document
        # Requests without a body, or with a digest, are not limited …
        assert send(server, "GET", f"{path}/E1")[0] == 200
        verified = signed(server, "POST", path, b"<Distr", declares_digest=True)
        answer, connection = send_header(server, verified, "distribution", 6)
        connection.close()
        assert answer.startswith(b"HTTP/1.1 100 ")
        # … and the end of a body admits another one, whatever its result.
        waiting[0].sendall(b"x" * 1000)
        assert waiting[0].recv(65536).startswith(b"HTTP/1.1 403 ")
        assert send(server, "POST", path, b"<Distr")[0] == 400


def test_stalled_body_is_408(tmp_path: Path) -> None:
    with run_api(tmp_path, {}, body_timeout_s=0.01) as server:
        path = "/2020-05-31/distribution"
        fields = signed(server, "POST", path, b"<").headers.items()
        head = f"POST {path} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in fields
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
            connection.sendall(f"{head}Content-Length: 1000\r\n\r\n<".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
        assert server.lines()[-1]["status"] == 408


def test_disconnected_caller_is_logged_without_an_error(tmp_path: Path) -> None:
    with run_api(tmp_path, {}) as server:
        fields = signed(server, "POST", "/2020-05-31/distribution", b"<").headers.items()
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
            start = f"POST /2020-05-31/distribution HTTP/1.1\r\n{head}Content-Length: 9\r\n"
            connection.sendall(f"{start}Expect: 100-continue\r\n\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        assert server.log.has_event.wait(PATIENCE_S)
        assert server.lines()[-1]["problem"] == "the caller went away"


def test_calls_run_concurrently(stubs: Stubs, server: ApiServer) -> None:
    both = threading.Barrier(2)

    def wait_for_other(call: Call) -> Output:
        both.wait(PATIENCE_S)
        return stubs.complete_output(call)

    stubs.answer = wait_for_other
    statuses: list[int] = []

    def send_request() -> None:
        statuses.append(send(server, "GET", "/2020-05-31/distribution/E1")[0])

    threads = [threading.Thread(target=send_request) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert statuses == [200, 200]


def test_malformed_xml_is_400_and_reaches_no_handler(server: ApiServer, stubs: Stubs) -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    status, body = send(server, "POST", "/2020-05-31/distribution", bomb)
    assert (status, "<Code>MalformedXML</Code>" in body) == (400, True)
    assert f'<ErrorResponse xmlns="{NAMESPACE}">' in body
    assert not stubs.calls


def test_missing_body_is_400_with_its_name(server: ApiServer, stubs: Stubs) -> None:
    status, body = send(server, "POST", "/2020-05-31/distribution/E1/invalidation")
    assert status == 400
    assert "<Code>MissingBody</Code>" in body
    assert "InvalidationBatch" in body
    assert not stubs.calls


def send_header(
    server: ApiServer, request: AWSRequest, rest: str, body_bytes: int
) -> tuple[bytes, socket.socket]:
    """Sends a header that expects 100 (RFC 9110 §10.1.1); returns the response and connection."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    head = f"POST /2020-05-31/{rest} HTTP/1.1\r\n{fields}Content-Length: {body_bytes}\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
    return connection.recv(65536), connection


def signed(
    server: ApiServer, method: str, path: str, body: bytes = b"", *, declares_digest: bool = False
) -> AWSRequest:
    """A request that botocore has signed."""
    request = AWSRequest(method, server.address + path, data=body)
    if declares_digest:
        request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
    credentials = Credentials("AKIAEDGE", server.keys["AKIAEDGE"])
    SigV4Auth(credentials, "cloudfront", "us-east-1").add_auth(request)
    request.headers["Host"] = f"127.0.0.1:{server.port}"
    return request


def send(server: ApiServer, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    """Sends a signed request; returns the status and document of the response."""
    session = URLLib3Session()
    try:
        response = session.send(signed(server, method, path, body).prepare())
        return response.status_code, response.text
    finally:
        session.close()
