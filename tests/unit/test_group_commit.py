"""A queue before several writers: what gathers is shared, each item gets its own result, and closing waits for all."""

import asyncio

import pytest

from coordinator.errors import Refused, Unavailable
from coordinator.journal.group_commit import GroupCommit


class Writer:
    """Writes when it is let; remembers its batches."""

    def __init__(self):
        self.batches, self.let = [], asyncio.Event()

    async def __call__(self, batch):
        self.batches.append(list(batch))
        await self.let.wait()
        return [item * 10 for item in batch]


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_writer_is_enough_for_a_few_and_the_same_one_each_time():
    one, other = Writer(), Writer()
    queue = GroupCommit("queue", one, other)
    for each in range(3):
        one.let.set()
        assert await queue.submit(each) == 10 * each
    assert (one.batches, other.batches) == ([[0], [1], [2]], [])


async def test_what_comes_while_one_writes_is_the_other_s_and_what_comes_then_waits_for_the_first_that_is_free():
    one, other = Writer(), Writer()
    queue = GroupCommit("queue", one, other)
    first = queue.put(1)
    await turns()
    second = queue.put(2)
    await turns()
    rest = [queue.put(3), queue.put(4)]
    await turns()
    assert (one.batches, other.batches) == ([[1]], [[2]])
    other.let.set()
    assert [await each for each in (second, *rest)] == [20, 30, 40]
    assert other.batches == [[2], [3, 4]]
    assert not first.done()
    one.let.set()
    assert await first == 10


async def test_many_are_shared_by_the_writers_that_are_free_in_their_order():
    one, other = Writer(), Writer()
    queue = GroupCommit("queue", one, other)
    put = [queue.put(each) for each in range(40)]
    await turns()
    assert (one.batches, other.batches) == ([list(range(20))], [list(range(20, 40))])
    one.let.set()
    other.let.set()
    assert [await each for each in put] == [10 * each for each in range(40)]


@pytest.mark.parametrize("way", ["submit", "write"])
async def test_a_writer_that_fails_fails_its_own_batch_and_writes_the_next(way):
    async def fail_first(batch):
        if 1 in batch:
            raise Unavailable("away")
        return batch

    put = getattr(GroupCommit("queue", fail_first), way)
    with pytest.raises(Unavailable, match="away"):
        await put(1)
    assert await put(2) == 2


async def test_one_that_cannot_be_stored_is_found_by_writing_each_alone():
    async def refuse_one(batch):
        if 1 in batch:
            raise Refused("cannot be stored")
        return [item * 10 for item in batch]

    queue = GroupCommit("queue", refuse_one)
    put = [queue.put(each) for each in range(3)]
    with pytest.raises(Refused, match="cannot be stored"):
        await put[1]
    assert (await put[0], await put[2]) == (0, 20)


async def test_closing_waits_for_every_writer_and_for_what_still_waits():
    one, other = Writer(), Writer()
    queue = GroupCommit("queue", one, other)
    put = [queue.put(1)]
    await turns()
    put.append(queue.put(2))
    await turns()
    put.append(queue.put(3))
    closing = asyncio.create_task(queue.close())
    await turns()
    with pytest.raises(Unavailable, match="closed"):
        queue.put(4)
    one.let.set()
    await turns()
    assert not closing.done()
    other.let.set()
    await closing
    assert [each.result() for each in put] == [10, 20, 30]


async def cancelled_tasks():
    """Every task but this one is cancelled, as some do at a SIGTERM."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    return others


@pytest.mark.parametrize("pauses", [0, 1, 3])
async def test_a_writer_whose_task_was_cancelled_goes_on_in_another(pauses):
    """Whoever cleans up behind that still writes."""
    one, other = Writer(), Writer()
    one.let.set()
    other.let.set()
    queue = GroupCommit("queue", one, other)
    assert await queue.submit(1) == 10
    await cancelled_tasks()
    await turns(pauses)
    async with asyncio.timeout(5):
        assert await queue.submit(2) == 20
        await queue.close()


async def test_a_writer_that_is_cancelled_once_it_was_woken_leaves_what_waits_to_another():
    one, other = Writer(), Writer()
    one.let.set()
    other.let.set()
    queue = GroupCommit("queue", one, other)
    assert await queue.submit(1) == 10
    put = queue.put(2)
    await cancelled_tasks()
    async with asyncio.timeout(5):
        assert await put == 20
        assert await queue.submit(3) == 30
        await queue.close()


async def test_closing_waits_for_a_writer_that_is_only_needed_meanwhile():
    """So many are put at once that the first writer leaves half of them to the second one."""
    one, other = Writer(), Writer()
    queue = GroupCommit("queue", one, other)
    put = [queue.put(each) for each in range(40)]
    closing = asyncio.create_task(queue.close())
    await turns()
    one.let.set()
    await turns(5)
    assert not closing.done()
    other.let.set()
    await closing
    assert all(each.done() for each in put)


async def test_who_is_alone_writes_in_his_own_task_and_what_comes_meanwhile_is_written_after():
    writer = Writer()
    queue = GroupCommit("queue", writer)
    alone = asyncio.ensure_future(queue.write(1))
    await turns(1)
    assert (writer.batches, queue._tasks) == ([[1]], set())
    rest = [asyncio.ensure_future(queue.write(each)) for each in (2, 3)]
    await turns()
    writer.let.set()
    assert await asyncio.gather(alone, *rest) == [10, 20, 30]
    assert writer.batches == [[1], [2, 3]]


async def test_who_writes_alone_and_is_cancelled_leaves_what_came_meanwhile_to_another():
    writer = Writer()
    queue = GroupCommit("queue", writer)
    alone = asyncio.ensure_future(queue.write(1))
    await turns(1)
    put = queue.put(2)
    closing = asyncio.create_task(queue.close())
    await turns()
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone
    assert not closing.done()
    writer.let.set()
    assert await put == 20
    await closing
    assert writer.batches == [[1], [2]]


async def test_where_the_last_write_was_shared_the_next_one_waits_for_those_that_come_with_it():
    writer = Writer()
    writer.let.set()
    queue = GroupCommit("queue", writer)
    await asyncio.gather(*(queue.put(each) for each in range(3)))
    assert await asyncio.gather(*(queue.write(each) for each in range(3))) == [0, 10, 20]
    assert writer.batches == [[0, 1, 2], [0, 1, 2]]
