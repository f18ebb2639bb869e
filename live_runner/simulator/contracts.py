"What is listed: the contracts of the gateway's futures, as they stand on one trade date."
import re
from datetime import date
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mesbot.calendar import as_date
from mesbot.core import INSTRUMENTS, instrument
from mesbot.rolls import contract_months, front_contracts

MOST = 20                    # contracts a search brings at most
LETTERS = "FGHJKMNQUVXZ"     # January to December
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
CRUDE_ROLL_DAY = 18          # crude oil of the next month goes out of use about here
ID = re.compile(rf"CON\.F\.US\.([A-Z0-9]+)\.([{LETTERS}])(\d\d)")
ROLLED = ("MES", "ES", "MNQ", "M2K", "GC")  # whose months `mesbot.rolls` knows


class Product(NamedTuple):
    "One future."
    symbol: str       # as its contracts are called: MES
    root: str         # as the gateway calls it: F.US.<root>
    name: str
    tick: float       # points
    tick_usd: float   # of one contract
    rolls_as: str     # symbol of `mesbot.rolls` whose months it has; "" = one each month


def _product(symbol: str, root: str = "", like: str = "", times: float = 1.0, name: str = "") -> Product:
    "A product in the terms of one that mesbot knows; without months of its own it has those of MES."
    known = instrument(like or symbol)
    rolls_as = known.symbol if known.symbol in ROLLED else "MES"
    return Product(symbol, root or re.sub(r"\W", "", symbol), name or known.name, known.tick, known.tick_usd * times, rolls_as)


LISTED = (_product("MES"), _product("ES", "EP"), _product("MNQ"), _product("NQ", "ENQ", "MNQ", 10, "E-mini Nasdaq-100"), _product("M2K"),
          _product("RTY", like="M2K", times=10, name="E-mini Russell 2000"), Product("MCL", "MCLE", "Micro Crude Oil", 0.01, 1.0, ""), _product("GC", "GCE"),
          _product("MGC", like="GC", times=0.1, name="Micro Gold"))


def product(
    symbol: str, # a listed one, or another key of `core.INSTRUMENTS`
) -> Product:
    "What is traded under a symbol; ValueError for an unknown one."
    return next((p for p in LISTED if p.symbol == symbol), None) or _product(symbol)


def symbol_of(
    contract: str, # id
) -> str: # a key of `core.INSTRUMENTS`
    "Which instrument a contract is one of; ValueError for one that mesbot does not know."
    match = ID.fullmatch(contract)
    found = match and next((s for s in INSTRUMENTS if product(s).root == match[1]), None)
    if not found: raise ValueError(f"contract must look like CON.F.US.MES.Z26 and be one of {', '.join(INSTRUMENTS)}, got {contract!r}")
    return found


def front_month(
    product: Product,
    day: date | str | np.datetime64, # trade date
) -> tuple[int, int]: # year and month of the contract to hold
    "The front month on a trade date; ValueError for a year whose holidays are not known."
    day = as_date(day)
    when = day.item()
    if not product.rolls_as:
        ahead = when.year * 12 + when.month - 1 + (1 if when.day < CRUDE_ROLL_DAY else 2)
        return ahead // 12, ahead % 12 + 1
    code = str(front_contracts(np.array([day]), product.rolls_as, "monday")[0])
    return when.year + (int(code[-1]) - when.year) % 10, LETTERS.index(code[-2]) + 1


def contract_id(product: Product, year: int, month: int) -> str:
    "CON.F.US.MES.Z26"
    return f"CON.F.US.{product.root}.{LETTERS[month - 1]}{year % 100:02}"


class Contracts:
    "The catalogue on one trade date; it also has the tape's symbol where the gateway does not list it."

    def __init__(self,
        symbol: str = "MES",                            # what the tape trades
        day: date | str | np.datetime64 = "2026-11-20", # trade date on which the tape begins
        held: str = "",                                 # id of the contract the tape trades; "" = the front month of that date
    ):
        self.held = held
        self.day, self.traded = as_date(day), product(symbol)
        self.products = LISTED if self.traded in LISTED else (*LISTED, self.traded)
        self._known = {}

    @cached_property
    def fronts(self) -> dict: # root -> (year, month)
        fronts = {p.root: front_month(p, self.day) for p in self.products}
        if self.held: fronts[self.traded.root] = self._month(self.held)
        return fronts

    @cached_property
    def contract_id(self) -> str:
        "The contract that the tape trades, from its first trade date to its end."
        return contract_id(self.traded, *self.fronts[self.traded.root])

    def _row(self, product: Product, year: int, month: int) -> dict:
        letter = LETTERS[month - 1]
        return {"id": contract_id(product, year, month), "name": f"{product.symbol}{letter}{year % 10}", "description": f"{product.name}: {MONTHS[month - 1]} {year}",
                "tickSize": product.tick, "tickValue": round(product.tick_usd, 9), "activeContract": (year, month) >= self.fronts[product.root], "symbolId": f"F.US.{product.root}"}

    def search_by_id(self, contract: str) -> dict | None:
        "Any contract of the catalogue, from five years back to two ahead, expired ones too; None for anything else."
        if contract not in self._known: self._known[contract] = self._find(contract)
        return self._known[contract]

    def _month(self, contract: str) -> tuple[int, int]: # year and month
        "What the end of a contract's id says, from five years back on."
        _, letter, year = ID.fullmatch(contract).groups()
        oldest = self.day.item().year - 5
        return oldest + (int(year) - oldest) % 100, LETTERS.index(letter) + 1

    def _find(self, contract: str) -> dict | None:
        match = ID.fullmatch(contract)
        found = match and next((p for p in self.products if p.root == match[1]), None)
        if not found: return None
        year, month = self._month(contract)
        if year > self.day.item().year + 2 or found.rolls_as and month not in contract_months(found.rolls_as): return None
        return self._row(found, year, month)

    def available(self, live: bool = False) -> list:
        "The front month of every product; nothing for live data, which the simulator does not have."
        return [] if live else [self._row(p, *self.fronts[p.root]) for p in self.products]

    def search(self,
        text: str = "",     # found anywhere in name, id or description: "NQ" also brings MNQ
        live: bool = False,
    ) -> list: # 20 at most, front months only
        "Contracts by a loose match."
        wanted = text.strip().lower()
        return [row for row in self.available(live) if any(wanted in row[key].lower() for key in ("name", "id", "description"))][:MOST]
