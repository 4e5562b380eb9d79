"""The language model's side of <SEG>: low-rank updates of its queries and values, the token, and packed sequences.

A *pack* is one picture with several prompts and answers: the picture's tokens once, then every prompt with its answer, each
of which sees the picture and itself. Position ids start again after the picture for every prompt. Invariants: every
state is what a sequence with that prompt alone would give (a test compares them); <SEG> has one vector, as input and,
the model's embeddings being tied, as output; merging adds the update to the frozen weight and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from lens.demo.convert import CELLS

SEG = "<SEG>"
RENAMED_TOKEN = "<filename>"
"""The spare special token that becomes <SEG>: ids and vocabulary size stay what they are."""
PROMPTS = ("Segment the {}.", "Where is the {}?", "Show me the {}.")
FOUND, ABSENT = f"It is {SEG}.", "There is no {}."
LIKE = " the"
"""The word whose embedding <SEG> starts from: after "It is the", the frozen model expects the prompt's noun (its first
token is the likeliest for 87 % of nouns after "Where is the ...?"), so the state at <SEG> points at it from the start."""


@dataclass(frozen=True)
class Turn:
    """One prompt and its answer as ids; ``seg`` is the index of <SEG> in them, or ``None`` for an object that isn't there.

    ``ids[answer:]`` is the answer, whose first token is predicted at ``answer - 1``.
    """

    ids: tuple[int, ...]
    answer: int
    seg: int | None


@dataclass
class Turns:
    """Writes turns with a tokenizer in which <SEG> is one token."""

    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        self.seg_id = cast(int, self.tokenizer.convert_tokens_to_ids(SEG))
        self.before = self.ids("<|im_start|>user\n")

    def ids(self, text: str) -> list[int]:
        """Token ids of ``text``, nothing added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def turn(self, name: str, prompt: str, present: bool) -> Turn:
        """The sequence after the picture's last token for an object and one of :data:`PROMPTS`."""
        asked = self.ids(f"\n{prompt.format(name)}<|im_end|>\n<|im_start|>assistant\n")
        said = self.ids((FOUND if present else ABSENT.format(name)) + "<|im_end|>")
        seg = len(asked) + said.index(self.seg_id) if present else None
        return Turn((*asked, *said), len(asked), seg)


class LowRank(nn.Module):
    """A frozen linear layer with a trained low-rank update, W x + (alpha / r) B A x (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, frozen: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.frozen, self.scale = frozen, alpha / rank
        self.a = nn.Parameter(torch.randn(rank, frozen.in_features) / frozen.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, states: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        update = functional.linear(functional.linear(states, self.a.to(states.dtype)), self.b.to(states.dtype))
        return self.frozen(states) + self.scale * update


def merged_weights(trained: dict[str, Tensor], alpha: float, frozen: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The weights that trained updates change, by the names of ``LlamaForCausalLM``; ``frozen`` gives one by its name."""
    found = {}
    for key in trained:
        if key.endswith(".a"):
            number, part = key.removesuffix(".a").split("_", 1)
            name = f"model.layers.{int(number) - 1}.self_attn.{part}.weight"
            a, b = trained[key], trained[key.removesuffix("a") + "b"]
            found[name] = frozen(name).float() + alpha / len(a) * b.float() @ a.float()
    return found


class SegLanguage(nn.Module):
    """A frozen language model with low-rank updates on q and v of its blocks from ``first`` (counted from 1), and <SEG>."""

    def __init__(self, language: LlamaForCausalLM, turns: Turns, rank: int, alpha: float, first: int = 1) -> None:
        super().__init__()
        self.language, self.turns = language.requires_grad_(False).eval(), turns
        self.updates = nn.ModuleDict()
        for number, block in enumerate(cast(Any, language.model.layers), 1):
            if number < first:
                continue
            for name in ("q_proj", "v_proj"):
                update = LowRank(getattr(block.self_attn, name), rank, alpha)
                setattr(block.self_attn, name, update)
                self.updates[f"{number}_{name}"] = update
        self.seg = nn.Parameter(self.table.detach()[turns.ids(LIKE)[0]].float().clone())

    @property
    def table(self) -> Tensor:
        """The input embeddings, [vocabulary, width]."""
        return cast(Tensor, self.language.get_input_embeddings().weight)

    def trained(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        found: dict[str, Tensor] = {"seg": self.seg}
        for name, update in self.updates.items():
            found |= {f"{name}.{part}": parameter for part, parameter in update.named_parameters(recurse=False)}
        return found

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., width] with the trained vector at <SEG>."""
        seg = (ids == self.turns.seg_id)[..., None]
        return torch.where(seg, self.seg.to(self.table.dtype), self.table[ids])

    def states(self, cells: Tensor | None, turns: list[Turn]) -> tuple[Tensor, Tensor | None]:
        """States after the final norm of one pack: of the turns [n, longest, width], and of ``cells`` [144, width].

        ``cells`` are the connector's outputs; without them the turns stand alone, at the positions they have with a picture.
        """
        longest = max(len(turn.ids) for turn in turns)
        ids = torch.zeros(len(turns), longest, dtype=torch.long)
        for row, turn in zip(ids, turns, strict=True):
            row[: len(turn.ids)] = torch.tensor(turn.ids)
        start = len(self.turns.before)
        after = (start + CELLS + torch.arange(longest)).repeat(len(turns))
        text = self.embed(ids).flatten(0, 1)
        if cells is None:
            return self._run(text, after, 0, longest).unflatten(0, ids.shape), None
        shared = torch.cat((self.table[torch.tensor(self.turns.before)], cells.to(self.table.dtype)))
        found = self._run(
            torch.cat((shared, text)), torch.cat((torch.arange(len(shared)), after)), len(shared), longest
        )
        return found[len(shared) :].unflatten(0, ids.shape), found[start : len(shared)]

    def _run(self, embedded: Tensor, positions: Tensor, shared: int, longest: int) -> Tensor:
        """One forward with an explicit mask: causal, and none of a turn's tokens sees another turn."""
        order = torch.arange(len(embedded))
        turn = torch.where(order < shared, -1, (order - shared) // longest)
        sees = (order[:, None] >= order) & ((turn == -1) | (turn[:, None] == turn))
        return self.language.model(
            inputs_embeds=embedded[None], attention_mask=sees[None, None], position_ids=positions[None], use_cache=False
        ).last_hidden_state[0]

    def logits(self, states: Tensor) -> Tensor:
        """Next-token logits [n, vocabulary] in float32 from states [n, width] after the final norm."""
        found = self.language.lm_head(states).float()
        seg = states.float() @ self.seg
        return found.index_copy(1, torch.tensor([self.turns.seg_id]), seg[:, None])

    def answer_loss(self, states: Tensor, turns: list[Turn]) -> Tensor:
        """Mean over the turns of the mean cross-entropy of each answer's tokens; ``states`` as :meth:`states` gives them."""
        picked = [states[i, turn.answer - 1 : len(turn.ids) - 1] for i, turn in enumerate(turns)]
        labels = [torch.tensor(turn.ids[turn.answer :]) for turn in turns]
        losses = functional.cross_entropy(self.logits(torch.cat(picked)), torch.cat(labels), reduction="none")
        return torch.stack([part.mean() for part in losses.split([len(label) for label in labels])]).mean()
