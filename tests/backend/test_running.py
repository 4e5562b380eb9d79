"""What a model's own code raises: one sentence that quotes it, whichever way the model is run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lens import errors
from lens.backend.answers import generate, score
from lens.backend.attention import attention_received
from lens.backend.checking import check
from lens.backend.encoding import encode
from lens.backend.hooks import Hook, attached
from lens.backend.loading import LoadedModel, load
from lens.backend.readouts import logit_lens, promoted_words
from lens.backend.running import QUOTED, forward
from lens.backend.selfcheck import checked, known, needs
from lens.backend.tracing import hidden_sites, text_states, trace
from lens.backend.typed import typed_states
from lens.cli import main
from lens.errors import CapabilityMissing, MemoryExhausted, ModelFailed
from tests.backend.conftest import PROMPT, noise_picture
from tests.helpers import tiny_llama, tiny_llava

LENS = Path(errors.__file__).parent


@pytest.fixture
def mismatched(tmp_path: Path) -> LoadedModel:
    """A processor that cuts patches of 16 pixels for a tower of 8."""
    loaded = tiny_llava(tmp_path / "model")
    processor: Any = loaded.processor
    processor.patch_size = 16
    processor.save_pretrained(tmp_path / "model")
    return load(loaded.spec)


RUNS: dict[str, Callable] = {
    "trace": lambda loaded, encoded: trace(loaded, encoded, hidden_sites(loaded.anatomy.depth)),
    "generate": generate,
    "score": lambda loaded, encoded: score(loaded, encoded, (5, 6)),
    "attention": attention_received,
}


@pytest.mark.parametrize("run", RUNS)
def test_a_tower_and_a_processor_of_other_patches_are_one_sentence(run: str, mismatched: LoadedModel):
    encoded = encode(mismatched, PROMPT, noise_picture(48, 48))
    with pytest.raises(
        ModelFailed, match=r"^The model 'tiny-llava' fails by itself \(ValueError: Image features"
    ) as got:
        RUNS[run](mismatched, encoded)
    assert isinstance(got.value.__cause__, ValueError), "what the model said is the cause, for whoever debugs it"


def test_check_tells_it_and_what_needs_layers_is_off(mismatched: LoadedModel, capsys):
    report = check(mismatched)
    (failed,) = [one for one in report.checks if one.passed is False]
    assert failed.name == "layers" and "Image features and image tokens do not match" in failed.why
    with pytest.raises(CapabilityMissing, match="Image features and image tokens do not match"):
        needs(checked(mismatched), "This view", "places", "layers")
    assert main(["check", mismatched.spec.source]) == 2
    out, err = capsys.readouterr()
    assert "Image features and image tokens do not match" in out
    assert err.count("\n") == 1 and "Traceback" not in out + err


def test_the_report_goes_when_the_processor_is_mended(mismatched: LoadedModel):
    assert not checked(mismatched).passed
    processor: Any = mismatched.processor
    processor.patch_size = 8
    processor.save_pretrained(mismatched.spec.source)
    mended = load(mismatched.spec)
    assert known(mended) is None and checked(mended).passed


@pytest.mark.parametrize("command", [["latentlens", "--lens", "logit"], ["segmap", "--query", "cat"]])
def test_commands_exit_with_the_sentence(command: list[str], mismatched: LoadedModel, tmp_path: Path, capsys):
    noise_picture(48, 48).image.save(tmp_path / "picture.png")
    name, *options = command
    assert main([name, str(tmp_path / "picture.png"), "--model", mismatched.spec.source, *options]) == 2
    out, err = capsys.readouterr()
    assert "Image features and image tokens do not match" in err.replace("\n", " ")
    assert err.strip().count("\n") == 0 and "Traceback" not in out + err


def broken(module: torch.nn.Module, error: BaseException):
    """``module`` raising ``error`` in its own forward."""

    def raises(*_args, **_kwargs):
        raise type(error)(*error.args)

    module.forward = raises  # type: ignore[method-assign]


def test_text_alone_and_single_parts_are_told_too(tmp_path: Path):
    loaded = tiny_llama(tmp_path)
    broken(loaded.anatomy.unembedding, KeyError("lm_head"))
    states = torch.ones(2, loaded.anatomy.width)
    for run in (
        lambda: logit_lens(loaded, states, 2),
        lambda: promoted_words(loaded, states, 2),
        lambda: generate(loaded, encode(loaded, PROMPT), 2),
    ):
        with pytest.raises(ModelFailed, match="KeyError: 'lm_head'"):
            run()
    broken(loaded.anatomy.blocks[1], IndexError("index out of range in self"))
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ModelFailed, match="IndexError: index out of range in self"):
        text_states(loaded, ids, torch.ones_like(ids), [3])
    with pytest.raises(ModelFailed, match="IndexError"):
        typed_states(loaded, ["cat"], [3])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 GiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ],
)
def test_too_little_memory_has_a_sentence_of_its_own(error: Exception, tmp_path: Path):
    loaded = tiny_llama(tmp_path)
    broken(loaded.anatomy.blocks[0], error)
    with pytest.raises(MemoryExhausted, match=r"found too little memory .*shorten the prompt"):
        trace(loaded, encode(loaded, PROMPT), ["logits"])
    with pytest.raises(MemoryExhausted):
        check(loaded)


def test_a_processor_that_breaks_is_one_sentence(tmp_path: Path, monkeypatch):
    loaded = tiny_llava(tmp_path)
    processor: Any = loaded.processor
    images = processor.image_processor
    monkeypatch.setattr(images, "size", {"depth": 3})
    with pytest.raises((ModelFailed, CapabilityMissing), match=r"^The processor of 'tiny-llava' "):
        encode(loaded, PROMPT, noise_picture(48, 48))
    monkeypatch.setattr(images, "image_mean", "grey")
    monkeypatch.setattr(images, "size", {"shortest_edge": 48})
    with pytest.raises((ModelFailed, CapabilityMissing), match=r"^The processor of 'tiny-llava' "):
        encode(loaded, PROMPT, noise_picture(48, 48))


def test_a_bug_of_ours_stays_a_bug(llama: LoadedModel):
    """Raised in a hook, so inside the model's forward, but by our own code; and what is meant for readers passes."""
    encoded = encode(llama, PROMPT)
    for error in (ZeroDivisionError("ours"), errors.Cancelled("Stopped."), KeyboardInterrupt()):

        def hook(*_args, error=error):
            raise error

        with pytest.raises(type(error)) as got, attached([Hook(llama.anatomy.blocks[1], "after", hooked(hook))]):
            trace(llama, encoded, ["logits"])
        assert got.value is error


def hooked(hook: Callable) -> Callable:
    """``hook`` as if it stood in a module of the package."""
    names = {"hook": hook}
    exec(compile("def ours(*args): return hook(*args)", str(LENS / "backend" / "hooks.py"), "exec"), names)
    return names["ours"]


def test_a_long_message_is_cut(tmp_path: Path):
    loaded = tiny_llama(tmp_path)
    broken(loaded.anatomy.blocks[0], ValueError("shapes\n" * 10_000))
    with pytest.raises(ModelFailed) as got:
        forward(loaded, loaded.model, **encode(loaded, PROMPT).inputs)
    assert len(str(got.value)) < QUOTED + 250 and "\n" not in str(got.value)


CALLED = re.compile(
    r"(loaded\.model|\.(text_model|unembedding|final_norm|connector|vision_tower|embeddings|generate))\(|"
    r"sam\.model\.(get_\w+|forward)\(|sam\.model\(|\bprocessor\("
)


def test_nothing_else_calls_a_model():
    """All forwards go through ``forward`` or stand in ``quoting``; ``demo`` trains models of its own."""
    for path in LENS.rglob("*.py"):
        if path.is_relative_to(LENS / "demo"):
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if CALLED.search(line):
                before = "\n".join(lines[max(0, number - 4) : number])
                assert "with quoting(" in before, f"{path.name}:{number + 1} calls a model by itself: {line.strip()}"
