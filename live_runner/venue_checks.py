"What has to be true of account and contract before anything is traded, and the bars of the session so far."
import re
from datetime import date, timedelta

import numpy as np

from mesbot.core import SECOND, Instrument

from .feed import Hours
from .gateway.answers import Account, Contract
from .problems import FixTheConfig
from .recorder import find_contract

LEFT_DAYS = 3              # a contract that expires sooner is not begun with
MOST_BARS = 20_000         # that one question brings
MONTHS = "FGHJKMNQUVXZ"    # January to December
DAY_NS = 86_400 * SECOND


async def find_account(
    gateway,             # a started `Gateway`
    name: str,           # of the account
    simulated_only: bool, # False: real money may be traded
) -> Account:
    "The account of this name; FixTheConfig when there is none, it may not trade, or it is not simulated and that was not asked for."
    accounts = await gateway.accounts(only_active=False)
    found = next((account for account in accounts if account.name == name), None)
    if found is None: raise FixTheConfig(f"there is no account {name!r}; there are {', '.join(account.name for account in accounts) or 'none'}")
    if not found.can_trade: raise FixTheConfig(f"account {name} may not trade: the firm has locked it")
    if simulated_only and not found.simulated: raise FixTheConfig(f"account {name} is not simulated{', as far as the venue says' * (found.simulated is None)}; say --real-money if that is meant")
    return found


async def find_front_month(
    gateway,                # a started `Gateway`
    instrument: Instrument, # what the settings are for
    now: int,               # ns UTC
) -> Contract:
    "The contract to trade; FixTheConfig when it is not the one that the settings are for, is not active, or expires within three days."
    try: found = await gateway.contract(await find_contract(gateway, instrument.symbol))
    except ValueError as error: raise FixTheConfig(str(error)) from None
    for what, theirs, ours in (("tick size", found.tick, instrument.tick), ("tick value", found.tick_usd, instrument.tick_usd)):
        if abs(theirs - ours) > 1e-9: raise FixTheConfig(f"{found.id} has a {what} of {theirs:g}, {instrument.symbol} has {ours:g}: it is not what the settings are for")
    if not found.active: raise FixTheConfig(f"{found.id} is not active any more")
    day, end = (np.datetime64(now // DAY_NS, "D").item()), expiry(found.id, instrument)
    if end and end - day <= timedelta(days=LEFT_DAYS): raise FixTheConfig(f"{found.id} expires on {end}, within {LEFT_DAYS} days: the next one is to be traded")
    return found


def expiry(
    contract: str, # id: CON.F.US.MES.Z26
    instrument: Instrument,
) -> date | None: # None: the id does not say
    "When a contract ends: the third Friday of its month, or, for what is delivered, before its month begins."
    match = re.fullmatch(rf".*\.([{MONTHS}])(\d\d)", contract)
    if not match: return None
    first = date(2000 + int(match[2]), MONTHS.index(match[1]) + 1, 1)
    if instrument.hours == "cme_metals": return first - timedelta(days=1)
    return first + timedelta(days=(4 - first.weekday()) % 7 + 14)


async def session_bars(
    gateway,                # a started `Gateway`
    contract: str,          # its id
    instrument: Instrument,
    until: int,             # ns UTC, a whole second: bars that are over by then
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: # ts (n,) int64, prices (n, 4) int32 ticks, volume (n,) int64
    "The bars so far of the session in progress, as history has them; none while the market is closed. FixTheConfig for prices that are not on the tick grid."
    session, candles = Hours(instrument.hours).session(until), {}
    begin = int(session["open"]) if session is not None else until
    for start in range(begin, until, MOST_BARS * SECOND):
        for candle in await gateway.bars(contract, start, min(start + MOST_BARS * SECOND, until)): candles[candle.ts] = candle
    rows = [candles[ts] for ts in sorted(candles) if begin <= ts <= until - SECOND and candles[ts].volume > 0]
    try: prices = instrument.to_ticks(np.array([(c.o, c.h, c.l, c.c) for c in rows]).reshape(-1, 4))
    except ValueError as error: raise FixTheConfig(f"the history of {contract}: {error}") from None
    return np.array([c.ts for c in rows], np.int64), prices.astype(np.int32), np.array([c.volume for c in rows], np.int64)
