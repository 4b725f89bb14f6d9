"""What Kafka says about a branch, in words for people. Nothing is changed by asking."""

from coordinator.errors import CoordinatorError
from participants.kafka.branch import KafkaBranch
from participants.kafka.cluster import Cluster
from participants.kafka.codec import TransactionState
from participants.kafka.codes import Code, code_name
from participants.kafka.outcome import read_back

_READ_BACK_WITHIN_S = 1.0


async def probe(cluster: Cluster, branch: KafkaBranch, state: TransactionState) -> str:
    """The id's *state* at its coordinating broker, compared with the branch; else what its partition's log says."""
    if state.code != Code.NONE:
        known = f"{branch.transactional_id}: {code_name(state.code)}"
    elif state.producer == branch.producer and state.state == "Ongoing":
        return f"open: {branch.transactional_id} is Ongoing, with the epoch of this transaction"
    else:
        known = (
            f"{branch.transactional_id} is {state.state}, epoch {state.producer.epoch} (ours: {branch.producer.epoch})"
        )
    where = f"{branch.topic}[{branch.partition}] at {branch.offset}"
    try:
        ending = await read_back(cluster, branch, within_s=_READ_BACK_WITHIN_S)
    except CoordinatorError as failure:
        return f"{known}; {where} cannot tell yet: {failure}"
    return f"{known}; {where} says: {ending}"
