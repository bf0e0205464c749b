"""The overview: one look for all, what each may see of it, a store that is away; health and figures beside the API."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disbatch_host.client import Client
from disbatch_host.errors import StoreUnreachableError
from disbatch_host.web.looker import Looker
from disbatch_host.web.looks import PAUSE_FACTOR, Looks, Together
from disbatch_host.web.principal import Principal
from disbatch_host.web.role import Role
from disbatch_protocol.status import Status
from helpers import web
from helpers.mongod import Mongod
from helpers.printing import Printing
from helpers.processes import wait_until
from helpers.web import Web

_names = (f"seen{n}" for n in itertools.count())


def failed_task(client: Client, queue: str, code: str) -> Any:
    if client.store.find_queue(queue) is None:
        client.queues.create(queue, "Greet")
    run = Printing(client, client.push(queue, {"user": "x", "password": "open-sesame"}).id).begin()
    run.tells(error={"code": code, "message": f"it was {code}"})
    run.ends(Status.FAILED)
    return run.id


def test_it_says_what_status_watch_says(server: Web, client: Client) -> None:
    queue = next(_names)
    failed_task(client, queue, "broken")
    run = Printing(client, client.push(queue, {"user": "x"}).id).begin()
    client.push(queue, {"user": "y"})

    def seen() -> Any:
        reply = server.get("/overview", role="read")
        assert reply.status == 200 and "open-sesame" not in reply.text
        assert reply.json["age_seconds"] >= 0 and reply.json["trouble"] is None
        return next((one for one in reply.json["queues"] if one["queue"] == queue), None)

    wait_until(lambda: (seen() or {}).get("waiting") == 1, 30, "it is not looked at again")
    found = seen()
    assert {name: found[name] for name in ("waiting", "running", "failed")} == {"waiting": 1, "running": 1, "failed": 1}
    whole = server.get("/overview").json
    assert whole.keys() - {"age_seconds", "trouble"} == client.overview().to_json().keys()
    assert "broken" in {one["code"] for one in whole["failures"]}
    run.ends()


def test_it_is_not_sent_again_as_long_as_it_is_the_same(server: Web) -> None:
    def is_same() -> bool:
        tag = server.get("/overview").headers["etag"]
        return server.get("/overview", headers={"If-None-Match": tag}).status == 304

    wait_until(is_same, 30, "never the same twice")


def test_changes_are_told_to_all_who_watch(server: Web, client: Client) -> None:
    queue = next(_names)
    client.queues.create(queue, "Greet")
    with server.follow("/overview/events") as one, server.follow("/overview/events", role="read") as other:
        client.push_many(queue, ({"user": f"u{n}"} for n in range(7)))
        for stream in (one, other):
            counts = None
            while counts != 7:
                (told,) = stream.until("overview")
                counts = {each["queue"]: each["waiting"] for each in told.data["queues"]}.get(queue)


def test_somebody_bound_to_a_queue_sees_that_queue_alone(server: Web, client: Client) -> None:
    failed_task(client, "mail", "mine_alone")
    failed_task(client, "other_queue", "of_others")
    run = Printing(client, client.push("other_queue", {"user": "x"}).id).begin()
    seen = server.get("/overview", role="mail_only")
    wait_until(lambda: "mine_alone" in server.get("/overview", role="mail_only").text, 30, "its own is not shown")
    for reply in (seen, server.get("/overview", role="mail_only")):
        assert {one["queue"] for one in reply.json["queues"]} <= {"mail"}
        assert "of_others" not in reply.text and "other_queue" not in reply.text
        assert reply.json["running"] == [] and all(
            one.keys() == {"node", "state", "alive"} for one in reply.json["nodes"]
        )
    with server.follow("/overview/events", role="mail_only") as stream:
        (told,) = stream.until("overview")
        assert {one["queue"] for one in told.data["queues"]} == {"mail"}
        assert {one["code"] for one in told.data["failures"]} == {"mine_alone"} and told.data["failures_seen"] == 1
    run.ends()


def test_health_is_for_everybody_and_figures_for_readers(server: Web) -> None:
    reply = server.get("/healthz", base="", role=None)
    assert (reply.status, reply.text) == (200, "ok\n")
    assert server.get("/metrics", base="", role=None).code == "unauthenticated"
    server.get("/queues", role="read")
    server.get("/queues/none", role="read")
    text = server.get("/metrics", base="", role="read").text
    for line in (
        'disbatch_web_requests_total{route="GET /queues",status="200"}',
        'disbatch_web_requests_total{route="GET /queues/{q}",status="404"}',
        'disbatch_web_streams{kind="events"}', "disbatch_web_pool_clients 4\n", "disbatch_web_looks_total",
        "# TYPE disbatch_web_requests_total counter\n", "# TYPE disbatch_web_pool_lent gauge\n",
    ):  # fmt: skip
        assert line in text, text


# When it is looked at


class _Looked:
    """What is looked at; each look lasts as long as it is told to."""

    def __init__(self) -> None:
        self.looks = self.at_once = self.most_at_once = 0
        self.seconds = 0.0
        self.error: StoreUnreachableError | None = None

    async def look(self) -> int:
        self.looks += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.seconds)
        self.at_once -= 1
        if self.error is not None:
            raise self.error
        return self.looks


def test_many_viewers_are_one_look_and_a_pause_is_nine_times_as_long() -> None:
    async def watch() -> None:
        looked = _Looked()
        looked.seconds = 0.05
        looks = Looks(looked.look, least_seconds=0.0)
        found = await asyncio.gather(*(looks.fresh() for _ in range(50)))
        assert {one.picture for one in found} == {1} and looked.looks == 1
        assert PAUSE_FACTOR * looks.took_seconds * 0.5 < looks.pause_seconds <= PAUSE_FACTOR * looks.took_seconds
        assert (await looks.fresh()).picture == 1, "not before the pause is over"
        looks.hurry()
        assert (await looks.fresh()).picture == 2 and looked.most_at_once == 1

    asyncio.run(watch())


def test_the_last_picture_stays_while_the_store_is_away() -> None:
    async def watch() -> None:
        looked = _Looked()
        looked.error = StoreUnreachableError("it is away")
        looks = Looks(looked.look, least_seconds=0.0)
        with pytest.raises(StoreUnreachableError):
            await looks.fresh()
        looked.error = None
        looks.hurry()
        assert ((await looks.fresh()).picture, looks.failed) == (2, 1)
        looked.error = StoreUnreachableError("it is away")
        looks.hurry()
        seen = await looks.fresh()
        assert (seen.picture, seen.trouble) == (2, "it is away")
        looked.error = None
        looks.hurry()
        seen = await looks.fresh()
        assert (seen.picture, seen.trouble) == (4, "")

    asyncio.run(watch())


def test_what_nobody_watches_any_more_is_forgotten() -> None:
    async def watch() -> None:
        looked, together = _Looked(), Together[int]()
        with together.of("b", looked.look) as one, together.of("b", looked.look) as other:
            assert one is other and (await one.fresh()).picture == 1
        with together.of("b", looked.look) as again:
            assert again is not one

    asyncio.run(watch())


def test_it_is_looked_at_for_a_while_after_the_last_has_gone(lonely_url: str, plugins: Path) -> None:
    """One failure that was 23 s old filled four of the ten minutes of a chart, since nobody had watched meanwhile."""

    async def watch() -> None:
        looker = Looker(Client.open(lonely_url, plugins=[plugins], by="me@here", creates=True), step_seconds=0.1)
        try:
            await looker.page(Principal(name="me", role=Role.READ))
            async with asyncio.timeout(20):
                while looker.looks.looks < 3:
                    await asyncio.sleep(0.1)
        finally:
            await looker.close()

    asyncio.run(watch())


# A store that goes away, and comes back


@pytest.mark.mongodb
def test_mongodb_that_does_not_answer(own_mongod: Callable[..., Mongod]) -> None:
    with own_mongod() as mongod:
        url = f"{mongod.database_url('away')}&serverSelectionTimeoutMS=500&socketTimeoutMS=500"
        with Client.open(url, by="me@here", creates=True) as client:
            client.queues.create("kept", "Greet")
        with web.serving(url) as server, server.follow("/overview/events") as stream:
            (first,) = stream.until("overview")
            assert [one["queue"] for one in first.data["queues"]] == ["kept"]
            mongod.signal(signal.SIGSTOP)
            try:
                _assert_away(server)
                assert stream.until("trouble")[-1].data["message"]
                reply = server.get("/overview")
                assert reply.status == 200 and reply.json["queues"][0]["queue"] == "kept" and reply.json["trouble"]
            finally:
                mongod.signal(signal.SIGCONT)
            _assert_back(server)
            stream.until("overview")


def test_a_file_that_was_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "away.db"
    url = f"sqlite://{path}"
    with Client.open(url, by="me@here", creates=True) as client:
        client.queues.create("kept", "Greet")
    with web.serving(url) as server, server.follow("/overview/events") as stream:
        stream.until("overview")
        aside = tmp_path / "aside"
        aside.mkdir()
        for one in tmp_path.glob("away.db*"):
            one.rename(aside / one.name)
        _assert_away(server)
        assert stream.until("trouble")[-1].data["message"]
        reply = server.get("/overview")
        assert reply.status == 200 and reply.json["queues"][0]["queue"] == "kept"
        for one in aside.iterdir():
            one.rename(tmp_path / one.name)
        _assert_back(server)
        stream.until("overview")


def _assert_away(server: Web) -> None:
    wait_until(lambda: server.get("/queues").status == 503, 60, "it is still answered")
    reply = server.get("/queues")
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "store", "5")
    wait_until(lambda: server.get("/healthz", base="", role=None).status == 503, 60, "it says that it is well")


def _assert_back(server: Web) -> None:
    wait_until(lambda: server.get("/queues").status == 200, 60, "it does not come back")
    wait_until(lambda: server.get("/healthz", base="", role=None).status == 200, 60, "it does not say that it is well")
    wait_until(lambda: server.get("/overview").json["trouble"] is None, 60, "its overview is not renewed")
