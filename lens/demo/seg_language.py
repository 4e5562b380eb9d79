"""The language model's side of <SEG>: low-rank updates of its queries and values, the token, and packed sequences.

A *pack* is one picture with several prompts and answers: the picture's tokens once, then every prompt with its answer, each
of which sees the picture and itself. Position ids start again after the picture for every prompt. Invariants: every
state is what a sequence with that prompt alone would give (a test compares them); <SEG> has one vector, as input and,
the model's embeddings being tied, as output; merging adds the update to the frozen weight and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

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
LONGEST = 24
"""Tokens of a turn that is trained on, at most; longer names are left out."""
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

    def longest(self, name: str) -> int:
        """Tokens of the longest turn with a name."""
        return max(len(self.turn(name, prompt, present).ids) for prompt in PROMPTS for present in (False, True))

    def table(self, names: Sequence[str], device: torch.device) -> Packs:
        """Every turn with some names: [2, names, prompts], absent ones first, then present ones."""
        turns = [[self.turn(name, prompt, there) for name in names for prompt in PROMPTS] for there in (False, True)]
        shape = len(names), len(PROMPTS)
        return Packs(*(part.unflatten(1, shape) for part in Packs.of(turns, device)))


class Packs(NamedTuple):
    """Turns as tensors [...]: ``ids`` [..., longest], filled up with 0; ``answer`` and ``length``, where the answer begins
    and the turn ends; ``seg``, where <SEG> stands, 0 in a turn without one."""

    ids: Tensor
    answer: Tensor
    length: Tensor
    seg: Tensor

    @classmethod
    def of(cls, packs: Sequence[Sequence[Turn]], device: torch.device) -> Packs:
        """Some packs of as many turns each, [b, q]."""
        turns = [turn for pack in packs for turn in pack]
        longest = max(len(turn.ids) for turn in turns)
        ids = torch.tensor([(*turn.ids, *[0] * (longest - len(turn.ids))) for turn in turns])
        about = torch.tensor([(turn.answer, len(turn.ids), turn.seg or 0) for turn in turns])
        parts = (ids, *about.unbind(1))
        return cls(*(part.unflatten(0, (len(packs), -1)).to(device) for part in parts))

    def at(self, *where: Tensor) -> Packs:
        """Those that index tensors of one shape pick along the first dimensions."""
        return Packs(*(part[where] for part in self))


class Answers(NamedTuple):
    """Of the answers of turns [b, q]: the mean cross-entropy of all tokens, that of the first one, which decides between
    yes and no, and whether the first would have been said."""

    whole: Tensor
    first: Tensor
    right: Tensor


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

    @torch.no_grad()
    def load(self, trained: dict[str, Tensor]) -> None:
        """Take over what was trained, by the names of :meth:`trained`."""
        for name, tensor in self.trained().items():
            tensor.copy_(trained[name])

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., width] with the trained vector at <SEG>."""
        seg = (ids == self.turns.seg_id)[..., None]
        return torch.where(seg, self.seg.to(self.table.dtype), self.table[ids])

    def states(self, cells: Tensor | None, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """States after the final norm of b packs: of their turns [b, q, longest, width], and of ``cells`` [b, 144, width].

        ``ids`` [b, q, longest] are the turns', ``cells`` the connector's outputs; without them the turns stand alone, at
        the positions they have with a picture.
        """
        parts = [self.embed(ids).flatten(1, 2)]
        if cells is not None:
            before = self.table[torch.tensor(self.turns.before, device=ids.device)]
            parts = [before.expand(len(ids), -1, -1), cells.to(self.table.dtype), *parts]
        shared = sum(part.shape[1] for part in parts[:-1])
        found = self._run(torch.cat(parts, 1), shared, ids.shape[2])
        visual = None if cells is None else found[:, shared - CELLS : shared]
        return found[:, shared:].unflatten(1, ids.shape[1:]), visual

    def _run(self, embedded: Tensor, shared: int, longest: int) -> Tensor:
        """One forward with an explicit mask: causal, and none of a turn's tokens sees another turn."""
        order = torch.arange(embedded.shape[1], device=embedded.device)
        turn = torch.where(order < shared, -1, (order - shared) // longest)
        sees = (order[:, None] >= order) & ((turn == -1) | (turn[:, None] == turn))
        after = len(self.turns.before) + CELLS + (order - shared) % longest
        positions = torch.where(order < shared, order, after)
        return self.language.model(
            inputs_embeds=embedded, attention_mask=sees[None, None], position_ids=positions[None], use_cache=False
        ).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        """Next-token logits [n, vocabulary] in float32 from states [n, width] after the final norm."""
        found = self.language.lm_head(states).float()
        seg = states.float() @ self.seg
        return found.index_copy(1, torch.tensor([self.turns.seg_id], device=states.device), seg[:, None])

    def answers(self, states: Tensor, packs: Packs, longest: int) -> Answers:
        """The answers' losses; ``states`` [b, q, t, width] as :meth:`states` gives them, ``longest`` tokens at most."""
        where = packs.answer[..., None] + torch.arange(longest, device=states.device)
        said = where < packs.length[..., None]
        where = where.clamp(max=states.shape[2] - 1)
        labels = packs.ids.gather(2, where)
        logits = self.logits(at(states, where - 1).flatten(0, 2))
        losses = functional.cross_entropy(logits, labels.flatten(), reduction="none").view(labels.shape)
        first = logits.detach().unflatten(0, labels.shape)[:, :, 0].argmax(-1)
        return Answers((losses * said).sum(-1) / said.sum(-1), losses[..., 0], first == labels[..., 0])


def at(states: Tensor, where: Tensor) -> Tensor:
    """States [b, q, t, width] of tokens ``where`` [b, q, k], [b, q, k, width]."""
    return states.gather(2, where[..., None].expand(*where.shape, states.shape[-1]))


def seg_states(states: Tensor, packs: Packs) -> Tensor:
    """The states at <SEG> [b, q, width] in float32; without meaning for a turn that has none."""
    return at(states, packs.seg[..., None])[:, :, 0].float()
