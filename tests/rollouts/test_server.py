"""The client of a vLLM server, against servers that are slow, busy, gone or talk of something else."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.engines import make_model, make_tokenizer
from helpers.tiny import tiny

from dps_pyro.rollouts import EngineError, Sampling
from dps_pyro.rollouts.json_http import RefusedError, Server
from dps_pyro.rollouts.vllm_server import VllmServerEngine
from dps_pyro.rollouts.vllm_worker import shape_of
from dps_pyro.trainers.parts import make_engine


class Asked(NamedTuple):
    body: Any
    count: int  # so many requests so far, this one included


Answer = Callable[[Asked], tuple[int, bytes]]


class Handler(http.server.BaseHTTPRequestHandler):
    answer: Answer
    seen: list[tuple[str, str, Any, str | None]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
        self.seen.append((self.command, self.path, body, self.headers.get("Authorization")))
        status, text = type(self).answer(Asked(body, len(self.seen)))
        if status == 0:  # break off in the midst of it
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST  # noqa: N815 - the library's name

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[str, list[Any]]]]:
    """Start a server that answers as the function says; its address, and what it was asked."""
    running = []

    def start(answer: Answer, port: int = 0) -> tuple[str, list[Any]]:
        handler = type("Mine", (Handler,), {"answer": staticmethod(answer), "seen": []})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}", handler.seen  # type: ignore[attr-defined]

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_json_goes_there_and_back_with_the_key(serve: Any) -> None:
    address, seen = serve(lambda asked: (200, json.dumps({"got": asked.body}).encode()))
    server = Server(address + "/v1/", timeout=10, key="secret")
    assert server.post("/x", {"a": [1, 2]}) == {"got": {"a": [1, 2]}}
    assert server.get("/y") == {"got": None}
    assert seen == [("POST", "/x", {"a": [1, 2]}, "Bearer secret"), ("GET", "/y", None, "Bearer secret")]


def test_an_empty_answer_is_none(serve: Any) -> None:
    address, _ = serve(lambda _: (200, b""))
    assert Server(address, timeout=10).post("/reset", {}) is None


@pytest.mark.parametrize("trouble", [0, 429, 503])
def test_a_server_that_breaks_off_or_is_busy_is_asked_again(serve: Any, trouble: int) -> None:
    address, seen = serve(lambda asked: (trouble, b"") if asked.count < 3 else (200, b"1"))
    assert Server(address, timeout=10, patience=10).post("/x", {}) == 1
    assert len(seen) == 3


def test_a_server_that_is_not_up_yet_is_waited_for(serve: Any) -> None:
    port = free_port()
    threading.Timer(0.6, serve, [lambda _: (200, b"1"), port]).start()
    assert Server(f"http://127.0.0.1:{port}", timeout=10, patience=10).get("/x") == 1


def test_a_server_that_stays_away_is_an_error() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    start = time.monotonic()
    with pytest.raises(EngineError, match=rf"{address}/x cannot be reached: .*refused"):
        Server(address, timeout=10, patience=1).get("/x")
    assert time.monotonic() - start < 5


def test_a_slow_answer_is_an_error_and_not_asked_for_again(serve: Any) -> None:
    gate = threading.Event()

    def answer(_: Asked) -> tuple[int, bytes]:
        gate.wait(5)
        return 200, b"1"

    address, seen = serve(answer)
    with pytest.raises(EngineError, match=r"did not answer within 0.3 seconds"):
        Server(address, timeout=0.3).get("/x")
    gate.set()
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"error": {"message": "no such\\nmodel"}}', "no such model"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<html>", "<html>"),
        (b"", "Bad Request"),
    ],
)
def test_a_refusal_says_why_and_is_final(serve: Any, text: bytes, said: str) -> None:
    address, seen = serve(lambda _: (400, text))
    with pytest.raises(RefusedError, match=f"/x answered 400: {said}") as refused:
        Server(address, timeout=10).post("/x", {})
    assert refused.value.status == 400
    assert len(seen) == 1


def test_something_else_than_json_is_an_error(serve: Any) -> None:
    address, _ = serve(lambda _: (200, b"<html>"))
    with pytest.raises(EngineError, match="expected JSON"):
        Server(address, timeout=10).get("/x")


@pytest.mark.parametrize(
    "address", ["localhost:8000", "file:///etc/passwd", "http://", "http://here?x=1", "ftp://here"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected the address of a vLLM server"):
        Server(address, timeout=10)


# ----------------------------------------------------------------------------------- servers that do not serve rollouts

CARD = {"id": "m", "max_model_len": 32}
LACKS = (
    r"expected a vLLM server that takes weights at \S+, got: .* 404: Not Found. Start it with: VLLM_SERVER_DEV_MODE=1"
)


def vllm_like(**calls: Any) -> Answer:
    """A server with a model, and those methods of its workers."""

    def answer(asked: Asked) -> tuple[int, bytes]:
        if not asked.body:
            return 200, json.dumps({"data": [CARD]}).encode()
        if asked.body.get("method") not in calls:
            return 404, b'{"error": {"message": "Not Found"}}'
        return 200, json.dumps({"results": [calls[asked.body["method"]]]}).encode()

    return answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda _: (404, b""), "expected a vLLM server at"),
        (lambda _: (200, b'{"data": []}'), "expected a vLLM server at"),
        (lambda _: (200, b'{"data": [{"id": "gpt"}]}'), "expected a vLLM server at"),
        (lambda _: (200, b"[1]"), "expected a vLLM server at"),
        (vllm_like(), LACKS),
        (
            vllm_like(serving={"shape": {"vocab_size": 7}, "dtype": "float32", "logprobs": "processed_logprobs"}),
            r"got 'm' of another shape: model_type None \(here llama\), vocab_size 7 \(here 16\)",
        ),
        (
            vllm_like(serving={"shape": shape_of(make_model().config), "dtype": "float32", "logprobs": "raw_logprobs"}),
            "that gives raw_logprobs; start it with --logprobs-mode processed_logprobs",
        ),
    ],
)
def test_a_server_that_cannot_serve_rollouts_is_refused(serve: Any, answer: Answer, said: str) -> None:
    address, _ = serve(answer)
    with pytest.raises(EngineError, match=said):
        VllmServerEngine(address, make_model(), make_tokenizer(), patience=0)


def test_the_setting_is_an_address_or_a_name(serve: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"engine: expected transformers, vllm or a vLLM server's http://host:port"):
        tiny(tmp_path, engine="localhost:8000")
    address, seen = serve(vllm_like())
    with pytest.raises(EngineError, match=LACKS):
        make_engine(tiny(tmp_path, engine=address), make_model(), make_tokenizer())
    assert seen


def test_numbers_that_are_not_finite_stop_the_run(serve: Any) -> None:
    """vLLM's server makes no JSON of them, and says so."""
    taken: list[str] = []

    def answer(asked: Asked) -> tuple[int, bytes]:
        if asked.body and "prompt" in asked.body:
            return 400, b'{"error": {"message": "Out of range float values are not JSON compliant"}}'
        if asked.body == {}:
            return 200, b'{"success": true}'
        if asked.body:
            taken.append(asked.body["kwargs"].get("version", ""))
        model = {"shape": shape_of(make_model().config), "dtype": "float32", "logprobs": "processed_logprobs"}
        return vllm_like(serving=model, take_weights=None, weights_taken={"version": max(taken, default="")})(asked)

    model = make_model()
    engine = VllmServerEngine(serve(answer)[0], model, make_tokenizer())
    with pytest.raises(FloatingPointError, match=r"expected finite .* until it is started again"):
        engine.generate(["1 + 1 ="], 2, Sampling(3), seed=0)
    with pytest.raises(EngineError, match="not to be used any more"):
        engine.sync(model)
