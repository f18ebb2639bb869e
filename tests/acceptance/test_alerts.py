"LIV-16: alerts reach a person, hold no secret, and never make the runner wait: not for a target that hangs, not in a storm, not at the end."
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from live_runner import alerts, logs
from live_runner.alerts import Alerts, check_targets
from live_runner.problems import FixTheConfig
from live_runner.settings import RunnerSettings

ROOT = Path(__file__).resolve().parents[2]
KEY = "k3y-of-the-broker"


@contextmanager
def service(*statuses):
    "A web service that keeps what it is told; it answers with these statuses in turn, the last one for ever."
    got, answers = [], list(statuses or (200,))
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()))
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.send_header("Content-Length", "0")
            self.end_headers()
        do_GET = do_POST
        def log_message(self, *_): return None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": .02}, daemon=True).start()
    try: yield server.server_port, got
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def hanging():
    "A service that accepts and never answers."
    with socket.create_server(("127.0.0.1", 0)) as server: yield server.getsockname()[1]


def until(what, seconds=10):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end: time.sleep(.01)
    assert what()


def texts(got): return [json.loads(body)["message"] for _, body in got]


class Time:
    "Seconds that a test moves."
    now = 1000.0

    def __call__(self): return self.now


@pytest.fixture
def told(monkeypatch):
    "Targets that only note what they are told, by address."
    got = {}
    def post(url, *_): return lambda batch: got.setdefault(url, []).extend((one.severity, one.text) for one in batch)
    monkeypatch.setattr(alerts, "_post", post)
    return got


def test_an_alert_reaches_the_service_and_the_log_without_a_secret(written):
    "The key of the broker, a token by its look, and the password of the target itself are taken out; the rest of the text arrives."
    logs.hide(KEY)
    with service() as (port, got):
        said = Alerts(((f"json://trader:0pn-5@127.0.0.1:{port}/hook/Zq8xK2mN4pR7/", "info"),), "paper 101")
        said.send("critical", "stop", f"no stop at the venue: {KEY}, Bearer abc.def, 0pn-5, see json://trader:0pn-5@127.0.0.1:{port}/hook/Zq8xK2mN4pR7/")
        until(lambda: said.counts["sent"] == 1)
        assert said.close() == 0
    (_, body), out = got[0], written.getvalue()
    assert json.loads(body)["title"] == "paper 101: critical" and json.loads(body)["type"] == "failure" and json.loads(body)["message"].startswith("no stop at the venue: ***")
    assert [line["level"] for line in map(json.loads, out.splitlines()) if line["event"].startswith("no stop at the venue")] == ["critical"]
    for secret in (KEY, "abc.def", "0pn-5", "Zq8xK2mN4pR7"): assert secret not in body and secret not in out
    assert "127.0.0.1" == logs.redact("127.0.0.1"), "a host is no secret"


def test_each_target_hears_what_is_severe_enough(told):
    said = Alerts((("a://", "info"), ("b://", "warning"), ("c://", "critical")))
    for severity in ("info", "warning", "critical", "loud"): said.send(severity, severity, f"text of {severity}")
    said.close()
    assert {url: sorted(severity for severity, _ in got) for url, got in told.items()} == {"a://": ["critical", "critical", "info", "warning"], "b://": ["critical", "critical", "warning"], "c://": ["critical", "critical"]}
    assert said.counts["sent"] == 9


def test_the_log_is_told_without_any_target(written):
    Alerts().send("warning", "k", "the feed is silent")
    line, = [json.loads(line) for line in written.getvalue().splitlines()]
    assert (line["event"], line["level"], line["key"]) == ("the feed is silent", "warning", "k")


def test_one_trouble_is_told_once_a_minute_and_then_counted(told):
    "Also when its text changes, and also when nobody calls any more."
    clock = Time()
    said = Alerts((("a://", "info"),), monotonic=clock)
    for i in range(100): said.send("warning", "feed", f"silent for {i} s")
    until(lambda: told.get("a://") == [("warning", "silent for 0 s")])
    assert said.counts["throttled"] == 99
    clock.now += 61
    until(lambda: len(told["a://"]) == 2)   # by its own thread
    assert told["a://"][1] == ("warning", "99 more within 61 s: silent for 99 s")
    clock.now += 61
    said.send("warning", "feed", "silent again")
    said.close()
    assert told["a://"][2:] == [("warning", "silent again")] and said.counts["sent"] == 3


def test_the_same_text_under_another_key_is_the_same_trouble(told):
    said = Alerts((("a://", "info"),))
    for key in ("feed", "hub", "core"): said.send("warning", key, "the feed is silent")
    said.send("warning", "hub", "another thing")
    said.close()
    assert [text for _, text in told["a://"]] == ["the feed is silent", "another thing", "2 more within 1 s: the feed is silent"]


def test_a_trouble_that_gets_worse_is_told_at_once(told):
    said = Alerts((("a://", "info"),))
    for severity in ("info", "warning", "critical", "warning"): said.send(severity, "stop", f"now {severity}")
    said.close()
    assert sorted(text for _, text in told["a://"]) == ["1 more within 1 s: now warning", "now critical", "now info", "now warning"]


def test_a_target_that_hangs_delays_nothing():
    "Not the caller, not the other target, not the end."
    with hanging() as port, service() as (good, got):
        said = Alerts(((f"json://127.0.0.1:{port}/", "info"), (f"json://127.0.0.1:{good}/", "info")))
        for i in range(300): said.send("warning", f"key {i}", f"text {i}")
        until(lambda: sum(len(text.splitlines()) for text in texts(got)) >= 257, 3.5)  # the hanging one gives up after 4 s
        began = time.monotonic()
        assert said.close(.2) > 0 and time.monotonic() - began < 3
        assert said.counts["dropped"] >= 300 - 256 - alerts.BUNDLE
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("alerts"))


def test_a_process_ends_although_a_target_hangs():
    "And apprise is loaded neither by the module nor by alerts without targets."
    with hanging() as port:
        code = (f"import sys, time\nfrom live_runner import alerts\nalerts.TIMEOUT_S = 60\nalerts.Alerts().send('info', 'k', 't')\nassert 'apprise' not in sys.modules\n"
                f"import apprise\nsaid = alerts.Alerts((('json://127.0.0.1:{port}/?rto=60&cto=60', 'info'),))\nsaid.send('critical', 'k', 't')\ntime.sleep(.3)\nprint(said.close(.1))")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=20)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_a_full_queue_drops_the_least_and_oldest_and_counts_them(monkeypatch):
    "A critical alert is never dropped for others, and goes out first."
    gate, got = threading.Event(), []
    monkeypatch.setattr(alerts, "_post", lambda *_: lambda batch: (gate.wait(10), got.extend(one.text for one in batch)))
    said = Alerts((("a://", "info"),))
    said.send("info", "first", "first")
    until(lambda: not said._workers[0][1].waiting)    # under way
    said.send("critical", "worst", "worst")
    for i in range(400): said.send("info", f"i{i}", f"i{i}")
    said.send("warning", "late", "late")
    assert said.counts["dropped"] == 402 - alerts.ROOM
    gate.set()
    assert said.close() == 0
    assert got[:3] == ["first", "worst", "late"] and got[3] == f"i{402 - alerts.ROOM}" and got[-1] == "i399" and len(got) == alerts.ROOM + 1
    assert said.counts["sent"] == alerts.ROOM + 1
    said.send("critical", "x", "after the end")
    assert said.counts["dropped"] == 403 - alerts.ROOM


def test_a_storm_becomes_few_messages():
    with service() as (port, got):
        said = Alerts(((f"json://127.0.0.1:{port}/", "info"),))
        for i in range(200): said.send("warning", f"key {i}", f"text {i}")
        assert said.close(10) == 0
    assert sum(len(text.splitlines()) for text in texts(got)) == 200 and len(got) < 40


def test_what_was_not_taken_is_tried_again(monkeypatch):
    monkeypatch.setattr(alerts, "PAUSES_S", (.02, .02))
    monkeypatch.setattr(alerts._Worker.__init__, "__defaults__", (alerts.ROOM, (.02, .02)))
    with service(500, 503, 200) as (port, got):
        said = Alerts(((f"json://127.0.0.1:{port}/", "info"),))
        said.send("warning", "k", "t")
        until(lambda: said.counts["sent"] == 1)
        said.close()
    assert len(got) == 3 and said.counts["failed"] == 0


def test_a_target_that_is_away_is_counted_and_logged_without_its_address(monkeypatch, written):
    monkeypatch.setattr(alerts._Worker.__init__, "__defaults__", (alerts.ROOM, (.02, .02)))
    with service(403) as (port, got):
        said = Alerts(((f"json://127.0.0.1:{port}/very-secret-hook", "info"), ("nonsense that is no address", "info")))
        said.send("warning", "k", "t")
        until(lambda: said.counts["failed"] == 2)
        said.close()
    failed = [json.loads(line) for line in written.getvalue().splitlines() if json.loads(line)["event"] == "not delivered"]
    assert sorted(line["target"] for line in failed) == ["alerts 1 json://", "alerts 2 an address without ://"] and "very-secret-hook" not in written.getvalue()
    assert "nonsense" not in written.getvalue()


def test_a_late_message_says_how_late(monkeypatch):
    clock = Time()
    with service(500, 200) as (port, got):
        monkeypatch.setattr(alerts._Worker.__init__, "__defaults__", (alerts.ROOM, (.3,)))
        said = Alerts(((f"json://127.0.0.1:{port}/", "info"),), monotonic=clock)
        said.send("warning", "k", "t")
        until(lambda: len(got) == 1)
        clock.now += 720
        until(lambda: said.counts["sent"] == 1)
        said.close()
    assert texts(got) == ["t", "t (said 12 min ago)"]


class Unspeakable:
    def __repr__(self): raise RuntimeError("no words")


def test_nothing_that_is_said_raises(told, written):
    said = Alerts((("a://", "info"),))
    said.send("critical", "k", Unspeakable())
    said.send(None, None, None)
    said.send("info", "long", "word " * 2000 + "\nsecond line")
    said.close()
    assert said.counts["failed"] == 1 and "no words" in written.getvalue()
    assert told["a://"][0] == ("critical", "None") and [len(text) for _, text in told["a://"]] == [4, alerts.LONGEST]


def test_many_troubles_take_no_memory():
    said = Alerts()
    for i in range(alerts.TROUBLES + 50): said.send("info", f"key {i}", f"text {i}")
    assert len(said._troubles) == alerts.TROUBLES
    said.close()


@pytest.mark.parametrize("url", ["tgram://not-a-token", "nothing", "foo://bar/abcdefgh", "json://", "http//x:secret-word@y", "//[", ""])
def test_a_wrong_target_is_refused_at_the_door_without_being_shown(url, written):
    with pytest.raises(FixTheConfig, match="^alerts 2: ") as refused: check_targets((("json://127.0.0.1:1/", "info"), (url, "info")))
    assert "\n" not in str(refused.value) and all(part not in str(refused.value) + written.getvalue() for part in ("not-a-token", "abcdefgh", "secret-word"))


def test_the_door_lets_right_targets_in_and_knows_the_rest():
    settings = RunnerSettings(alerts=({"url": "mailto://me:secret-word@gmail.com"}, {"url": "tgram://123456789:AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr/12315544", "severity": "critical"}))
    check_targets(tuple((one.url, one.severity) for one in settings.alerts), "https://hc-ping.com/2f9d8c1e-aaaa")
    assert "secret-word" not in logs.redact("secret-word") and "AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr" not in logs.redact("AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr") and "2f9d8c1e-aaaa" not in logs.redact("2f9d8c1e-aaaa")
    assert logs.redact("gmail.com hc-ping.com") == "gmail.com hc-ping.com"
    with pytest.raises(FixTheConfig, match="severity must be one of info, warning, critical, got 'loud'"): check_targets((("json://h/", "loud"),))
    for wrong in ("ftp://x", "hc-ping.com/abc", "http://"):
        with pytest.raises(FixTheConfig, match="^ping_url: "): check_targets((), wrong)


def test_the_dead_mans_ping_goes_out_once_a_minute_however_often_it_is_called():
    clock = Time()
    with service(200, 200, 500) as (port, got):
        said, url = Alerts(monotonic=clock), f"http://127.0.0.1:{port}/ping/0123456789"
        for expected, name in ((1, "ping_sent"), (2, "ping_sent"), (1, "ping_failed")):
            for _ in range(50):
                said.ping(url)
                said.ping("")
            until(lambda: said.counts[name] == expected)
            clock.now += 59.9
            said.ping(url)
            clock.now += .1
        assert len(got) == 3
        said.close()
        said.ping(url)
    assert said.counts["ping_sent"] + said.counts["ping_failed"] == 3 and said.counts["sent"] == 0
