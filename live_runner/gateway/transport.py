"""signalrcore 1.0.2 as a plain transport: its WebSocket, and nothing of its reconnecting, its states or its stop(), which lose connections for good.

One connection, used once. A thread of ours connects and sends, signalrcore's thread reads; neither is ever waited for by the caller."""
import json
import logging
import queue
import re
import socket
import ssl
import threading
from collections.abc import Callable
from urllib.parse import quote, urlsplit

from signalrcore.helpers import Helpers
from signalrcore.transport.sockets.errors import NoHeaderException, SocketClosedError
from signalrcore.transport.websockets.websocket_client import WebSocketClient

from ..protocol import RECORD_END

CONNECT_S = 10.0  # s; each step of connecting may take so long
TEXT, PING, PONG = 0x1, 0x9, 0xA  # kinds of WebSocket frames
HANDSHAKE = {"protocol": "json", "version": 1}
END = RECORD_END.encode()
NO_MORE = (NoHeaderException, SocketClosedError)  # how signalrcore says that the other side closed


class _Socket(WebSocketClient):
    "signalrcore's WebSocket with three repairs: connecting has a limit, only a true 101 is a yes, and control frames are no text."
    sock = None

    def __init__(self, **kwargs):
        super().__init__(is_binary=True, **kwargs)
        self.success_status_code = b"HTTP/1.1 101"
        self.pong: Callable[[bytes], None] = lambda payload: None

    def create_socket(self) -> socket.socket:
        parts = urlsplit(self.url)
        sock = socket.create_connection((parts.hostname, Helpers.get_port(parts)), CONNECT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.ssl_context.wrap_socket(sock, server_hostname=parts.hostname) if self.ssl_context else sock

    def _read_one_frame(self) -> tuple[bool, int, bytes]:
        while True:
            last, kind, payload = super()._read_one_frame()
            if kind == PING: self.pong(payload)
            elif kind != PONG: return last, kind, payload


class SignalRTransport:
    "One connection to a hub. All callbacks come from other threads, in the order of what happened; after `stop` the hub must ignore those still on their way."

    def __init__(self,
        url: str,                                         # https:// or http:// (wss:// and ws:// as well) of the hub, without the token
        token: str,                                       # goes into the query, where it is documented, and into the header
        on_message: Callable[[list], None],               # the records of one frame in order: dicts, and text for what is no JSON object
        on_open: Callable[[], None],                      # the handshake is done
        on_close: Callable[[str, int | None], None],      # why, and the HTTP status where the upgrade was refused; at most once
        on_ping: Callable[[], None],                      # the server shows that it lives
    ):
        logging.getLogger("SignalRCoreClient").setLevel(logging.WARNING)  # below that it prints what it sends
        self._on_message, self._on_open, self._on_close, self._on_ping = on_message, on_open, on_close, on_ping
        secure = urlsplit(url).scheme in ("https", "wss")
        self._client = _Socket(url=f"{url}{'&' if '?' in url else '?'}access_token={quote(token, safe='')}", headers={"Authorization": f"Bearer {token}"},
                               ssl_context=ssl.create_default_context() if secure else None,
                               on_open=self._opened, on_message=self._received, on_error=self._failed, on_close=lambda: self._over("the server closed the connection"))
        self._client.pong = lambda payload: self._outbox.put((payload, PONG))
        self._outbox = queue.SimpleQueue()  # frames to send; None ends the connection
        self._lock, self._ended, self._greeted, self._rest = threading.Lock(), False, False, b""

    def start(self) -> None:
        "Begins to connect and returns at once."
        threading.Thread(target=self._run, name="mesbot hub", daemon=True).start()

    def send(self, record: dict) -> None:
        "Sends a record as soon as it can; never waits."
        self._outbox.put((json.dumps(record, separators=(",", ":")).encode() + END, TEXT))

    def stop(self) -> None:
        "Ends the connection; never waits, whatever the server does. `on_close` is not called any more."
        with self._lock: self._ended = True
        self._outbox.put(None)
        self._cut()

    def _run(self) -> None:
        "Connects, sends until it is over, closes. The thread that opened the socket closes it: nobody else may read another one's socket by its number."
        try:
            self._client.connect()
            if self._ended: self._cut()
            while (frame := self._outbox.get()) is not None: self._client.send(*frame)
        except Exception as error:  # whatever it is, the connection is over, and the supervisor is told why
            self._failed(error)
        self._cut()
        if self._client.recv_thread: self._client.recv_thread.join()
        if self._client.sock: self._client.sock.close()

    def _cut(self) -> None:
        "Wakes whoever reads or writes the socket. signalrcore's own stop() closes it without this and then waits for the server."
        try:
            if self._client.sock: self._client.sock.shutdown(socket.SHUT_RDWR)
        except OSError: return  # it is down already

    def _opened(self) -> None:
        self._client.sock.settimeout(None)  # the supervisor watches for silence
        self.send(HANDSHAKE)

    def _received(self, _, frame: bytes) -> None:
        "One WebSocket message: it may hold several records, and a record may span messages."
        *records, self._rest = (self._rest + frame).split(END)
        if records and not self._greeted: self._greet(records.pop(0))
        message = []
        for record in map(_decoded, records):
            if isinstance(record, dict) and record.get("type") == 6: self._on_ping()
            else: message.append(record)
        if message: self._on_message(message)

    def _greet(self, record: bytes) -> None:
        "The server's answer to our handshake; an error in it ends the connection."
        answer = _decoded(record)
        if not isinstance(answer, dict) or answer.get("error"): raise ConnectionError(f"the server refused the handshake: {record.decode(errors='replace')[:200]}")
        self._greeted = True
        self._on_open()

    def _failed(self, error: Exception) -> None:
        status = re.search(r"HTTP/1\.\d (\d{3})", str(error))  # signalrcore puts the whole answer into its error
        if isinstance(error, NO_MORE): self._over("the server closed the connection")
        elif status: self._over(f"the server answered HTTP {status[1]}", int(status[1]))
        else: self._over(f"{type(error).__name__}: {error}")

    def _over(self, why: str, status: int | None = None) -> None:
        with self._lock: first, self._ended = not self._ended, True
        self._outbox.put(None)
        if first: self._on_close(why, status)


def _decoded(record: bytes) -> dict | str:
    "A record as JSON object, or as text where it is none."
    try: value = json.loads(record)
    except (ValueError, RecursionError): value = None
    return value if isinstance(value, dict) else record.decode(errors="replace")
