"LIV-16: the runner says over HTTP how it is, to whoever may know, and how long things take; only who knows the token makes it act."
import asyncio
import json
import math
import re
import socket

import aiohttp
import numpy as np
import pytest

from live_runner.health import Health, check_door
from live_runner.metrics import EDGES, NAMES, Latency, Meters
from live_runner.problems import FixTheConfig

TOKEN = "0123456789abcdef"
STATUS = {"at_ns": 1, "mode": "paper", "account": 101, "price": 4783.25, "position": -2, "open_usd": -1.25, "day_net_usd": 3.5, "balance_usd": 1003.5, "trades": 3, "signals": 4, "halted": "", "blocked": [], "troubles": []}


class Time:
    now = 1000.0

    def __call__(self): return self.now


def ask(health, *calls):
    "Answers (status, text, headers) to (method, path, options) of calls, one after the other."
    async def story():
        async with health, aiohttp.ClientSession() as session:
            answers = []
            for call in calls:
                if callable(call): answers.append(call())
                else:
                    method, path, options = (*call, {})[:3]
                    async with session.request(method, health.url + path, **options) as answer: answers.append((answer.status, await answer.text(), answer.headers))
            return [answer for answer in answers if answer is not None]
    return asyncio.run(asyncio.wait_for(story(), 20))


def bearer(token): return {"Authorization": f"Bearer {token}"}


def a_health(status=None, **options):
    killed = []
    return Health(status or (lambda: dict(STATUS)), options.pop("meters", Meters()), killed.append, **options), killed


def test_healthz_is_well_only_while_seconds_of_the_market_come():
    "LIV-16: 503 with the reason 5 s after the last one, before the first one too; a closed market is no illness; halted is one."
    clock, status = Time(), dict(STATUS)
    health, _ = a_health(lambda: status, monotonic=clock)
    def after(seconds): clock.now += seconds
    healthz = ("GET", "/healthz")
    answers = ask(health, healthz, lambda: after(5), healthz, lambda: after(.6), healthz, lambda: health.second(), healthz, lambda: health.pause("the market is closed"), lambda: after(40_000), healthz,
                  lambda: health.second(), lambda: after(6), healthz, lambda: health.second(), lambda: status.update(halted="kill by operator: news"), healthz)
    assert [code for code, *_ in answers] == [200, 200, 503, 200, 200, 503, 503]
    assert json.loads(answers[2][1]) == {"ok": False, "why": "no second of the market for 6 s"} and json.loads(answers[6][1])["why"] == "halted: kill by operator: news"
    assert json.loads(answers[4][1]) == {"ok": True, "paused": "the market is closed"}


def test_status_is_the_status_of_the_core_and_how_long_things_take(written):
    meters = Meters()
    meters.latency["step_s"].add(.001)
    meters.counters["orders"] += 2
    health, _ = a_health(lambda: STATUS | {"blocked": [f"Bearer {TOKEN}"]}, meters=meters, token=TOKEN)
    (code, text, headers), = ask(health, ("GET", "/status"))
    said = json.loads(text)
    assert code == 200 and headers["Content-Type"].startswith("application/json") and {name: said[name] for name in STATUS if name != "blocked"} == {name: STATUS[name] for name in STATUS if name != "blocked"}
    assert said["latency"]["step_s"] == {"count": 1, "mean_s": .001, "p50_s": .001, "p99_s": .001, "max_s": .001} and said["latency"]["commit_s"]["p99_s"] is None
    assert said["healthy"] is True and said["unwell"] == "" and said["counters"] == {"orders": 2}
    assert TOKEN not in text + written.getvalue()


def test_only_who_knows_the_token_can_kill(written):
    health, killed = a_health(token=TOKEN)
    kill = lambda **options: ("POST", "/kill", options)
    answers = ask(health, kill(json={"why": "x"}), kill(json={"why": "x"}, headers=bearer("wrong")), kill(json={"why": "x"}, headers=bearer(TOKEN + "x")), kill(json={"why": "x"}, headers=bearer("")), kill(json={"why": "x"}, headers=bearer("ü")),
                  kill(json={"why": "x"}, headers={"Authorization": f"Basic {TOKEN}"}), kill(json={"why": "x", "token": TOKEN}), ("POST", f"/kill?token={TOKEN}"))
    assert [code for code, *_ in answers] == [403] * 8 and killed == []
    answers = ask(health, kill(json={"why": " news,\n now "}, headers=bearer(TOKEN)), kill(json={}, headers=bearer(TOKEN)))
    assert [code for code, *_ in answers] == [202, 202] and killed == ["news, now", "no reason given"]
    assert TOKEN not in written.getvalue() and "turned away at the door" in written.getvalue()


def test_a_runner_without_a_token_cannot_be_killed_over_http():
    health, killed = a_health()
    answers = ask(health, ("POST", "/kill", {"json": {"why": "x"}}), ("POST", "/kill", {"json": {"why": "x"}, "headers": bearer("")}), ("GET", "/status"))
    assert [code for code, *_ in answers] == [403, 403, 200] and killed == []


def test_a_wrong_request_is_answered_and_kills_nothing():
    health, killed = a_health(token=TOKEN)
    own = {"headers": bearer(TOKEN)}
    answers = ask(health, ("POST", "/kill", own | {"data": b"\xff{"}), ("POST", "/kill", own | {"json": [1]}), ("POST", "/kill", own | {"json": {"why": 5}}), ("POST", "/kill", own | {"json": {"why": "x" * 201}}), ("POST", "/kill", own),
                  ("POST", "/kill", own | {"data": b"x" * 5000}), ("GET", "/kill"), ("GET", "/nothing"), ("POST", "/status", own), ("DELETE", "/status"))
    assert [code for code, *_ in answers] == [400, 400, 400, 400, 400, 413, 405, 404, 405, 405] and killed == []
    assert answers[6][2]["Allow"] == "POST"


def test_only_this_machine_unless_there_is_a_token():
    "A short one is none; with one, everything but /healthz asks for it; a page of elsewhere that calls this machine by a name of its own is turned away."
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        with pytest.raises(FixTheConfig, match="only with a token of 16 characters or more"): a_health(host=host)
    with pytest.raises(FixTheConfig, match="must have 16 characters or more, got 15"): a_health(token=TOKEN[1:])
    for host in ("127.0.0.1", "localhost", "::1"): check_door(host, "")
    health, _ = a_health(host="0.0.0.0", token=TOKEN)
    answers = ask(health, ("GET", "/healthz"), ("GET", "/status"), ("GET", "/metrics"), ("GET", "/status", {"headers": bearer(TOKEN)}), ("GET", "/metrics", {"headers": bearer(TOKEN)}))
    assert [code for code, *_ in answers] == [200, 403, 403, 200, 200] and health.url.startswith("http://127.0.0.1:")
    health, _ = a_health()
    answers = ask(health, *(("GET", "/status", {"headers": {"Host": host}}) for host in ("evil.example:80", "evil.example", "localhost", "localhost:5", "[::1]:5", "127.0.0.1")))
    assert [code for code, *_ in answers] == [403, 403, 200, 200, 200, 200]


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        health, _ = a_health(port=taken.getsockname()[1])
        with pytest.raises(FixTheConfig, match=rf"health cannot listen on 127\.0\.0\.1 port {taken.getsockname()[1]}: "): ask(health)


def test_a_status_that_fails_is_an_answer_and_no_crash(written):
    def broken(): raise RuntimeError(f"state is odd, Bearer {TOKEN}")
    health, _ = a_health(broken)
    answers = ask(health, *(("GET", path) for path in ("/healthz", "/status", "/metrics")))
    assert [code for code, *_ in answers] == [503] * 3 and all("state is odd" in text and TOKEN not in text for _, text, _ in answers)
    assert TOKEN not in written.getvalue()


# --- what is measured ----------------------------------------------------------------------------------------------------------------------------------------

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"\})? ([+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|NaN)')


def parse(text):
    "Prometheus text, read as strictly as its specification allows: name -> (type, [(sample name, label, value)])."
    assert text.endswith("\n") and "\n\n" not in text and "\r" not in text
    families, name, helped = {}, None, None
    for line in text.splitlines():
        if found := re.fullmatch(r"# HELP (\S+) (\S.*)", line):
            assert found[1] not in families and helped is None
            helped = found[1]
        elif found := re.fullmatch(r"# TYPE (\S+) (counter|gauge|histogram)", line):
            name, helped = found[1], (helped == found[1] and None)
            assert helped is None and re.fullmatch(r"mesbot_[a-z0-9_]*[a-z0-9]", name)
            families[name] = found[2], []
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            kind, samples = families[name]
            assert found[1] in ([name] if kind != "histogram" else [name + part for part in ("_bucket", "_sum", "_count")]) and (found[2] == "le") == found[1].endswith("_bucket"), line
            samples.append((found[1], found[3], float(found[4])))
    for name, (kind, samples) in families.items():
        if kind != "histogram":
            assert len(samples) == 1 and (kind != "counter" or name.endswith("_total") and samples[0][2] >= 0)
            continue
        edges, counts = zip(*((float(label), value) for sample, label, value in samples if sample.endswith("_bucket")))
        count, = (value for sample, _, value in samples if sample.endswith("_count"))
        assert list(edges) == sorted(set(edges)) and edges[-1] == math.inf and list(counts) == sorted(counts) and counts[-1] == count
        assert sum(sample.endswith("_sum") for sample, *_ in samples) == 1
    return families


def test_metrics_are_what_prometheus_reads():
    meters = Meters()
    for seconds in (1e-6, 1.0000001e-6, .0015, .0015, .2, 10, 11, 1e5): meters.latency["bar_to_wire_s"].add(seconds)
    meters.counters["alerts.sent"] += 3
    health, _ = a_health(meters=meters)
    (code, text, headers), = ask(health, ("GET", "/metrics"))
    assert code == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = parse(text)
    kind, samples = families["mesbot_bar_to_wire_seconds"]
    below = {float(label): value for sample, label, value in samples if label}
    assert kind == "histogram" and below[1e-6] == 1 and below[1e-3] == 2 and below[1.58489e-3] == 4 and below[1.0] == 5 and below[10.0] == 6 and below[math.inf] == 8
    assert families["mesbot_alerts_sent_total"] == ("counter", [("mesbot_alerts_sent_total", None, 3.0)]) and families["mesbot_position"][1][0][2] == -2
    assert families["mesbot_healthy"][1][0][2] == 1 and families["mesbot_halted"][1][0][2] == 0
    assert {name.removesuffix("_s") for name in NAMES} <= {name.removeprefix("mesbot_").removesuffix("_seconds") for name in families}
    parse(Meters().text({"price": None, "odd name": math.nan, "far": math.inf}))


@pytest.mark.parametrize("wrong", ["mesbot_x 1\n", "# HELP mesbot_x y\n# TYPE mesbot_x histogram\nmesbot_x_bucket{le=\"1\"} 2\nmesbot_x_bucket{le=\"+Inf\"} 1\nmesbot_x_sum 1\nmesbot_x_count 1\n", "# HELP mesbot_x y\n# TYPE mesbot_x gauge\nmesbot_x None\n"])
def test_the_parser_of_this_test_is_strict(wrong):
    with pytest.raises((AssertionError, KeyError)): parse(wrong)


@pytest.mark.parametrize("scale", [2e-6, 3e-4, .05])
def test_quantiles_are_never_better_than_the_truth_and_at_most_a_bin_worse(scale):
    "Against numpy on the same thousands."
    values = np.random.default_rng(3).lognormal(math.log(scale), .7, 5000).clip(1e-6, 10)
    latency = Latency()
    for seconds in values: latency.add(float(seconds))
    for q in (0, .01, .5, .9, .99, .999, 1):
        truth = np.quantile(values, q, method="inverted_cdf")
        assert truth <= latency.quantile(q) * (1 + 1e-12) and latency.quantile(q) <= truth * 10 ** (1 / 50) * (1 + 1e-5), q
    facts = latency.facts()
    assert facts["count"] == 5000 and facts["max_s"] == values.max() and math.isclose(facts["mean_s"], values.mean())
    assert latency.counts.dtype == np.int64 and len(latency.counts) == len(EDGES) + 1 and EDGES[0] == 1e-6 and EDGES[-1] == 10


def test_odd_durations_are_counted_too():
    "A clock that went back, a duration that is no number, and one without end; an empty one has no quantiles."
    latency = Latency()
    assert math.isnan(latency.quantile(.5)) and latency.facts()["p50_s"] is None
    for seconds in (-3.0, 0.0, math.nan, math.inf): latency.add(seconds)
    assert latency.count == 4 and latency.counts[0] == 2 and latency.counts[-1] == 2 and math.isfinite(latency.sum_s)
    assert latency.quantile(.5) == 1e-6 and latency.quantile(1) == latency.max_s
    few = Latency()
    for seconds in (.001, .002, .003): few.add(seconds)
    assert .002 <= few.quantile(.5) < .0021 and .003 == few.quantile(.99) and .001 <= few.quantile(.3) < .00105
    with pytest.raises(ValueError, match="q must be in 0 .. 1, got 1.5"): latency.quantile(1.5)
    json.dumps(latency.facts(), allow_nan=False)
