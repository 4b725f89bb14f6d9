"""The exceptions, split first by the question a caller has: *can asking again help?*

    CoordinatorError
    ├── Unavailable            nothing happened anywhere; asking again later can help
    │   ├── CircuitOpen          a known outage: refused before any work
    │   ├── DeadlineExceeded     the transaction's own deadline passed; it was rolled back
    │   ├── Overloaded           a bound was reached (slots, pool, queue); slow down
    │   └── Conflict             the database asked for a retry (serialisation failure, deadlock)
    ├── Refused                nothing happened anywhere; the same request will be refused again
    │   ├── InvalidDefinition    the transaction cannot be run as it was asked for
    │   │   └── NothingEnlisted    the block ended without a single branch
    │   ├── ForbiddenStatement   the branch did something that a prepared transaction may not do
    │   ├── KeyReused            the idempotency key belongs to another request
    │   ├── Misconfigured        a server's or our own setting makes the promise impossible
    │   ├── TurnedAway           this call was not let in, which says nothing of an earlier one
    │   │   └── Outdated           somebody with a higher term was there before, and may have done it
    │   ├── VotedNo              a participant refused, for a reason of its own
    │   ├── Unheard              what a saga was sent is heard by nobody: it has ended, or never was
    │   └── Compensated          the saga could not be completed; what it had done was undone
    ├── InDoubt                the outcome is decided or will be, but is not known here yet: never do it again, ask
    │   ├── Parked               it waits for an operator
    │   └── Disconnected         a request was sent and its answer never came
    ├── Heuristic              a branch ended otherwise than was decided; an operator was alerted
    └── Replaced               this process lost its term; another one finishes its transactions

    IllegalTransition          (AssertionError) an event met a status it cannot meet: a bug in this project

Every error carries the *participant* it came from where there is one, and the driver's own error as `__cause__`.
"""

from typing import ClassVar


class CoordinatorError(Exception):
    """Something about a distributed transaction went wrong."""

    def __init__(self, message: str | None = None, *, participant: str | None = None, gid: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.participant = participant
        self.gid = gid


class Unavailable(CoordinatorError):
    """A participant could not be reached in time. Nothing happened anywhere; asking again later can help.

    *retry_after_s*: how long to wait at least, where the participant said so.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        participant: str | None = None,
        gid: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, participant=participant, gid=gid)
        self.retry_after_s = retry_after_s


class CircuitOpen(Unavailable):
    """The participant has failed repeatedly, so the transaction was refused before any work was done."""


class DeadlineExceeded(Unavailable):
    """The transaction's deadline passed before it was decided, so everything was rolled back."""


class Overloaded(Unavailable):
    """A bound of this process or of a server was reached. Nothing was done; slow down and ask again."""


class Conflict(Unavailable):
    """The database could not serialise this transaction with another one. Nothing was done; run the block again."""


class Refused(CoordinatorError):
    """The transaction was refused. Nothing happened anywhere, and the same request will be refused again."""

    of_one_call: ClassVar[bool] = False
    """Whether it is this call alone: an earlier one of the same step of a saga may have done what it is about."""


class InvalidDefinition(Refused):
    """The transaction cannot be run as it was asked for."""

    of_one_call = True


class NothingEnlisted(InvalidDefinition):
    """The block ended without a branch: what was written elsewhere was not part of this transaction."""


class ForbiddenStatement(Refused):
    """The branch used a statement that a prepared transaction may not contain (NOTIFY, temporary tables, ...)."""

    of_one_call = True


class KeyReused(Refused):
    """The idempotency key was used before for a different transaction."""

    of_one_call = True


class Misconfigured(Refused):
    """A setting of a server, or one of ours, makes the promise impossible. `coordinator doctor` names it."""

    of_one_call = True


class TurnedAway(Refused):
    """This call was not let in (credentials, address, size): what it is about was not looked at, and may have happened
    by an earlier one.
    """

    of_one_call = True


class Outdated(TurnedAway):
    """This call came with a lower term than one before it: whoever made that one may have done what this is about."""


class VotedNo(Refused):
    """A participant refused to commit its branch, so everything was rolled back."""

    of_one_call = True


class Unheard(Refused):
    """The saga has ended, or never was: nobody hears what it is sent."""

    of_one_call = True


class Compensated(Refused):
    """The saga could not be completed, and what it had done was undone (where a step says how)."""

    # To a step that runs one, with a key, this is the answer: an earlier call of it began the same saga.


class InDoubt(CoordinatorError):
    """The outcome is not known here yet. Do not run the transaction again: ask for its outcome by its gid."""


class Parked(InDoubt):
    """The transaction holds its branches prepared and waits for an operator."""


class Disconnected(InDoubt):
    """A request was sent, and the connection ended before its answer: it may or may not have been carried out."""


class Heuristic(CoordinatorError):
    """A branch ended otherwise than was decided (an administrator, a failover). It is recorded and was alerted."""


class Replaced(CoordinatorError):
    """This process lost its term: another one owns its transactions now and finishes them."""


class IllegalTransition(AssertionError):
    """An event met a status it cannot meet. The state did not change. This is a bug in the coordinator."""
