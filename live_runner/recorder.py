"Stores a live feed for replay: quotes and trades of one contract, as our own client hears them, in a packed file that survives a kill."
import gzip
import json
import zlib
from pathlib import Path
from typing import NamedTuple

from .clock import WallClock, isotime
from .gateway.events import Lost, Prints, Quote
from .gateway.hub import STOPPED, Hub
from .protocol import TradeType

FLUSH_S = 1.0  # a kill loses this much at most
FIELDS = {"last": "lastPrice", "bid": "bestBid", "ask": "bestAsk", "open": "open", "high": "high", "low": "low", "volume": "volume", "change": "change", "change_percent": "changePercent"}


class Recording:
    "A file being written: gzip, one JSON line an event, {at: ns UTC of its arrival, event, contract, data}."

    def __init__(self,
        path: Path | str,              # a new file; FileExistsError for one that is there
        clock: WallClock = WallClock(),
    ):
        self.path, self.quotes, self.trades, self.gaps = Path(path), 0, 0, 0
        self._clock, self._last, self._dirty = clock, Quote(""), False
        self._file = gzip.GzipFile(fileobj=self.path.open("xb"), mode="wb", compresslevel=6)

    def take(self, event: NamedTuple) -> None:
        "Write down an event of the market hub; others are let pass."
        if isinstance(event, Quote): self._quote(event)
        elif isinstance(event, Prints):
            self.trades += len(event.prints)
            self._write("GatewayTrade", event.contract, [{"price": p.price, "timestamp": isotime(p.ts), "type": int(TradeType.BUY if p.side is None else p.side), "volume": p.size} for p in event.prints])
        elif isinstance(event, Lost) and event.why != STOPPED:
            self.gaps += 1
            self._write("Lost", None, event.why)

    def _quote(self, quote: Quote):
        "Only what has changed since the last one."
        now, before = quote._asdict(), self._last._asdict()
        same = quote.generation == self._last.generation
        changed = {wire: now[name] for name, wire in FIELDS.items() if now[name] is not None and (not same or now[name] != before[name])}
        self._last = quote
        if not changed: return
        self.quotes += 1
        self._write("GatewayQuote", quote.contract, {**changed, "timestamp": isotime(quote.ts or self._clock.now())})

    def _write(self, event: str, contract: str | None, data):
        self._file.write(json.dumps({"at": self._clock.now(), "event": event, "contract": contract, "data": data}, separators=(",", ":")).encode() + b"\n")
        self._dirty = True

    def flush(self) -> None:
        "Have all of it in the file, readable."
        if not self._dirty: return
        self._file.flush(zlib.Z_SYNC_FLUSH)
        self._dirty = False

    def close(self) -> None:
        "End the file."
        under = self._file.fileobj
        self._file.close()
        under.close()


class Recorder:
    "Our client, listening and writing."

    def __init__(self,
        gateway,                   # a started `Gateway`
        url: str,                  # of the market hub
        path: Path | str,          # a new file
        contract: str = "",        # id; "" = the front month of `symbol`
        symbol: str = "MES",
        clock: WallClock = WallClock(),
    ):
        self._gateway, self._url, self._path, self._contract, self._symbol, self._clock = gateway, url, path, contract, symbol, clock
        self.recording = None      # from where `run` begins to listen

    async def run(self,
        seconds: float = 0.0,      # how long; 0 = until it is cancelled
    ) -> None:
        "Record; ValueError when no or several contracts fit, FileExistsError for a file that is there, and what gateway and hub raise."
        clock, contract = self._clock, self._contract or await find_contract(self._gateway, self._symbol)
        self.recording = recording = Recording(self._path, clock)
        hub = Hub("market", self._url, self._gateway.token, recording.take, clock)
        for method in ("SubscribeContractQuotes", "SubscribeContractTrades"): hub.subscribe(method, contract)
        try:
            await hub.start()
            end = clock.monotonic() + (seconds or float("inf"))
            while (left := end - clock.monotonic()) > 0:
                await clock.sleep(min(FLUSH_S, left))
                recording.flush()
        finally:
            await hub.stop()
            recording.close()


async def find_contract(gateway, symbol: str) -> str: # its id
    "The front month of a symbol, by the gateway's own search, which is loose; ValueError when it is not exactly one."
    found = [c for c in await gateway.contracts(symbol) if c.name[:-2] == symbol]
    if len(found) != 1: raise ValueError(f"the gateway must have one contract of {symbol}, got {', '.join(c.name for c in found) or 'none'}; give its id with --contract")
    return found[0].id
