"""What is kept, for how long, and that it is made once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lens.backend.cache import BoundedCache
from lens.backend.catalog import ModelSpec
from lens.backend.encoding import encode
from lens.backend.loading import LoadedModel
from lens.backend.store import Store
from lens.backend.tracing import hidden_sites
from lens.errors import LayerMissing, ModelMissing
from tests.backend.conftest import noise_picture
from tests.helpers import tiny_llava


def cache(limit: int = 10) -> BoundedCache[bytes]:
    return BoundedCache(limit, len)


def test_a_large_value_displaces_thousands_of_small_ones_at_once():
    counted = []
    held: BoundedCache[bytes] = BoundedCache(3000, lambda value: counted.append(1) or len(value))
    for number in range(3000):
        held.get(number, lambda: b"a")
    counted.clear()
    held.get("large", lambda: bytes(2990))
    assert len(counted) < 3 * 3000, "each is measured a few times, not once for every other"
    assert held.nbytes == 3000 and 2999 in held and 2989 not in held


def of(length: int):
    return lambda: bytes(length)


def test_the_same_key_is_made_once():
    held = cache()
    first = held.get("a", of(3))
    assert held.get("a", lambda: pytest.fail("made again")) is first
    assert "a" in held
    assert "b" not in held


def test_the_bound_counts_bytes_and_the_longest_unused_goes_first():
    held = cache(10)
    held.get("a", of(4))
    held.get("b", of(4))
    held.get("a", of(0))
    held.get("c", of(4))
    assert ["a" in held, "b" in held, "c" in held] == [True, False, True]
    assert held.nbytes == 8
    held.get("d", of(9))
    assert ["a" in held, "c" in held, "d" in held] == [False, False, True]


def test_a_value_larger_than_the_bound_is_kept_while_it_is_the_newest():
    held = cache(10)
    held.get("small", of(1))
    assert len(held.get("large", of(100))) == 100
    assert held.nbytes == 100
    assert "small" not in held
    held.get("small", of(1))
    assert held.nbytes == 1


def test_never_more_than_the_bound_whatever_comes():
    held = cache(100)
    generator = torch.Generator().manual_seed(0)
    for key, size in torch.randint(0, 60, (300, 2), generator=generator).tolist():
        held.get(key, of(size))
        assert held.nbytes <= 100


def test_many_threads_make_one():
    held = cache()
    made: list[int] = []
    gate = threading.Barrier(16)

    def make() -> bytes:
        made.append(1)
        time.sleep(0.05)
        return bytes(3)

    def ask(_i: int) -> bytes:
        gate.wait()
        return held.get("a", make)

    with ThreadPoolExecutor(16) as pool:
        values = list(pool.map(ask, range(16)))
    assert len(made) == 1
    assert all(value is values[0] for value in values)


def test_different_keys_are_made_at_the_same_time():
    held = cache()
    both = threading.Barrier(2)

    def make() -> bytes:
        both.wait(60)
        return b"x"

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda key: held.get(key, make), "ab")) == [b"x", b"x"]


def test_an_error_leaves_nothing_behind():
    held = cache()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            held.get("a", lambda: bytes(1 // 0))
    assert "a" not in held
    assert held.nbytes == 0
    assert held._making == {}, "nor a lock for every key that ever failed"
    assert held.get("a", of(2)) == bytes(2)


def test_no_lock_stays_for_keys_that_were_made_found_or_thrown_out():
    held = cache(10)
    for key in range(50):
        held.get(key, of(4))
        held.get(key, of(4))
    assert held._making == {}


def test_those_who_waited_for_a_maker_that_failed_try_themselves():
    held = cache()
    attempts: list[int] = []
    guard = threading.Lock()

    def make() -> bytes:
        with guard:
            attempts.append(1)
            turn = len(attempts)
        time.sleep(0.02)
        if turn == 1:
            raise OSError("the first one fails")
        return bytes(turn)

    def ask(_i: int) -> bytes | None:
        try:
            return held.get("a", make)
        except OSError:
            return None

    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(ask, range(8)))
    assert values.count(None) == 1
    assert values.count(bytes(2)) == 7
    assert len(attempts) == 2


def test_clearing():
    held = cache()
    held.get("a", of(3))
    held.clear()
    assert (held.nbytes, "a" in held) == (0, False)


@pytest.fixture
def forwards(llama: LoadedModel):
    """Counts the tiny Llama's forwards."""
    counted: list[int] = []
    handle = llama.anatomy.text_model.register_forward_pre_hook(lambda *_: counted.append(1))
    yield counted
    handle.remove()


def test_a_trace_is_run_once_for_the_same_content(llama: LoadedModel, forwards: list[int]):
    store = Store()
    sites = hidden_sites(llama.anatomy.depth)
    first = store.trace(llama, encode(llama, "A cat sat"), sites)
    assert store.trace(llama, encode(llama, "A cat sat"), iter(sites)) is first
    assert len(forwards) == 1
    assert store.trace(llama, encode(llama, "A dog sat"), sites) is not first
    assert len(forwards) == 2


def test_other_sites_are_another_trace(llama: LoadedModel, forwards: list[int]):
    store = Store()
    encoded = encode(llama, "A cat sat")
    assert set(store.trace(llama, encoded, ["hidden.1"]).states) == {"hidden.1"}
    assert set(store.trace(llama, encoded, ["hidden.1", "mlp.2"]).states) == {"hidden.1", "mlp.2"}
    assert len(forwards) == 2


def test_many_sessions_run_one_forward(llama: LoadedModel, forwards: list[int]):
    store = Store()
    encoded = encode(llama, "Two dogs run")
    with ThreadPoolExecutor(8) as pool:
        traces = list(pool.map(lambda _i: store.trace(llama, encoded, ["logits"]), range(8)))
    assert len(forwards) == 1
    assert all(held is traces[0] for held in traces)


def test_traces_stay_within_their_bytes(llama: LoadedModel):
    one = Store().trace(llama, encode(llama, "A cat 0"), ["hidden.1"]).nbytes
    store = Store(trace_bytes=3 * one)
    for i in range(9):
        store.trace(llama, encode(llama, f"A cat {i}"), ["hidden.1"])
    assert 0 < store.traces.nbytes <= 3 * one


def test_a_trace_that_fails_leaves_nothing(llama: LoadedModel):
    store = Store()
    with pytest.raises(LayerMissing):
        store.trace(llama, encode(llama, "A cat"), ["hidden.99"])
    assert store.traces.nbytes == 0


def test_an_answer_is_generated_once(llama: LoadedModel, forwards: list[int]):
    store = Store()
    answer = store.answer(llama, encode(llama, "A cat sat"))
    count = len(forwards)
    assert store.answer(llama, encode(llama, "A cat sat")) is answer
    assert len(forwards) == count


def test_the_same_weights_with_another_processor_share_nothing(tmp_path):
    """Same fingerprint, same picture, same prompt, and yet another input."""
    store = Store()
    picture = noise_picture(90, 60)
    cropped = tiny_llava(tmp_path / "a")
    squeezed = tiny_llava(tmp_path / "b", size={"height": 48, "width": 48}, do_center_crop=False)
    assert cropped.fingerprint == squeezed.fingerprint
    one, other = (
        store.trace(loaded, encode(loaded, "What is this?", picture), ["connector"]) for loaded in (cropped, squeezed)
    )
    assert not torch.equal(one.site("connector"), other.site("connector"))


def test_a_model_is_loaded_once_under_many_threads(llama: LoadedModel):
    store = Store()
    with ThreadPoolExecutor(6) as pool:
        models = list(pool.map(lambda _i: store.model(llama.spec), range(6)))
    assert all(model is models[0] for model in models)
    assert store.models.nbytes == models[0].nbytes


def test_a_model_that_is_missing_is_asked_for_again(tmp_path):
    store = Store()
    spec = ModelSpec(name="x", source=str(tmp_path / "nowhere"))
    for _ in range(2):
        with pytest.raises(ModelMissing):
            store.model(spec)
    assert store.models.nbytes == 0
