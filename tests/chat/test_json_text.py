from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from llamacore.chat import json_text


def deep(levels: int) -> Any:
    value: Any = 1
    for number in range(levels):
        value = [value] if number % 2 else {'a"[': value}
    return value


def test_values_come_back() -> None:
    for value in (None, True, 1.5, 'é"[{\\', [], {"a": [1, {"b": "]"}]}, deep(190)):
        assert json_text.loads(json_text.dumps(value)) == value
    assert json_text.dumps({"é": (1,)}) == '{"é": [1]}'


@pytest.mark.parametrize("levels", [201, 5000])
def test_what_is_too_deep(levels: int) -> None:
    with pytest.raises(ValueError, match="nested deeper than 200"):
        json_text.dumps(deep(levels))
    for text in ("[" * levels, '{"a":' * levels, '["[",' * levels):
        with pytest.raises(ValueError, match="nested deeper than 200"):
            json_text.loads(text)


def test_many_brackets_are_not_deep() -> None:
    wide = [[{"a": '[[[{{{\\"'}]] * 1000
    assert json_text.loads(json.dumps(wide)) == wide


def test_what_refers_to_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="nested deeper"):
        json_text.dumps(loop)
    twice: Any = 1
    for _ in range(100):
        twice = [twice, twice]
    with pytest.raises(ValueError, match="values"):
        json_text.dumps(twice)


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {1: object()}, {1, 2}])
def test_what_json_has_not(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        json_text.dumps(value)


def test_texts_that_are_no_json() -> None:
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(rng.choice('[]{}",:\\a1 ') for _ in range(rng.randint(0, 600)))
        try:
            expected = json.loads(text)
        except ValueError:
            with pytest.raises(ValueError):
                json_text.loads(text)
        else:
            assert json_text.loads(text) == expected


def test_small_stacks(run_child: Callable[..., str]) -> None:
    run_child(
        """
        import threading
        from llamacore.chat import json_text
        value = []  # freed by the main thread, which has the stack for it
        for _ in range(50_000):
            value = [value]
        def main():
            for call in (lambda: json_text.dumps(value), lambda: json_text.loads("[" * 1_000_000)):
                try:
                    call()
                except ValueError:
                    print("refused")
        threading.stack_size(256 * 1024)
        thread = threading.Thread(target=main)
        thread.start()
        thread.join()
        """
    )
