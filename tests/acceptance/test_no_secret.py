"LIV-1: a whole day's trouble of client and simulated gateway in one process, everything logged at DEBUG, and grep finds neither key nor token nor secret."
import asyncio
import json

from gateway_world import market, world
from pydantic import SecretStr

SECRET = "the-secret-that-signs-tokens"
TROUBLE = [{"fault": name, "count": 1, "path": "/api/Order/place"} for name in ("unauthorized", "too_many", "error_before", "error_after", "cut_before", "cut_after", "html_body", "bad_json")]


def test_nothing_secret_is_logged(written, capfd):
    async def story():
        asyncio.get_running_loop().set_debug(True)
        async with world(server={"secret": SecretStr(SECRET), "expiry_closes": True}) as w:
            issued, issue = [], w.server.tokens.issue
            w.server.tokens.issue = lambda: issued.append(issue()) or issued[-1]
            own = await w.gateway.token()
            await w.until(1)
            w.faults.add(TROUBLE)
            outcomes = [type(await w.gateway.place(market())).__name__ for _ in range(len(TROUBLE) + 1)]
            for hub in w.hubs.values(): generation = hub.generation
            for how in ("logout", "reset"):
                w.server.emit.break_up(how, tuple(w.server.emit.connections))
                while not all(hub.generation > generation and hub.state == "connected" for hub in w.hubs.values()): await asyncio.sleep(.02)
                generation = max(hub.generation for hub in w.hubs.values())
            w.server.tokens.expire()
            await w.gateway.accounts()
            await w.raw("/api/Auth/loginKey", {"userName": w.urls.username, "apiKey": "wrong-key-of-somebody"})
            return [own, *issued], w.urls.api_key, outcomes
    tokens, key, outcomes = asyncio.run(asyncio.wait_for(story(), 120))
    assert outcomes[-1] == "Accepted" and {"Unknown", "TurnedAway"} <= set(outcomes)
    out = written.getvalue() + "".join(capfd.readouterr())
    seen = {json.loads(line)["event"] for line in written.getvalue().splitlines()}
    assert len(set(tokens)) >= 3 and {"request", "hub opened", "connection ended"} <= seen and len(out) > 10_000
    assert [secret for secret in (*tokens, *(t.split(".")[1] for t in tokens), key, SECRET, "wrong-key-of-somebody") if secret in out] == []
