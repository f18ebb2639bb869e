"How many hub connections this process may hold: the venue kicks clients that hold more than two."
from ..problems import FixTheConfig


class HubSessions:
    "Counts open hubs; one object a process, `HubSessions.shared`. A hub keeps its place through every rebuild."

    def __init__(self,
        limit: int = 2, # hubs open at once
    ):
        self._limit, self._names = limit, []

    def open(self, name: str) -> None:
        "Takes a place; FixTheConfig when none is left. Comes before any socket."
        if len(self._names) >= self._limit:
            raise FixTheConfig(f"at most {self._limit} hub sessions may be open, and {' and '.join(self._names)} are: stop one before {name} is started")
        self._names.append(name)

    def close(self, name: str) -> None:
        "Gives the place back; ValueError when no hub of that name is open."
        if name not in self._names: raise ValueError(f"hub session {name!r} is not open; open are {self._names}")
        self._names.remove(name)


HubSessions.shared = HubSessions()
