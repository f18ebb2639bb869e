"What can go wrong, named by what the operator does about it."


class Problem(Exception):
    "Something an operator has to know; the text is one line."


class RetryLater(Problem):
    "The other side is away or busy: nothing to do but wait."


class CallAHuman(Problem):
    "A person has to look before anything goes on."


class FixTheConfig(Problem):
    "The settings are wrong; they are named in the text."
