"""A stand-in for Databento's historical API on this machine, for the official client: made-up bars, real DBN, faults on demand.

It keeps the shape of the API as the installed client speaks it: basic auth with the key as user, form posts, JSON answers, DBN in a chunked stream."""
import base64
import datetime as dt
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs

import databento_dbn
import numpy as np
import zstandard

KEY = "db-0123456789abcdefTESTonlyKEY00"
SECOND = 10**9


def ns(text): return int(np.datetime64(text, "ns").astype(np.int64))


def made_up_bars(seconds=1800, days=("2024-01-03", "2024-01-31", "2024-02-01", "2024-02-14", "2024-03-04", "2024-03-19"), step=1, seed=7):
    "Bars of one contract on some days: ts (n,) ns and prices (n, 4) in 1e-9 points, from 15:00 UTC on."
    rng = np.random.default_rng(seed)
    ts = np.concatenate([ns(f"{day}T15:00") + SECOND * step * np.arange(seconds) for day in days])
    close = 20000 + rng.integers(-2, 3, len(ts)).cumsum()
    open_ = np.r_[20000, close[:-1]]
    return ts, np.stack([open_, np.maximum(open_, close) + 1, np.minimum(open_, close) - 1, close], 1) * 250_000_000


def dbn_bytes(ts, prices, series="MES.v.0", schema="ohlcv-1s", stype="continuous", start=0, end=1, numbers=7):
    "Plain DBN 3 with these bars of one series."
    rows = np.zeros(len(ts), databento_dbn.OHLCVMsg._dtypes)
    rows["length"], rows["publisher_id"], rows["instrument_id"], rows["ts_event"], rows["volume"] = 14, 1, numbers, ts, 1 + ts // SECOND % 50
    rows["rtype"] = {"ohlcv-1s": 32, "ohlcv-1m": 33}[schema]
    for k, name in enumerate(("open", "high", "low", "close")): rows[name] = prices[:, k]
    table = SimpleNamespace(raw_symbol=series, intervals=[SimpleNamespace(start_date=dt.date(2019, 1, 1), end_date=dt.date(2030, 1, 1), symbol=str(numbers))])
    head = databento_dbn.Metadata("GLBX.MDP3", start, databento_dbn.SType(stype), databento_dbn.SType("instrument_id"), databento_dbn.Schema(schema), [series], mappings=[table], end=end)
    return head.encode() + rows.tobytes()


class Desk(ThreadingHTTPServer):
    """`held`: series -> (ts, prices). `troubles`: (endpoint, what) answered instead, once each, in order. `seen`: (endpoint, series, start, end) of every data request.
    what: a status, (status, headers), "reset" or "silent" (half an answer), "empty", "hang", "schema", "symbol", "late" (bars outside the range), "pause" (stops half way, see `paused`)."""
    daemon_threads = True

    def __init__(self, held=None, newest="2024-03-20T12:04:30Z"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.held, self.newest = held or {"MES.v.0": made_up_bars()}, newest
        self.troubles, self.seen = [], []
        self.paused, self.go_on, self.chunk_s, self.hang_s = threading.Event(), threading.Event(), 0.0, 1.0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self): return f"http://127.0.0.1:{self.server_port}"

    def asked(self, endpoint="get_range"): return [tuple(one[1:]) for one in self.seen if one[0] == endpoint]
    def handle_error(self, request, client_address): pass  # the other side was killed
    def __exit__(self, *args): self.go_on.set(), self.shutdown(), super().__exit__(*args)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args): pass

    def say(self, body, status=200, headers=()):
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers): self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, case, message, headers=()):
        self.say(json.dumps({"detail": {"case": case, "message": message, "status_code": status, "docs": "", "payload": {}}}).encode(), status, headers)

    def trouble(self, endpoint):
        if self.server.troubles and self.server.troubles[0][0] == endpoint: return self.server.troubles.pop(0)[1]

    def do_GET(self): self.answer(self.path.split("?")[0].rsplit(".", 1)[1], {})

    def do_POST(self):
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer(self.path.rsplit(".", 1)[1], {k: v[0] for k, v in form.items()})

    def answer(self, endpoint, form):
        desk, what = self.server, self.trouble(endpoint)
        start, end = (int(form.get(k, 0)) for k in ("start", "end"))
        desk.seen.append((endpoint, form.get("symbols"), start, end))
        user = base64.b64decode(self.headers.get("Authorization", "Basic ").split(" ", 1)[1]).decode().split(":")[0]
        if user != KEY: return self.refuse(401, "auth_authentication_failed", f"Authentication failed for {user}.")
        if isinstance(what, int): return self.refuse(what, "trouble", "made to order")
        if isinstance(what, tuple): return self.refuse(what[0], "trouble", "made to order", what[1])
        if what == "hang": time.sleep(desk.hang_s)
        if endpoint == "get_dataset_range": return self.say(json.dumps({"start": "2010-06-06T00:00:00Z", "end": "2030-01-01T00:00:00Z", "schema": {"ohlcv-1s": {"start": "2010-06-06T00:00:00Z", "end": desk.newest}}}).encode())
        if form["symbols"] not in desk.held: return self.refuse(422, "symbology_invalid_request", f"None of the symbols could be resolved: {form['symbols']}")
        if end > ns(desk.newest.removesuffix("Z")): return self.refuse(422, "data_end_after_available_end", "The dataset does not reach that far")
        ts, prices = desk.held[form["symbols"]]
        mine = (ts >= start) & (ts < end)
        if endpoint == "get_record_count": return self.say(b"%d" % mine.sum())
        if endpoint == "get_cost": return self.say(b"%.6f" % (mine.sum() / 10_000))
        if what == "late": mine = ts >= start
        raw = dbn_bytes(ts[mine], prices[mine], "MES.c.0" if what == "symbol" else form["symbols"], "ohlcv-1m" if what == "schema" else form["schema"], form["stype_in"], start, end)
        self.stream(raw, what)

    def stream(self, raw, what):
        "Chunked, in packed blocks, like a server that does not know the end when it begins."
        desk, pack = self.server, zstandard.ZstdCompressor().compressobj()
        half = len(raw) - len(raw) // 112 * 56  # between two records
        blocks = [pack.compress(raw[:half]) + pack.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), pack.compress(raw[half:]) + pack.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for k, block in enumerate(blocks[:{"empty": 0, "silent": 1, "reset": 1}.get(what, 2)]):
            self.wfile.write(b"%x\r\n" % len(block) + block + b"\r\n")
            time.sleep(desk.chunk_s)
            if what == "pause" and k == 0:
                desk.paused.set()
                desk.go_on.wait(20)
        if what == "reset": self.close_connection = True
        else: self.wfile.write(b"0\r\n\r\n")


def run_download(store, url, die_at=0, **kw):
    "A download in a process of its own, which kills itself before its `die_at`-th step towards the disk (0: never)."
    os.environ["DATABENTO_API_KEY"] = KEY
    from mesbot.download import download
    steps = 0
    def counted(real):
        def step(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == die_at: os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return step
    os.replace, os.fsync = counted(os.replace), counted(os.fsync)
    download("MES", "2024-01-01", store=store, yes=True, gateway=url, progress=False, show=lambda line: None, sleep=lambda s: None, **kw)
