"""What a saga may do and how it may end, from its plan and from what was seen of it: no code of the machine is used.

Seen are calls (begun and over), effects in the order in which they happened, and the ending. Invariants are those that
are promised: each step once or undone once, in reverse order, nothing after its undoing, nothing undone behind a pivot.
"""

from collections import Counter
from dataclasses import dataclass, field

from tests.properties.saga_plans import ATTEMPTS, GOOD, NOTHING, Plan, StepPlan


@dataclass(frozen=True)
class Seen:
    """One thing that was seen: *what* is call, over or effect."""

    what: str
    step: int
    direction: str  # action | compensation | status
    process: str = ""
    attempt: int = 0

    def __repr__(self) -> str:
        return f"{self.process} {self.what} s{self.step}.{self.direction}{self.attempt or ''}".strip()


@dataclass
class Verdict:
    """What came of a plan."""

    ending: str  # completed | compensated | parked | what it was when nothing moved any more
    told: str
    """What whoever waited for it was told; empty where its process died."""
    seen: list[Seen] = field(default_factory=list)
    alerts: int = 0
    """How many are open in the end."""
    called_off_parked: int | None = None
    """How much had been seen when it was called off, and that was accepted, while it was parked; None: it was not."""
    called_off_running: int | None = None
    """The same where it was not parked."""
    skipped: frozenset[int] = frozenset()
    """The step that an operator took on himself."""
    drives: int = 1
    """How often it was taken up: begun, adopted, woken or resumed."""
    strikes: int = 0
    writes: int = 0

    def problems(self, plan: Plan) -> list[str]:
        """Every promise that was broken, in words."""
        return [
            *_doubled(self),
            *_out_of_order(plan, self),
            *_around_the_pivot(plan, self),
            *_in_flight(plan, self),
            *_called_again(plan, self),
            *_called_off(plan, self),
            *_ending(plan, self),
            *_attempts(self),
        ]


def _effects(verdict: Verdict) -> dict[tuple[int, str], int]:
    """When each effect happened, as its place in what was seen."""
    return {(s.step, s.direction): at for at, s in reversed(list(enumerate(verdict.seen))) if s.what == "effect"}


def _doubled(verdict: Verdict) -> list[str]:
    counted = Counter((s.step, s.direction) for s in verdict.seen if s.what == "effect")
    return [f"the {direction} of s{step} happened {n} times" for (step, direction), n in counted.items() if n > 1]


def _out_of_order(plan: Plan, verdict: Verdict) -> list[str]:
    found, at = [], _effects(verdict)
    for (step, direction), when in at.items():
        own = at.get((step, "action"))
        if direction == "action":
            found += [
                f"s{step} happened before s{b}, which it comes after"
                for b in plan.steps[step].after
                if plan.steps[b].calls and b not in verdict.skipped and at.get((b, "action"), when + 1) > when
            ]
            continue
        if own is None or own > when:
            found.append(f"s{step} was undone before it happened, or without")
        for later, _ in enumerate(plan.steps):
            happened = at.get((later, "action"), when + 1) < when
            if step in plan.before(later) and plan.steps[later].undoable and happened:
                undone = at.get((later, "compensation"))
                if later not in verdict.skipped and (undone is None or undone > when):
                    found.append(f"s{step} was undone before s{later}, which comes after it")
    return found


def _around_the_pivot(plan: Plan, verdict: Verdict) -> list[str]:
    at = _effects(verdict)
    undone = [step for step, direction in at if direction == "compensation"]
    if plan.pivot is not None and (plan.pivot, "action") in at and undone:
        return [f"the pivot happened, and s{step} was undone" for step in undone]
    return []


def _in_flight(plan: Plan, verdict: Verdict) -> list[str]:
    """While anything is undone, nothing goes forward; but a process that does not know that it was replaced may."""
    if any(strike.action in ("takeover", "reborn") for strike in plan.strikes):
        return []
    found, under_way, undoing = [], set(), False
    for s in verdict.seen:
        if s.what == "call" and s.direction == "action":
            under_way.add((s.process, s.step))
            if undoing:
                found.append(f"s{s.step} was called after an undoing had begun")
        elif s.what == "over" and s.direction == "action":
            under_way.discard((s.process, s.step))
        elif s.what == "call" and s.direction == "compensation":
            undoing = True
            found += [f"s{s.step} was undone while s{b} was under way" for p, b in under_way if p == s.process]
    return found


def _called_again(plan: Plan, verdict: Verdict) -> list[str]:
    """A successor does not call again what its lost predecessor had called, unless it is idempotent.

    But an operator who resumes a saga behind its pivot may have it called. What is handed over in order is known;
    and so is what a parked saga had been answered, by whoever goes on with it where an operator lets it.
    """
    if any(strike.action == "stop" for strike in plan.strikes):
        return []
    found, by, calls = [], {}, Counter[int]()
    for s in verdict.seen:
        if s.what != "call" or s.direction != "action" or plan.steps[s.step].on_unknown == "retry":
            continue
        resumed = plan.operator == "resume" and plan.pivot is not None and plan.pivot in {s.step, *plan.before(s.step)}
        did_nothing = bool(plan.operator) and NOTHING.issuperset(plan.steps[s.step].answers[: calls[s.step]])
        calls[s.step] += 1
        if by.setdefault(s.step, s.process) < s.process and not resumed and not did_nothing:
            # In the order of their names they began.
            found.append(f"s{s.step} was called by {by[s.step]}, which was lost, and again by {s.process}")
    return found


def _called_off(plan: Plan, verdict: Verdict) -> list[str]:
    """Once it is called off nothing is begun any more, unless the pivot was being called, and was done.

    Another process than the one that drives it hears of that a little later; and where what was written last is lost or
    late, it may be the end.
    """
    strikes, since = {strike.action for strike in plan.strikes}, verdict.called_off_running
    passed = plan.pivot is not None and ((plan.pivot, "action") in _effects(verdict) or plan.pivot in verdict.skipped)
    if since is None or passed or strikes & {"takeover", "reborn", "stop"}:
        return []
    called = [(at, s.step) for at, s in enumerate(verdict.seen) if (s.what, s.direction) == ("call", "action")]
    before = {step for at, step in called if at < since}
    found = [
        f"s{step} was begun after it had been called off" for at, step in called if at >= since and step not in before
    ]
    if verdict.ending == "completed" and not strikes & {"lost", "late"}:
        found.append("completed, though it had been called off")
    return found


def _ending(plan: Plan, verdict: Verdict) -> list[str]:
    at, found = _effects(verdict), []
    actions = [index for index, step in enumerate(plan.steps) if step.calls and index not in verdict.skipped]
    was_parked = verdict.told == "parked" and (plan.operator or plan.cancel_at_s is not None)
    if verdict.told and verdict.told != verdict.ending and not was_parked:
        found.append(f"whoever waited was told {verdict.told}, and it is {verdict.ending}")
    if verdict.alerts > (verdict.ending == "parked"):
        found.append(f"{verdict.alerts} alerts are open, and it is {verdict.ending}")
    match verdict.ending:
        case "completed":
            found += [f"completed without s{i}" for i in actions if (i, "action") not in at]
            found += [f"completed, and s{i} was undone" for i in actions if (i, "compensation") in at]
        case "compensated":
            if not _may_turn_back(plan):
                found.append("undone without a reason")
            for i in actions:
                if plan.steps[i].undoable and ((i, "action") in at) != ((i, "compensation") in at):
                    found.append(f"compensated, and s{i} was not undone")
            if plan.pivot is not None and (plan.pivot, "action") in at:
                found.append("compensated, and the pivot happened")
        case "parked":
            if not verdict.alerts:
                found.append("parked without an alert")
            if verdict.called_off_parked == len(verdict.seen):
                found.append("it was called off where it was parked, and nothing came of it")
            if not _may_be_stuck(plan):
                found.append("parked without a reason")
        case other:
            found.append(f"it never ended: {other}")
    return found


def _may_turn_back(plan: Plan) -> bool:
    """Whether somebody has called it off, or a step was refused, unknown by its policy, or failed at every attempt.

    What a lost process may have called is unknown, like what timed out; and a time may pass.
    """
    if plan.cancel_at_s is not None or plan.deadline_s is not None:
        return True
    return any(_may_fail(plan, step) or step.told_in_vain for step in plan.steps)


def _may_fail(plan: Plan, step: StepPlan) -> bool:
    """Whether a step may end otherwise than done, going by what it is answered."""
    failed = [answer for answer in step.answers if answer not in GOOD]
    doubtful = _may_be_unknown(plan, step)
    return "refused" in failed or len(failed) >= ATTEMPTS or (doubtful and step.on_unknown != "retry")


def _may_be_unknown(plan: Plan, step: StepPlan) -> bool:
    return step.calls and (plan.loses or any(answer.startswith(("timeout", "late")) for answer in step.answers))


def _may_be_stuck(plan: Plan) -> bool:
    """Whether an undoing or a question fails as often as it may be made, or there is no way back from what failed.

    That is behind the pivot; and at the pivot itself where nobody knows of it when all its attempts are over.
    """
    pivot = plan.pivot
    for index, step in enumerate(plan.steps):
        undo = [answer for answer in step.undo if answer not in GOOD]
        unasked = [answer for answer in step.asked if answer not in GOOD]
        if len(undo) >= ATTEMPTS or len(unasked) >= ATTEMPTS:
            return True
        failed = [answer for answer in step.answers if answer not in GOOD]
        if index == pivot and step.on_unknown == "retry" and len(failed) >= ATTEMPTS and _may_be_unknown(plan, step):
            return True
        if pivot is not None and pivot in plan.before(index) and (_may_fail(plan, step) or step.told_in_vain):
            return True
    return False


def _attempts(verdict: Verdict) -> list[str]:
    calls = Counter((s.step, s.direction) for s in verdict.seen if s.what == "call")
    most = ATTEMPTS * verdict.drives
    found = [f"the {d} of s{step} was called {n} times" for (step, d), n in calls.items() if n > most]
    return found + [f"attempt {s.attempt} of s{s.step}" for s in verdict.seen if s.attempt > ATTEMPTS]
