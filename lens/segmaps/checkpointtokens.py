"""The tokenizer of an original LLaVA checkpoint, splitting text as its authors' version of transformers did.

SESAME and READ pin transformers 4.31, LISA 4.29 to 4.31, with the slow tokenizer. There every piece of text between added
tokens is a text of its own, with a blank before it (``legacy``), and white space around an added token of
``added_tokens.json`` is dropped: ``<im_end>`` and a line break before the question are ``<im_end>`` alone. Later versions
write the tokens' own rules into ``tokenizer_config.json``, which then count. ``<image>``, which the original puts in after
the text was split, becomes one more token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AddedToken, LlamaTokenizer, PreTrainedTokenizerFast

from lens.errors import ConversionFailed
from lens.segmaps.checkpointlayout import END, IMAGE, START

SEG = "[SEG]"
CONTROL = ("<im_patch>", START, END)
"""Added tokens that are no text."""


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer with ``<image>`` behind its last token and ``<unk>`` as padding.

    :class:`ConversionFailed` where it can't be read or has no [SEG].
    """
    try:
        settings = _settings(folder / "tokenizer_config.json")
        rules: Any = {key: True if settings.get(key) is None else settings[key] for key in ("legacy", "add_bos_token")}
        words = LlamaTokenizer.from_pretrained(folder, **rules)
        if "added_tokens_decoder" not in settings:
            added = sorted(_settings(folder / "added_tokens.json").items(), key=lambda item: item[1])
            words.add_tokens([_stripping(token) for token, _ in added])
            moved = [token for token, number in added if words.convert_tokens_to_ids(token) != number]
            if moved:
                raise ValueError(f"{moved[0]} isn't where added_tokens.json has it; is tokenizer.model missing?")
    except Exception as error:  # sentencepiece, tokenizers and transformers each raise their own kinds
        raise ConversionFailed(
            f"The tokenizer in {folder} can't be read ({' '.join(str(error).split())[:160]}); fetch the checkpoint again."
        ) from error
    vocabulary = words.get_vocab()
    if SEG not in vocabulary:
        raise ConversionFailed(
            f"The tokenizer in {folder} has no token {SEG}, so that this is no checkpoint of LISA, SESAME or READ; give one."
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer,
        bos_token=words.bos_token,
        eos_token=words.eos_token,
        unk_token=words.unk_token,
        pad_token=words.unk_token,
        additional_special_tokens=[*(token for token in CONTROL if token in vocabulary), IMAGE],
        padding_side="right",
    )


def _stripping(token: str) -> AddedToken:
    return AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=token in CONTROL)


def _settings(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
