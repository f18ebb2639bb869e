"A journal once more: the same core, the same events, and every command must come out again, bit for bit and in order."
import tomllib
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from mesbot.config import load_config, to_toml

from .journal_file import JournalReader
from .messages import same, to_json
from .settings import RunnerSettings


class Replayed(NamedTuple):
    "What came of it."
    events: int                  # given to the core
    commands: int                # of the journal that came out again
    first_difference: str | None # None: none at all


def facts_of(
    setup, # `core.Setup`
    **more, # what else there is to say: hashes of code and model, at_ns, snapshot
) -> dict: # for `Journal.begin`
    "All that a replay needs of a run. Where alerts go stays out of it: that may hold a secret, and decides nothing."
    own = {"config": to_toml(setup.config), "settings": setup.settings.model_dump(mode="json", exclude={"alerts", "ping_url"})}
    return {name: getattr(setup, name) for name in ("symbol", "account", "contract", "prefix", "mode")} | own | more


def setup_of(
    facts: dict, # of `facts_of`
    make: Callable, # `core.Setup`
):
    "The same setup; the environment has no say in it."
    named = {name: facts[name] for name in ("symbol", "account", "contract", "prefix", "mode")}
    return make(config=load_config(**tomllib.loads(facts["config"])), settings=RunnerSettings(**facts["settings"]), **named)


def replay(
    path: Path,               # of the journal, in use or not
    load_predictor: Callable, # facts of the run -> the predictor it had
    run: int | None = None,   # its number; the newest when None. ValueError for one that is not there
    core=None,                # what has `Core` and `Setup`; live_runner.core when None
) -> Replayed:
    "A run again from the snapshot it began with. ValueError or KeyError where its facts are not those of a runner; CallAHuman for a damaged journal."
    if core is None: from . import core
    with closing(JournalReader(path)) as journal:
        runs = {found["number"]: found for found in journal.runs()}
        if not runs: raise ValueError(f"{path} has no run")
        number = max(runs) if run is None else run
        rows, lost = journal.rows(number), journal.lost(number) # ValueError for a run that is not there
        facts, ended = runs[number]["facts"], runs[number]["ended"]
        engine = core.Core(setup_of(facts, core.Setup), load_predictor(facts), facts["snapshot"])
        found = _compared(engine, rows, journal.newest_of(number), ended)
        if lost: return found._replace(first_difference=f"{lost} messages were never stored, the disk took nothing; {found.first_difference or 'those that were are equal'}")
        return found


def _compared(engine, rows, snapshot: tuple | None, ended: str) -> Replayed:
    "Event by event until something differs."
    wanted, events, commands = deque(), 0, 0
    def at(text): return Replayed(events, commands, f"event {events}: {text}")
    def astray(): return snapshot and snapshot[0] == events + commands and engine.snapshot() != snapshot[1]
    for kind, message in rows:
        if kind == "command":
            again = wanted.popleft() if wanted else None
            if again is None or not same(again, message): return at(f"the journal has {_short(message)}, the replay {_short(again)}")
            commands += 1
            continue
        if wanted: return at(f"the journal has no more commands, the replay {_short(wanted[0])}")
        if astray(): return at("the commands are equal, the snapshot is not")
        events += 1
        try: wanted = deque(engine.step(message))
        except Exception as error: # whatever the core could raise then it raises again
            if ended.startswith("crashed") and next(rows, None) is None: return Replayed(events, commands, None)
            return at(f"the core raised {error!r} on {_short(message)}")
    if wanted: return at(f"the journal has no more commands, the replay {_short(wanted[0])}")
    return at("the commands are equal, the snapshot is not") if astray() else Replayed(events, commands, None)


def _short(message) -> str:
    "At most a line of it."
    return "nothing" if message is None else to_json(message)[:300]
