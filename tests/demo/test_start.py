"""The start near word embeddings: the closed form, the losses that fit it, stage 0."""

from __future__ import annotations

import torch

from lens.demo.start import alignment_losses, closed_form, head_of, stage_zero
from tests.demo.tinyconnector import INPUTS, WIDTH

CLASSES = 6


def new_head(embeddings: torch.Tensor):
    return head_of(torch.eye(CLASSES, INPUTS), torch.zeros(CLASSES), embeddings, [[i, i + 10] for i in range(CLASSES)])


def table() -> torch.Tensor:
    return torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0))


def test_the_head_holds_the_centred_mean_embeddings_of_the_names() -> None:
    embeddings = table()
    head = new_head(embeddings)
    torch.testing.assert_close(head.words.mean(0), torch.zeros(WIDTH), atol=1e-6, rtol=0)
    torch.testing.assert_close(head.words[2] + head.mean, (embeddings[2] + embeddings[12]) / 2)


def test_the_closed_form_sends_a_certain_cell_to_its_word() -> None:
    head = new_head(table())
    cells = 6 * torch.eye(CLASSES, INPUTS)
    outputs = closed_form(head, cells, seed=0)(cells) - head.mean
    cosines = torch.nn.functional.cosine_similarity(outputs[:, None], head.words[None], dim=-1)
    assert cosines.argmax(-1).tolist() == list(range(CLASSES))
    assert cosines.diagonal().min() > 0.99
    torch.testing.assert_close(
        outputs.norm(dim=-1).pow(2).mean(), head.words.norm(dim=-1).pow(2).mean(), rtol=0.2, atol=0
    )


def test_the_losses_vanish_on_the_words_and_grow_away_from_them() -> None:
    head = new_head(table())
    cells = 20 * torch.eye(CLASSES, INPUTS)
    aligned, distant = alignment_losses(head, cells, head.words + head.mean)
    assert aligned < 0.01 and distant < 1e-6
    turned, _ = alignment_losses(head, cells, head.words.roll(1, 0) + head.mean)
    longer, far = alignment_losses(head, cells, 3 * head.words + head.mean)
    assert turned > 5 and longer < 0.01  # alignment is a matter of direction only
    wanted = (2 * head.words).pow(2).sum(-1).mean() / head.rms**2
    torch.testing.assert_close(far, wanted)


def test_stage_zero_ends_with_its_progress_and_comes_nearer_the_words() -> None:
    head = new_head(table())
    states = (
        6 * torch.eye(CLASSES, INPUTS)[torch.randint(CLASSES, (4, 144), generator=torch.Generator().manual_seed(1))]
    )
    connector = closed_form(head, states.flatten(0, 1), seed=0)
    connector.linear_2.weight.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(2))
    before, _ = alignment_losses(head, states[0], connector(states[0]))
    steps: list[int] = []

    def progress(step: int) -> float:
        steps.append(step)
        return step / 60

    after, _ = stage_zero(connector, head, states, seed=0, progress=progress)
    assert steps == list(range(61))
    assert after < before / 3
