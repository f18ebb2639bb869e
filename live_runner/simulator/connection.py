"One SignalR connection as the server has it: the handshake, records in, records out."
import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import Callable

from aiohttp import WSMsgType, web

from ..clock import WallClock
from ..protocol import RECORD_END

FRAME_BYTES, RECORD_BYTES = 8192, 32_768  # the most we put into one frame (unless one record is larger), the most a client may send in one record
_INVOCATION, _STREAM, _PING, _CLOSE = 1, 4, 6, 7
_JSON = json.JSONEncoder(separators=(",", ":"))
CLOSE, CLOSE_BY_ERROR = {"type": _CLOSE}, {"type": _CLOSE, "error": "Connection closed with an error."}


def record(message: dict) -> str:
    "A message as it goes on the wire."
    return _JSON.encode(message) + RECORD_END


PING = record({"type": _PING})


def cut(transport):
    "Ends a TCP connection by a reset, the way a broken network does."
    if transport is None or transport.is_closing(): return
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Connection:
    "`call(connection, target, arguments, stream)` does what the client invokes; it returns the text of the error or None, and a record to follow the completion or None."

    def __init__(self, hub: str, token: str, ws: web.WebSocketResponse, transport, wall: WallClock, call: Callable):
        self.hub, self.token, self._ws, self._transport, self._wall, self._call = hub, token, ws, transport, wall, call
        self.opened_at = self.sent_at = self.heard_at = wall.monotonic()  # s
        self.ready, self.silent, self.records = False, False, 0           # handshake done; half open; records given to it so far
        self.idle = asyncio.Event()                                       # set while nothing waits to be sent
        self.idle.set()
        self.ending_at = None                                             # s: when its end began
        self._more, self._over, self._queue = asyncio.Event(), asyncio.Event(), deque()

    @property
    def queued(self) -> int: return len(self._queue)

    @property
    def _ending(self) -> bool: return self.ending_at is not None

    @property
    def lost(self) -> bool: return self._transport.is_closing()

    def put(self, text: str):
        "Queue a record; never waits. After the end, and on a half-open connection, it goes nowhere."
        if self.silent or self._ending: return
        self.records += 1
        self._queue.append(text)
        self.idle.clear()
        self._more.set()

    def end(self, last: dict):
        "Send what waits, then this last record, then close the socket."
        self.put(record(last))
        if not self._ending: self.ending_at = self._wall.monotonic()

    def reset(self):
        "TCP reset, at once."
        self.ending_at = self._wall.monotonic()
        self._queue.clear()
        self.idle.set()
        cut(self._transport)
        self._over.set()
        self._more.set()

    def go_silent(self):
        "Half open from now on: the socket stays, nothing is sent or heard any more."
        self.silent = True
        self._queue.clear()
        self.idle.set()

    def tick(self):
        "Once a second: notices that the other side of a half-open connection has gone."
        if self.lost: self._over.set()

    async def serve(self):
        "From the handshake to the end of the connection."
        reader, writer = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if self.silent: await self._over.wait()               # a half-open connection does not even answer a close
            elif self._ending: await asyncio.wait((writer,))      # what waits, and the last record
            for task in (reader, writer):
                if task.done(): task.result()
        finally:
            self.ending_at = self._wall.monotonic()
            self._queue.clear()
            self.idle.set()
            reader.cancel()
            writer.cancel()
            await asyncio.wait((reader, writer))
        if not self._over.is_set(): await self._ws.close()

    async def _write(self):
        "Sends what is queued, many records a frame; ends with the connection."
        try:
            while not (self._ending and not self._queue):
                await self._more.wait()
                self._more.clear()
                while self._queue:
                    await self._ws.send_str(self._frame())
                    self.sent_at = self._wall.monotonic()
                if not self._ending: self.idle.set()
        except ConnectionError: self._over.set()  # the client has gone; the reader ends by itself
        finally: self.idle.set()

    def _frame(self) -> str:
        "The next frame: whole records only."
        parts = [self._queue.popleft()]
        size = len(parts[0])
        while self._queue and (size := size + len(self._queue[0])) <= FRAME_BYTES: parts.append(self._queue.popleft())
        return "".join(parts)

    async def _read(self):
        "Takes records in order, also several in a message or one in several messages, until one side ends the connection."
        rest = ""
        async for message in self._ws:
            if self.silent: continue
            if message.type is WSMsgType.PING: await self._ws.pong(message.data)
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY): continue
            self.heard_at = self._wall.monotonic()
            *whole, rest = (rest + (message.data if message.type is WSMsgType.TEXT else message.data.decode(errors="replace"))).split(RECORD_END)
            for text in whole:
                if self._ending or not self._hear(text): return
            if len(rest) > RECORD_BYTES: return self.end(CLOSE_BY_ERROR)

    def _hear(self, text: str) -> bool:
        "Deals with one record; False: the connection is over."
        try: message = json.loads(text) if len(text) <= RECORD_BYTES else None
        except ValueError: message = None
        if not self.ready: return self._shake_hands(message)
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == _CLOSE: return False
        if kind in (_INVOCATION, _STREAM) and isinstance(message.get("target"), str): self._invoked(message, kind == _STREAM)
        elif not isinstance(kind, int) or kind in (_INVOCATION, _STREAM): self.end(CLOSE_BY_ERROR)
        return not self._ending

    def _shake_hands(self, message) -> bool:
        "Protocol json, version 0 (as some clients say) or 1."
        error = None
        if not isinstance(message, dict) or not isinstance(message.get("version"), int): error = "An unexpected error occurred during connection handshake."
        elif message.get("protocol") != "json": error = f"The protocol '{message.get('protocol')}' is not supported."
        elif message["version"] not in (0, 1): error = f"The server does not support version {message['version']} of the 'json' protocol."
        self.ready = not error
        if error: self.end({"error": error})
        else: self.put(record({}))
        return self.ready

    def _invoked(self, message: dict, stream: bool):
        "Does it, and completes it when the client gave it an id: without one it gets no answer, whatever happens."
        arguments, number = message.get("arguments", []), message.get("invocationId")
        error, after = self._call(self, message["target"], arguments, stream)
        if number is not None: self.put(record({"type": 3, "invocationId": number, "error": error} if error else {"type": 3, "invocationId": number, "result": None}))
        if after: self.put(after)
