"""Whatever the API server stores can be decoded, however deeply it is nested."""

import asyncio
import json
import random

import msgspec
import pytest

from pyncette.controller.cluster.decoding import LEVELS_KEPT, decodable, decode, shallow

TEXTS = ["", "a", "[[[", "}]", '"', "\\", '\\"[', "é\u202e", "\n{"]


def some_value(chance, levels):
    """A random value, nested in at most so many levels, whose strings have all that means something in JSON."""
    if not levels or chance.random() < 0.2:
        return chance.choice([*TEXTS, 1, -2.5e10, None, True])
    if chance.random() < 0.5:
        return [some_value(chance, levels - 1) for _ in range(chance.randrange(4))]
    return {chance.choice(TEXTS) + str(n): some_value(chance, levels - 1) for n in range(chance.randrange(4))}


def cut(value, levels):
    """What is left of *value*, by the definition."""
    if not isinstance(value, list | dict):
        return value
    if not levels:
        return 0
    if isinstance(value, list):
        return [cut(inner, levels - 1) for inner in value]
    return {name: cut(inner, levels - 1) for name, inner in value.items()}


@pytest.mark.parametrize("seed", range(200))
def test_a_shallow_text_keeps_its_levels_and_has_zeros_below_the_last(seed):
    chance = random.Random(seed)
    value = some_value(chance, 8)
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1])).encode()

    for levels in range(9):
        assert json.loads(shallow(text, levels)) == cut(value, levels)


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}"), ('[{"]":', "}]")])
@pytest.mark.parametrize("levels", [1_000, 9_990, 500_000])
async def test_a_value_of_any_depth_is_decoded(opened, closed, levels):
    text = (opened * levels + "1" + closed * levels).encode()

    assert decode(text, object) == decode(await decodable(text), object)


def test_a_decodable_text_is_unchanged():
    levels = LEVELS_KEPT * 2
    value = decode(b"[" * levels + b"]" * levels, list)

    assert json.dumps(value) == "[" * levels + "]" * levels


async def test_the_event_loop_runs_on_while_a_megabyte_is_made_shallow():
    text = b"[[],{}" + b",[]" * 300_000 + b",".join([b"", b"[" * 1_500 + b"]" * 1_500]) + b"]"
    turns = 0

    async def turn():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    beside = asyncio.create_task(turn())
    await decodable(text)
    beside.cancel()

    assert turns > 5


async def test_invalid_json_is_left_to_the_decoder():
    assert await decodable(b"[[") == b"[["
    with pytest.raises(msgspec.DecodeError):
        decode(b"[[", object)
