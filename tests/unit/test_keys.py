"""What the journal's index could not hold is refused before it is written with what others write."""

import pytest

from coordinator import Coordinator, InvalidDefinition
from coordinator.keys import check_key, check_name
from coordinator.sagas import Saga, sleep

WRONG = ["a\0b", "\ud800", "ü" * 1_001]


@pytest.mark.parametrize("given", WRONG)
def test_it_is_refused(given):
    with pytest.raises(InvalidDefinition, match="a key is text of at most 2000 bytes"):
        check_key(given)
    with pytest.raises(InvalidDefinition, match="a name is text of at most 500 bytes"):
        check_name(given)


def test_the_longest_is_taken():
    check_key(None)
    check_key("ü" * 1_000)
    check_name("n" * 500)


@pytest.mark.parametrize("given", ["", " ", "\t\n"])
async def test_an_empty_key_is_none_at_all(given, request):
    """Two orders whose keys were left empty would be one."""
    saga = Saga("nap", sleep("nap", 0))
    async with Coordinator(journal=f"memory://{id(request)}", sagas=[saga]) as coordinator:
        with pytest.raises(InvalidDefinition, match="a key is not empty"):
            coordinator.transaction("order", key=given)
        for verb in (coordinator.run, coordinator.start, coordinator.attach):
            with pytest.raises(InvalidDefinition, match="a key is not empty"):
                await verb(saga, key=given)


@pytest.mark.parametrize("given", WRONG)
async def test_no_transaction_begins_with_it(given, request):
    saga = Saga("nap", sleep("nap", 0))
    async with Coordinator(journal=f"memory://{id(request)}", sagas=[saga]) as coordinator:
        with pytest.raises(InvalidDefinition, match="a key is text"):
            coordinator.transaction("order", key=given)
        with pytest.raises(InvalidDefinition, match="a name is text"):
            coordinator.transaction(given)
