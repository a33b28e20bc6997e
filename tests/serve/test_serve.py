"""The service: nothing lost, nothing counted twice, and refusals that change nothing."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.served import KEY, Served

from dps_pyro import PromptSampler
from dps_pyro.models import SolvingProgress

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402

from dps_pyro.serve.app import make_app  # noqa: E402
from dps_pyro.serve.client import RemoteSampler  # noqa: E402
from dps_pyro.serve.durable import REMEMBERED, Durable, ForgottenError  # noqa: E402

BEARER = {"Authorization": f"Bearer {KEY}"}


def sampler() -> PromptSampler:
    return PromptSampler(SolvingProgress(), 50, acquisition="thompson", seed=3)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[TestClient, Durable]]:
    durable = Durable(sampler(), tmp_path / "kept")
    with TestClient(make_app(durable, KEY, largest=20_000)) as client:
        yield client, durable


def groups(worker: str = "one", number: int = 0, **more: Any) -> dict[str, Any]:
    return {"worker": worker, "round": number, "prompts": [1, 2], "solved": [3.0, 0.0], "trials": 8, **more}


def test_the_verbs_are_those_of_a_sampler(service: tuple[TestClient, Durable]) -> None:
    client, _ = service
    alone = sampler()
    for number in range(5):
        asked = {"worker": "one", "round": number, "batch_size": 4}
        rows = client.post("/select", json=asked, headers=BEARER).json()["rows"]
        assert rows == alone.select(4).tolist()
        solved = [float(row % 9) for row in rows]
        answer = client.post(
            "/observe",
            json={"worker": "one", "round": number, "prompts": rows, "solved": solved, "trials": 8, "progress": 0.5},
            headers=BEARER,
        )
        assert answer.json() == {"step": number + 1, "again": False}
        alone.observe(rows, solved, 8, progress=0.5)
    assert client.get("/metrics", headers=BEARER).json() == alone.metrics()
    chances = client.post("/informative", json={"trials": 8, "prompts": [3, 1]}, headers=BEARER).json()["chances"]
    assert chances == alone.informative(8)[[3, 1]].tolist()
    about = client.get("/about", headers=BEARER).json()
    assert about == {"num_prompts": 50, "step": 5, "changes": 10, "trials": 8, "rounds": {"one": 4}}


def test_a_request_that_comes_again_is_answered_as_before_and_changes_nothing(
    service: tuple[TestClient, Durable],
) -> None:
    client, durable = service
    first = client.post("/select", json={"worker": "one", "round": 0, "batch_size": 4}, headers=BEARER).json()
    client.post("/observe", json=groups(), headers=BEARER)
    before = durable.sampler.metrics()
    again = client.post("/select", json={"worker": "one", "round": 0, "batch_size": 4}, headers=BEARER).json()
    assert again == {**first, "again": True}
    assert client.post("/observe", json=groups(), headers=BEARER).json() == {"step": 1, "again": True}
    assert durable.sampler.metrics() == before
    other = client.post("/observe", json=groups(solved=[4.0, 0.0]), headers=BEARER)
    assert other.status_code == 409
    assert "which had another observe request" in other.json()["error"]
    assert client.post("/observe", json=groups(worker="two"), headers=BEARER).json() == {"step": 2, "again": False}


@pytest.mark.parametrize(
    ("headers", "body", "status", "said"),
    [
        ({}, groups(), 401, "key: expected Authorization: Bearer KEY"),
        ({"Authorization": "Bearer wrong"}, groups(), 401, "key: expected"),
        (BEARER, "not json", 422, "request: Invalid JSON"),
        (BEARER, groups(worker="../etc"), 422, "worker"),
        (BEARER, groups(number=-1), 422, "round"),
        (BEARER, groups(number="0"), 422, "round"),
        (BEARER, groups(prompts=[1, 99]), 422, r"prompts: expected rows in 0..49, got 99"),
        (BEARER, groups(prompts=["a", "b"]), 422, "as these prompts have no ids"),
        (BEARER, groups(solved=[9.0, 0.0]), 422, "solved: expected numbers within 0..trials"),
        (BEARER, groups(solved=[1.0]), 422, "solved: expected shape"),
        (BEARER, groups(trials=2**40), 422, "trials"),
        (BEARER, groups(surprise=1), 422, "surprise"),
        (BEARER, groups(step=10**8), 422, "step: expected at most 100,000 steps"),
        (BEARER, groups(solved=[1.0] * 5000), 413, "request: expected at most 20000 bytes"),
    ],
    ids=str,
)
def test_refusals_say_why_and_change_nothing(
    service: tuple[TestClient, Durable], headers: dict[str, str], body: Any, status: int, said: str
) -> None:
    client, durable = service
    content = {"content": body} if isinstance(body, str) else {"json": body}
    answer = client.post("/observe", headers=headers, **content)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text
    assert (durable.number, durable.sampler.tracker.step, durable.answers) == (0, 0, {})
    assert (durable.folder / "journal.jsonl").read_bytes() == b""


def test_a_body_without_a_length_is_bounded_too(service: tuple[TestClient, Durable]) -> None:
    client, durable = service
    answer = client.post("/observe", headers=BEARER, content=(b" " * 1000 for _ in range(1000)))
    assert answer.status_code == 413
    assert durable.number == 0


def test_a_state_and_a_journal_are_the_sampler_again(tmp_path: Path) -> None:
    def go(durable: Durable, rounds: range) -> None:
        for number in rounds:
            rows = durable.change("select", {"worker": "w", "round": number, "batch_size": 3})["rows"]
            durable.change("observe", {**groups("w", number), "prompts": rows, "solved": [1.0, 0.0, 8.0]})
        durable.change("add", {"worker": "w", "round": rounds[-1], "prompts": 2})

    kept, straight = Durable(sampler(), tmp_path / "kept", every=7), Durable(sampler(), tmp_path / "other")
    for durable in (kept, straight):
        go(durable, range(10))
    kept._file.write(b'{"number": 22, "kind": "obs')  # cut off by a kill
    kept._file.close()
    again = Durable(sampler(), tmp_path / "kept", every=7)
    assert (again.number, again.answers) == (straight.number, straight.answers)
    go(again, range(10, 14))
    go(straight, range(10, 14))
    assert again.sampler.metrics() == straight.sampler.metrics()
    assert torch.equal(again.sampler.belief, straight.sampler.belief)
    assert again.change("select", {"worker": "w", "round": 0, "batch_size": 3})["again"]
    again.close()
    straight.close()


def test_rounds_that_are_forgotten_are_refused(tmp_path: Path) -> None:
    durable = Durable(sampler(), tmp_path)
    for number in range(REMEMBERED + 5):
        durable.change("retire", {"worker": "w", "round": number, "prompts": []})
    with pytest.raises(ForgottenError, match=f"expected one of the last {REMEMBERED}, got 2"):
        durable.change("retire", {"worker": "w", "round": 2, "prompts": []})
    durable.close()


@pytest.mark.parametrize(
    ("kills", "forked"),
    [(1, False), pytest.param(int(os.environ.get("SERVE_KILLS", "3")), True, marks=pytest.mark.slow)],
)
def test_a_service_that_is_killed_time_and_again_loses_nothing_and_counts_nothing_twice(
    kills: int, forked: bool, tmp_path: Path
) -> None:
    workers = 3
    served = Served(tmp_path, forked=forked)
    done, counts, errors = threading.Event(), [0] * workers, []

    def work(number: int) -> None:
        try:
            remote = RemoteSampler(served.url, KEY, f"worker-{number}", patience=200)
            while not done.is_set():
                rows = remote.select(4)
                remote.observe(rows, rows % 9, 8)
                counts[number] += 4
            remote.close()
        except Exception as error:  # noqa: BLE001 - told by the test
            errors.append(error)

    def save() -> None:
        with contextlib.suppress(httpx.HTTPError):  # it may be killed meanwhile
            httpx.post(f"{served.url}/save", headers=BEARER)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    rng = random.Random(0)
    try:
        for number in range(kills):
            before = sum(counts)
            end = time.monotonic() + 100
            while sum(counts) < before + 12 and time.monotonic() < end and not errors:
                time.sleep(0.01)
            time.sleep(rng.random() * 0.1)
            if number % 3 == 1:  # some kills come while the state is being saved
                threads.append(threading.Thread(target=save))
                threads[-1].start()
                time.sleep(rng.random() * 0.3)
            served.kill()
            served.start()
        done.set()
        for thread in threads:
            thread.join(200)
        assert not errors
        remote = RemoteSampler(served.url, KEY, "reader", patience=100)
        metrics = remote.metrics()
        remote.close()
        assert metrics["rollouts"] == 8 * sum(counts)
        assert metrics["step"] == sum(counts) / 4
        assert sum(counts) >= 12 * kills
    finally:
        done.set()
        served.kill()


def test_a_journal_that_cannot_be_written_ends_all_changes_and_loses_none(
    service: tuple[TestClient, Durable], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, durable = service
    assert client.post("/observe", json=groups(), headers=BEARER).status_code == 200

    class Full:
        def write(self, line: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    before = durable._file
    monkeypatch.setattr(durable, "_file", Full())
    for _ in range(2):  # the request that failed changed the sampler, so that none may follow
        answer = client.post("/observe", json=groups(number=1), headers=BEARER)
        assert (answer.status_code, "No space left" in answer.json()["error"]) == (503, True)
        monkeypatch.setattr(durable, "_file", before)
    again = Durable(sampler(), durable.folder)
    assert (again.number, again.sampler.tracker.step) == (1, 1)
    assert again.change("observe", groups(number=1)) == {"step": 2, "again": False}
    again.close()


def test_requests_that_wait_for_the_disk_together_share_a_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable = Durable(sampler(), tmp_path)
    flushed: list[int] = []

    def flush() -> None:
        at = durable.number
        time.sleep(0.05)
        flushed.append(at)

    monkeypatch.setattr(durable, "flush", flush)
    with TestClient(make_app(durable, KEY, sync=True)) as client:

        def ask(number: int) -> None:
            answer = client.post("/observe", json=groups(f"worker-{number}"), headers=BEARER)
            assert answer.json()["step"] <= flushed[-1]  # nothing is answered before it is on the disk

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert durable.number == 12
    assert flushed[-1] == 12
    assert len(flushed) < 12
