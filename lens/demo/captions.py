"""What the connector is taught to say: prompts, answers, and their token ids around the image's cells.

A training sequence is the demo's chat template exactly: ``<|im_start|>user\\n``, the cells, ``\\n``, a prompt, the turn
markers, the answer, ``<|im_end|>``. Invariant: ``before + 144 placeholders + after`` is what the processor makes of the
same prompt, so nothing differs between training and use but the number of cells.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from lens.demo.names import with_article

PROMPTS = {
    "name": ("What is this?", "What is in the image?", "What do you see?"),
    "photo": ("Describe the image.", "Describe this picture."),
}
WEIGHTS = (0.65, 0.35)
"""How often each kind of prompt is drawn."""


def answer(kind: str, classes: tuple[int, ...], names: list[str]) -> str:
    """The answer to a ``name`` or ``photo`` prompt about one or two classes, as one short sentence."""
    joined = " and ".join(with_article(name) for name in dict.fromkeys(names[label] for label in classes))
    text = f"A photo of {joined}." if kind == "photo" else f"{joined}."
    return text[0].upper() + text[1:]


@dataclass
class Captions:
    """Draws prompts and answers as token ids."""

    tokenizer: PreTrainedTokenizerBase
    names: list[str]
    before: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.ids("<|im_start|>user\n")

    def ids(self, text: str) -> list[int]:
        """Token ids of ``text``, nothing added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def prompt(self, rng: random.Random) -> tuple[str, list[int]]:
        """``(kind, after)``: a kind of answer, and the ids from the image's last cell to the assistant's turn."""
        kind = rng.choices(tuple(PROMPTS), WEIGHTS)[0]
        return kind, self.ids(f"\n{rng.choice(PROMPTS[kind])}<|im_end|>\n<|im_start|>assistant\n")

    def answer(self, kind: str, classes: tuple[int, ...]) -> list[int]:
        """The ids to be predicted after the prompt."""
        return self.ids(answer(kind, classes, self.names) + "<|im_end|>")
