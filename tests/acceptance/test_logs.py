"LIV-1: no secret is in any log, at any level, in whatever text it stands."
import asyncio
import io
import json
import logging
import sys
import warnings
from urllib.parse import quote

import aiohttp
import pytest
import structlog
from aiohttp import web
from pydantic import SecretStr
from test_gateway_rest import ENTRY, LOGIN, MES_ID, PASSING, PLACE, VALIDATE, a_jwt, drive, says

from live_runner import logs
from live_runner.problems import Problem

KEY, OPAQUE = "k3y-of-the-house", "0paque+token/of=the house"
JWT = a_jwt(1000, 1_700_000_000 * 10**9)


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def no_secret(text: str) -> bool:
    "The grep: no key, no token, nor a good part of one."
    parts = [KEY, OPAQUE, quote(OPAQUE, safe=""), JWT, JWT.split(".")[1], JWT[:30]]
    return not any(part in text for part in parts)


HIDDEN = [
    {"token": JWT}, {"apiKey": KEY}, {"api_key": SecretStr(KEY)}, {"newToken": OPAQUE}, {"Authorization": f"Bearer {OPAQUE}"}, {"password": "hunter22"}, {"access_token": OPAQUE},
    {"body": {"userName": "me", "apiKey": "hunter22", "deep": [{"password": "hunter22"}]}}, {"url": "wss://host/hubs/user?id=1&access_token=hunter22"}, {"headers": [("Authorization", f"Bearer {JWT}")]},
    {"text": f"got {JWT} back"}, {"text": "{'apiKey': 'hunter22'}"}, {"text": '{"token":"hunter22"}'}, {"text": '{"token":"hunter22'}, {"text": json.dumps(json.dumps({"newToken": "hunter22"}))},
    {"text": "Authorization: Bearer hunter22"}, {"text": "password=hunter22&x=1"}, {"raw": f"cut {JWT[:25]}"}, {"bytes": b'{"apiKey": "hunter22"}'}, {"settings": {1: (KEY, {KEY})}}, {KEY: 1},
    {"object": ValueError(f"bad url https://x/?access_token={quote(OPAQUE)}")}, {"text": quote(OPAQUE, safe="")}, {"text": repr({"k": OPAQUE})}, {"text": f"x{KEY}y"},
]


@pytest.mark.parametrize("fields", HIDDEN)
def test_a_secret_is_taken_out_of_every_field_and_text(fields, written):
    "LIV-1: by the name of the field, by its look, and because it was registered; in the event, in fields, bound and deep inside."
    logs.hide(KEY)
    logs.hide(SecretStr(OPAQUE))
    log = logs.logger("live_runner.x")
    log.debug("look", **{str(k): v for k, v in fields.items()})
    log.bind(outer=fields).info(f"look {fields}")
    structlog.get_logger("any").warning("look", fields=fields)
    logging.getLogger("aiohttp.client").error("look %s and %r", fields, fields)
    logging.getLogger("SignalRCoreClient").debug(json.dumps(fields, default=str))
    out = written.getvalue()
    assert len(lines(written)) == 5 and logs.STARS in out
    assert no_secret(out) and "hunter22" not in out
    assert "hunter22" not in str(logs.redact(fields)) and no_secret(str(logs.redact(fields)))


def test_what_is_no_secret_stays(written):
    "A log that hides everything serves nobody."
    said = {"tag": "mb-20261120-0007", "price": 6000.25, "order_id": 123456789012, "tokens": 5, "contract": MES_ID, "path": "/api/Order/place", "logger_name": "live_runner.gateway.rest", "none": None,
            "why": "token refresh failed: the old one goes on", "key": "limit", "word": "keyboard_interruption", "list": [1, 2.5, True]}
    logs.logger("live_runner.y").info("order sent", **said)
    line, = lines(written)
    assert {name: line[name] for name in said} == said | {"why": line["why"]}
    assert line["event"] == "order sent" and line["level"] == "info" and line["logger"] == "live_runner.y" and line["at"].endswith("Z")
    assert logs.redact("token refresh failed, the old one goes on") == "token refresh failed, the old one goes on"


def test_exceptions_and_tracebacks_are_clean(written):
    "LIV-1: also those with a URL in them, chained, from tasks nobody awaited, and the one that ends the process."
    logs.hide(OPAQUE)
    def fails():
        try: raise aiohttp.InvalidURL(f"http://x/hubs/user?access_token={JWT}")
        except aiohttp.InvalidURL as error: raise RuntimeError(f"with {OPAQUE} and Bearer hunter22") from error
    try: fails()
    except RuntimeError as error:
        logs.logger("live_runner.z").exception("it broke")
        logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=error)
        sys.excepthook(type(error), error, error.__traceback__)
    async def forgotten():
        asyncio.get_running_loop().call_exception_handler({"message": f"late {JWT}", "exception": RuntimeError(OPAQUE)})
    asyncio.run(forgotten())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"token={OPAQUE}", stacklevel=1)
    out = written.getvalue()
    assert no_secret(out) and "hunter22" not in out and out.count("RuntimeError") >= 4 and "in fails" in out
    assert {"it broke", "Task exception was never retrieved", "ended by an error"} <= {line["event"] for line in lines(written)}


def test_a_line_that_cannot_be_written_does_not_print_what_it_held(written, capsys):
    lib = logging.Logger("lib")  # not below the root, where pytest listens too
    lib.addHandler(logging.getLogger().handlers[0])
    lib.warning("two %s %s", JWT)
    assert lines(written)[0]["event"] == "a log line could not be written" and lines(written)[0]["logger"] == "lib"
    assert no_secret(written.getvalue() + "".join(capsys.readouterr()))


def test_without_configure_nothing_leaks_either(capfd):
    "A library user who never set up logging sees warnings on stderr, redacted."
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try: logs.logger("live_runner.unset").warning("look", token=JWT, text=f"x {JWT}")
    finally: root.handlers = handlers
    out = "".join(capfd.readouterr())
    assert "look" in out and no_secret(out)


def test_a_file_takes_the_lines_and_is_added_to(tmp_path, written):
    for name in ("one", "two"):
        logs.configure(tmp_path / "log.jsonl")
        logs.logger("live_runner").info(name)
        logs.logger("live_runner").debug("too fine")
    assert [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == ["one", "two"] and not written.getvalue()
    with pytest.raises(ValueError, match="level must be one of DEBUG, INFO, WARNING, ERROR, got 'LOUD'"): logs.configure(level="LOUD")


def test_a_full_debug_run_of_the_client_holds_no_secret(written, capfd):
    "LIV-1: log-in, refresh, every failure, a server that repeats our secrets back at us, asyncio in debug mode: grep finds nothing."
    async def body(gateway, server):
        asyncio.get_running_loop().set_debug(True)
        async def echo(request): return web.Response(status=500, text=f"<html>{dict(request.headers)} {await request.text()}")
        async def echo_json(request): return web.json_response({"title": f"bad {dict(request.headers)}", "errors": {"apiKey": [KEY], "token": OPAQUE}}, status=400)
        tokens = []
        server.plans[LOGIN] = [echo, echo, says(200, '{"success": true, "token": "' + OPAQUE), says(success=True, errorCode=0, token=OPAQUE)]
        for step in ([], [echo], [echo_json], [says(success=False, errorCode=2, errorMessage=f"token {JWT} of {KEY}")], *([step] for name, step in PASSING.items() if name != "time-out")):
            for path, call in ((PLACE, gateway.place(ENTRY)), ("/api/Position/searchOpen", gateway.positions(3)), (VALIDATE, gateway.token())):
                server.plans[path] = list(step)
                gateway.tokens.refresh_at = 0 if path == VALIDATE else 2**63
                try: logs.logger("live_runner.test").debug("got", result=await call)
                except Problem as problem: logs.logger("live_runner.test").error(str(problem), exc_info=problem)
                tokens.append(gateway.tokens.token)
        server.plans[LOGIN] = [echo_json]
        try: await gateway.token(force=True)
        except Problem as problem: logs.logger("live_runner.test").error("end", exc_info=problem)
        gateway.wire.url = f"http://127.0.0.1:9/?access_token={OPAQUE}"
        logs.logger("live_runner.test").info("no server", outcome=await gateway.cancel(3, 7), settings=gateway.settings, gateway=vars(gateway.tokens))
        return set(tokens)
    tokens = drive(body)
    out = written.getvalue() + "".join(capfd.readouterr())
    assert len(tokens) > 3 and OPAQUE in tokens and not [token for token in tokens if token in out]
    assert no_secret(out) and "of-the-house" not in out
    requests = [line for line in lines(written) if line["event"] == "request"]
    assert len(requests) > 40 and all({"path", "ms", "http", "code", "slot_ms", "tag"} <= set(line) for line in requests)
    assert {line["tag"] for line in requests if line["path"] == PLACE} == {"a"}


def test_a_log_that_cannot_be_written_stops_nobody(own_logging):
    "A stream that was closed under us: no exception comes out of a line of log."
    stream = io.StringIO()
    logs.configure(stream, "INFO")
    stream.close()
    logs.logger("live_runner").warning("heard by nobody")


def test_lines_that_can_wait_come_a_moment_later_in_their_order_and_none_is_forgotten(written):
    later, events = logs.Later(logs.logger("x")), lambda: [line["event"] for line in lines(written) if line["logger"] == "x"]
    async def one_after_the_other():
        for k in range(3): later.info(f"{k}", number=k)
        assert events() == []
        await asyncio.sleep(logs.LATER_S * 2)
        assert events() == ["0", "1", "2"]
        later.info("3")
        await asyncio.sleep(logs.LATER_S * 2)
        later.info("4")
    asyncio.run(one_after_the_other())
    assert events() == ["0", "1", "2", "3"]
    later.write()
    assert events() == ["0", "1", "2", "3", "4"] and [line["number"] for line in lines(written) if "number" in line] == [0, 1, 2]
