"""Owners, transactional ids and alerts in PostgreSQL: small tables beside the decisions."""

import logging
from collections.abc import Callable, Sequence

from coordinator.alerts import refuse_anonymous
from coordinator.errors import Replaced
from coordinator.faults.points import boundary
from coordinator.journal.postgres import SQL, PostgresJournal
from coordinator.ports import Alert, AlertKind, Lease
from coordinator.protocol.model import Gid

logger = logging.getLogger(__name__)


class PostgresOwners:
    """`ports.Owners` beside a journal, which writes its decisions under the lease that is held here."""

    def __init__(self, journal: PostgresJournal, *, owner_id: str, lease_s: float) -> None:
        self._journal = journal
        self._owner_id = owner_id
        self._lease_s = lease_s
        self._registrations = 0

    async def register(self) -> Lease:
        """Become an owner under a new id."""
        self._registrations += 1
        owner = f"{self._owner_id}-{self._registrations}"
        term = await boundary(
            "owner.register",
            lambda: self._journal.owning.run(lambda c: c.fetchval(SQL["register"], owner, self._lease_s)),
        )
        return self._hold(Lease(owner=owner, term=term, seconds=self._lease_s))

    async def renew(self, lease: Lease) -> Lease:
        """Prolong *lease*. Raises `Replaced` where its term has been bumped."""
        term = await boundary(
            "owner.renew",
            lambda: self._journal.owning.run(
                lambda c: c.fetchval(SQL["renew"], lease.owner, lease.term, self._lease_s)
            ),
        )
        if term is None:
            self._journal.lease = None  # Nothing is claimed or decided under it any more.
            raise Replaced(f"owner {lease.owner} has lost its term {lease.term}")
        return self._hold(lease)

    async def resign(self, lease: Lease) -> None:
        """End *lease* now."""
        self._journal.lease = None
        await self._journal.owning.run(lambda c: c.execute(SQL["resign"], lease.owner, lease.term))

    async def take_over(self, lease: Lease) -> Sequence[str]:
        """Bump the terms of expired owners; all that this process has taken over and not buried yet."""
        await boundary(
            "owner.take_over",
            lambda: self._journal.forced.run(lambda c: c.execute(SQL["take_over"], lease.owner)),
        )
        rows = await self._journal.questions.run(lambda c: c.fetch(SQL["taken"], lease.owner))
        return [row["owner"] for row in rows]

    async def buried(self, owner: str) -> None:
        """Forget *owner*, unless something of it is left after all."""
        await self._journal.questions.run(lambda c: c.execute(SQL["bury"], owner))

    def _hold(self, lease: Lease) -> Lease:
        self._journal.lease = lease
        return lease


class PostgresTransactionalIds:
    """`ports.TransactionalIds` beside a journal."""

    def __init__(self, journal: PostgresJournal, *, prefix: str) -> None:
        self._journal = journal
        self._prefix = prefix

    async def claim(self, cluster: str, count: int) -> Sequence[str]:
        """Make *count* new ids, durable as this process' own."""
        lease = self._journal.lease
        if lease is None:
            raise Replaced("this process is no owner, so it can own no transactional id")
        rows = await self._journal.forced.run(
            lambda c: c.fetch(SQL["claim_ids"], cluster, self._prefix, lease.owner, count, lease.term)
        )
        if not rows:
            raise Replaced(f"owner {lease.owner} has lost its term {lease.term}, and can own no new id")
        return [row["transactional_id"] for row in rows]

    async def of(self, owner: str) -> Sequence[tuple[str, str]]:
        """The (cluster, transactional id) pairs of *owner*."""
        rows = await self._journal.questions.run(lambda c: c.fetch(SQL["ids_of"], owner))
        return [(row["cluster"], row["transactional_id"]) for row in rows]

    async def release(self, cluster: str, transactional_id: str) -> None:
        """Forget an id on which nothing is open."""
        await self._journal.questions.run(lambda c: c.execute(SQL["release_id"], cluster, transactional_id))


class PostgresAlerts:
    """`ports.Alerts`: one row, and one line at ERROR, per transaction and kind, whichever process saw it first."""

    def __init__(self, journal: PostgresJournal) -> None:
        self._journal = journal
        self.raised: Callable[[str], None] | None = None
        """Who is told the kind of each."""

    async def raise_alert(self, gid: Gid, kind: AlertKind, detail: str, *, under: Lease | None = None) -> None:
        """Raise it, unless it was raised before. See `ports.Alerts`."""
        arguments = (gid, kind, detail, *_term(under))
        first = await self._journal.questions.run(lambda c: c.fetchval(SQL["raise_alert"], *arguments))
        if first is not None:
            logger.error("ALERT %s: transaction %s: %s", kind, gid, detail)
            if self.raised is not None:
                self.raised(kind)

    async def open_alerts(self) -> Sequence[Alert]:
        """Those that nobody has resolved."""
        rows = await self._journal.questions.run(lambda c: c.fetch(SQL["open_alerts"]))
        return [Alert(gid=row["gid"], kind=row["kind"], detail=row["detail"]) for row in rows]

    async def resolve_alert(self, gid: Gid, kind: str, *, by: str, reason: str) -> bool:
        """Keep who has seen to it, and how. See `ports.Alerts`."""
        refuse_anonymous(gid, by, reason)
        arguments = (gid, kind, by, reason)
        return await self._journal.questions.run(lambda c: c.fetchval(SQL["resolve_alert"], *arguments)) is not None

    async def audit(self, *, actor: str, action: str, gid: Gid, reason: str, detail: str = "") -> None:
        """Keep what an operator did, and why."""
        refuse_anonymous(gid, actor, reason)
        arguments = (actor, action, gid, reason, detail)
        await self._journal.questions.run(lambda c: c.execute(SQL["audit"], *arguments))


def _term(lease: Lease | None) -> tuple[str | None, int | None]:
    return (None, None) if lease is None else (lease.owner, lease.term)
