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
from helpers.engines.small import make_model, make_tokenizer
from helpers.runs.tiny import tiny

from dps_pyro.rollouts import EngineError, Sampling
from dps_pyro.rollouts.json_http import RefusedError, Server
from dps_pyro.rollouts.vllm_server import VllmServerEngine, _completions, _Limits
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


@pytest.fixture
def trickle() -> Iterator[Callable[[bytes], str]]:
    """Start a server that sends these bytes and then a byte every 20 ms; its address."""
    running: list[socket.socket] = []

    def start(head: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        running.append(listener)

        def talk() -> None:
            try:
                with listener.accept()[0] as peer:
                    peer.recv(65536)
                    peer.sendall(head)
                    end = time.monotonic() + 100
                    while b"Content-Length: 0" not in head and time.monotonic() < end:
                        peer.sendall(b"1")
                        time.sleep(0.02)
            except OSError:  # the other side has had enough
                pass

        threading.Thread(target=talk, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in running:
        listener.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_json_goes_there_and_back_with_the_key(serve: Any) -> None:
    address, seen = serve(lambda asked: (200, json.dumps({"got": asked.body}).encode()))
    server = Server(address + "/v1/", timeout=60, key="secret")
    assert server.post("/x", {"a": [1, 2]}) == {"got": {"a": [1, 2]}}
    assert server.get("/y") == {"got": None}
    assert seen == [("POST", "/x", {"a": [1, 2]}, "Bearer secret"), ("GET", "/y", None, "Bearer secret")]


def test_an_empty_answer_is_none(serve: Any) -> None:
    address, _ = serve(lambda _: (200, b""))
    assert Server(address, timeout=60).post("/reset", {}) is None


@pytest.mark.parametrize("trouble", [0, 429, 503])
def test_a_server_that_breaks_off_or_is_busy_is_asked_again(serve: Any, trouble: int) -> None:
    address, seen = serve(lambda asked: (trouble, b"") if asked.count < 3 else (200, b"1"))
    assert Server(address, timeout=60, patience=60).post("/x", {}) == 1
    assert len(seen) == 3


def test_a_server_that_is_not_up_yet_is_waited_for(serve: Any) -> None:
    port = free_port()
    threading.Timer(0.6, serve, [lambda _: (200, b"1"), port]).start()
    assert Server(f"http://127.0.0.1:{port}", timeout=60, patience=60).get("/x") == 1


def test_a_server_that_stays_away_is_an_error() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    start = time.monotonic()
    with pytest.raises(EngineError, match=rf"{address}/x cannot be reached: Connection refused"):
        Server(address, timeout=60, patience=1).get("/x")
    assert time.monotonic() - start < 30


def test_a_slow_answer_is_an_error_and_not_asked_for_again(serve: Any) -> None:
    gate = threading.Event()

    def answer(_: Asked) -> tuple[int, bytes]:
        gate.wait(100)
        return 200, b"1"

    address, seen = serve(answer)
    with pytest.raises(EngineError, match=r"did not answer within 1.5 seconds"):
        Server(address, timeout=1.5).get("/x")
    gate.set()
    assert len(seen) == 1


def test_an_answer_that_trickles_in_has_the_deadline_of_a_whole_one(trickle: Any) -> None:
    """Each byte comes in time, and the whole never would: in the headers, and in the body."""
    for head in (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"):
        start = time.monotonic()
        with pytest.raises(EngineError, match=r"did not answer within 0.5 seconds"):
            Server(trickle(head), timeout=0.5, patience=0).get("/x")
        assert time.monotonic() - start < 30


def test_an_answer_without_end_is_an_error(trickle: Any) -> None:
    address = trickle(b"HTTP/1.1 200 OK\r\n\r\n" + b"1" * 5000)
    with pytest.raises(EngineError, match=r"expected an answer of at most 1,000 bytes, got more"):
        Server(address, timeout=60, patience=0, most=1000).get("/x")


def test_a_compressed_answer_is_refused(trickle: Any) -> None:
    """A few kilobytes may be gigabytes."""
    address = trickle(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + b"1" * 50)
    with pytest.raises(EngineError, match="expected an answer as it is, got one in 'gzip'"):
        Server(address, timeout=60, patience=0).get("/x")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_the_key_stays_here(serve: Any, trickle: Any, status: int) -> None:
    other, seen = serve(lambda _: (200, b"1"))
    address = trickle(f"HTTP/1.1 {status} Moved\r\nLocation: {other}/x\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(RefusedError, match=rf"answered {status}: it moved to {other}/x; give the address"):
        Server(address, timeout=60, patience=0, key="secret").post("/x", {})
    assert seen == []


def test_many_are_asked_at_once_and_answered_in_order(serve: Any) -> None:
    most, now, lock = 0, 0, threading.Lock()

    def answer(asked: Asked) -> tuple[int, bytes]:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02 * (asked.body % 5))
        with lock:
            now -= 1
        return 200, json.dumps(asked.body**2).encode()

    server = Server(serve(answer)[0], timeout=60)
    assert server.post_all("/x", list(range(60))) == [number**2 for number in range(60)]
    assert most > 1
    assert server.post_all("/x", []) == []


def test_the_first_failure_ends_the_others(serve: Any) -> None:
    gate = threading.Event()

    def answer(asked: Asked) -> tuple[int, bytes]:
        if asked.body == 3:
            return 400, b"no"
        gate.wait(100)
        return 200, b"1"

    start = time.monotonic()
    with pytest.raises(RefusedError, match="answered 400: no"):
        Server(serve(answer)[0], timeout=60).post_all("/x", list(range(6)))
    assert time.monotonic() - start < 30
    gate.set()


def test_it_can_be_asked_from_within_an_event_loop(serve: Any) -> None:
    """A notebook runs one."""
    import asyncio

    address, _ = serve(lambda _: (200, b"[1]"))

    async def cell() -> Any:
        return Server(address, timeout=60).get("/x")

    assert asyncio.run(cell()) == [1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"error": {"message": "no such\\nmodel"}}', "no such model"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"error": "[bold]\\u001b[31mred\\ud800"}', r"\[bold\] \[31mred\?"),  # nothing that a terminal obeys
        (b"<html>", "<html>"),
        (b"", "Bad Request"),
    ],
)
def test_a_refusal_says_why_and_is_final(serve: Any, text: bytes, said: str) -> None:
    address, seen = serve(lambda _: (400, text))
    with pytest.raises(RefusedError, match=f"/x answered 400: {said}") as refused:
        Server(address, timeout=60).post("/x", {})
    assert refused.value.status == 400
    assert len(seen) == 1


def test_something_else_than_json_is_an_error(serve: Any) -> None:
    address, _ = serve(lambda _: (200, b"<html>"))
    with pytest.raises(EngineError, match="expected JSON"):
        Server(address, timeout=60).get("/x")


@pytest.mark.parametrize(
    "address", ["localhost:8000", "file:///etc/passwd", "http://", "http://here?x=1", "ftp://here"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected the address of a vLLM server"):
        Server(address, timeout=60)


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


@pytest.mark.parametrize(
    ("serving", "said"),
    [
        ({}, "expected the shape, dtype and logprobs"),
        ({"shape": [1], "dtype": "float32", "logprobs": "processed_logprobs"}, "expected the shape, dtype"),
        ({"shape": {}, "dtype": "load", "logprobs": "processed_logprobs"}, "expected the shape, dtype"),
        ({"shape": {}, "dtype": "float32"}, "expected the shape, dtype and logprobs"),
        ("x", "expected the shape, dtype and logprobs"),
    ],
)
def test_what_a_server_says_that_it_serves_is_checked(serve: Any, serving: Any, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        VllmServerEngine(serve(vllm_like(serving=serving))[0], make_model(), make_tokenizer(), patience=0)


def choice(**other: Any) -> dict[str, Any]:
    logprobs = {"token_logprobs": [-0.5, 0.0]}
    return {"index": 0, "token_ids": [3, 4], "finish_reason": "stop", "logprobs": logprobs, **other}


def test_the_completions_of_a_good_answer() -> None:
    two = {"choices": [choice(index=1, token_ids=[5, 6]), choice()]}
    rows = _completions(two, _Limits(2, 2, 16))
    assert [(list(row.tokens), list(row.logprobs), row.finish) for row in rows] == [
        ([3, 4], [-0.5, 0.0], "stop"), ([5, 6], [-0.5, 0.0], "stop"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "expected completions under choices"),
        ([1], "expected completions under choices"),
        ({"choices": [1]}, "expected completions under choices"),
        ({"choices": []}, "expected 1 completions of a prompt, numbered from 0 on, got 0"),
        ({"choices": [choice(index=1)]}, "numbered from 0 on, got 1"),
        ({"choices": [choice(index="0")]}, "numbered from 0 on, got 1"),
        ({"choices": [choice(), choice()]}, "numbered from 0 on, got 2"),
        ({"choices": [choice(token_ids=[3])]}, "expected the tokens of each completion"),
        ({"choices": [choice(token_ids="ab")]}, "expected the tokens of each completion"),
        ({"choices": [choice(token_ids=[3, 16])]}, r"expected token ids in 0..15, got 16"),
        ({"choices": [choice(token_ids=[3, -1])]}, r"expected token ids in 0..15, got -1"),
        ({"choices": [choice(token_ids=[3, True])]}, "got True"),
        ({"choices": [choice(token_ids=[3, 2.0])]}, "got 2.0"),
        ({"choices": [choice(token_ids=[3] * 9, logprobs={"token_logprobs": [0.0] * 9})]}, "at most 4 tokens"),
        ({"choices": [choice(logprobs={"token_logprobs": [0.0, 0.5]})]}, "at most 0, got 0.5"),
        ({"choices": [choice(logprobs={"token_logprobs": [0.0, float("inf")]})]}, "at most 0, got inf"),
        ({"choices": [choice(logprobs={"token_logprobs": [0.0, "x"]})]}, "at most 0, got x"),
        ({"choices": [choice(logprobs=[1])]}, "expected the tokens of each completion"),
        ({"choices": [choice(finish_reason="abort")]}, "got 'abort'"),
    ],
)
def test_completions_that_are_none_are_refused(answer: Any, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        _completions(answer, _Limits(1, 4, 16))


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
