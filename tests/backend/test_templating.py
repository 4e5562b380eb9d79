"""Chat templates of every making: what was typed and the picture stand in what the model reads, or a sentence says why."""

from __future__ import annotations

import copy
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast

from lens.backend.checking import check
from lens.backend.encoding import encode
from lens.backend.loading import LoadedModel, load
from lens.backend.templating import LONGEST, SECONDS, templated
from lens.cli import main
from lens.errors import ModelFailed, PromptUnusable, TemplateUnusable
from lens.functiontokens.states import windows
from tests.backend.conftest import PROMPT, noise_picture
from tests.helpers import CHAT, TEXT, tiny_llama, tiny_llava

EACH = "{% for message in messages %}"
STRING = EACH + "{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
PARTS = (
    EACH
    + "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}"
    "{{ part['text'] | trim }}{% endif %}{% endfor %}{% endfor %} A:"
)
"""Renders a string as nothing at all: its parts are characters, which have no type."""
PRINTED = EACH + "{{ message['content'] }}{% endfor %}"
"""Prints whatever it gets, a list of parts as Python writes it."""
JSON = EACH + "{{ message['content'] | tojson }}{% endfor %}"


def with_template(loaded: LoadedModel, template: Any) -> LoadedModel:
    """The model with another chat template on tokenizer and processor, as ``chat_template.jinja`` gives it to both."""
    tokenizer = copy.copy(loaded.tokenizer)
    tokenizer.chat_template = template
    processor: Any = copy.copy(loaded.processor)
    if processor is not None:
        processor.tokenizer, processor.chat_template = tokenizer, template
    return dataclasses.replace(loaded, tokenizer=tokenizer, processor=processor)


def read(loaded: LoadedModel, seeing: bool, prompt: str = PROMPT) -> str:
    encoded = encode(loaded, prompt, noise_picture(48, 48) if seeing else None)
    assert len(encoded.token_map.visual_positions) == (36 if seeing else 0)
    return "".join(encoded.token_map.texts)


@pytest.mark.parametrize("seeing", [False, True])
@pytest.mark.parametrize(
    ("template", "alone", "with_picture"),
    [
        (STRING, f"user: {PROMPT}\n", f"user: \n{PROMPT}\n"),
        (PRINTED, PROMPT, f"\n{PROMPT}"),
        (PARTS, f"{PROMPT} A:", f"{PROMPT} A:"),
        (CHAT, f"user: {PROMPT}assistant: ", f"user: {PROMPT}assistant: "),
        (CHAT.replace("<image>", ""), f"user: {PROMPT}assistant: ", f"user: \n{PROMPT}assistant: "),
        (CHAT.replace("<image>", "<image>" * 2), f"user: {PROMPT}assistant: ", f"user: \n{PROMPT}assistant: "),
        (None, PROMPT, f"\n{PROMPT}"),
        ("", PROMPT, f"\n{PROMPT}"),
        ({"default": STRING, "tools": PARTS}, f"user: {PROMPT}\n", f"user: \n{PROMPT}\n"),
    ],
)
def test_the_form_of_content_that_a_template_takes(
    template: Any, alone: str, with_picture: str, seeing: bool, llava: LoadedModel
):
    assert read(with_template(llava, template), seeing) == (with_picture if seeing else alone)


@pytest.mark.parametrize("seeing", [False, True])
def test_a_template_that_the_processor_alone_has_is_used_for_text_too(seeing: bool, llava: LoadedModel):
    """As in folders whose template is in ``chat_template.json``."""
    loaded = with_template(llava, CHAT)
    loaded.tokenizer.chat_template = None
    assert read(loaded, seeing) == f"user: {PROMPT}assistant: "


BAD: dict[str, tuple[Any, str]] = {
    "raises": ("{{ raise_exception('roles must alternate') }}", r"\(TemplateError: roles must alternate\)"),
    "syntax": (EACH + "{{ message['role'] }}", r"\(TemplateSyntaxError: Unexpected end of template"),
    "undefined": (EACH + "{{ greet(message['content']) }}{% endfor %}", r"\(UndefinedError: 'greet' is undefined\)"),
    "unsafe": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", r"\(SecurityError: "),
    "without the text": ("User: <image> Assistant:", "leaves out what was typed"),
    "blank": ("   ", "leaves out what was typed"),
    "twice": (CHAT + CHAT, "writes what was typed 2 times"),
    "as JSON": (JSON, "leaves out what was typed"),
    "other letters": (
        STRING.replace("message['content'] +", "message['content'].upper() +"),
        "leaves out what was typed",
    ),
    "recursive": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", r"\(RecursionError"),
    "long": (
        "{% for i in range(99999) %}" + "word " * 200 + "{% endfor %}",
        f"writes more than {LONGEST:,} characters",
    ),
    "long at once": ("{{ 'word ' * 999999 }}" + STRING, f"writes more than {LONGEST:,} characters"),
    "endless": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}" + STRING,
        f"takes longer than {SECONDS:.0f} seconds",
    ),
    "too long a range": ("{% for i in range(10 ** 9) %}{% endfor %}" + STRING, r"\(OverflowError"),
    "named, none of them the default": ({"rag": CHAT, "tools": CHAT}, r"\(ValueError: "),
    "no text": (7, r"\(\w+Error: "),
}


@pytest.mark.parametrize("seeing", [False, True])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_template_is_one_sentence(kind: str, seeing: bool, llava: LoadedModel):
    template, told = BAD[kind]
    started, tracing = time.monotonic(), sys.gettrace()
    with pytest.raises(
        TemplateUnusable, match=rf"^The chat template of the model 'tiny-llava' .*{told}.*; mend"
    ) as got:
        read(with_template(llava, template), seeing)
    assert "\n" not in str(got.value) and len(str(got.value)) < 500
    assert time.monotonic() - started < 4 * SECONDS, "two forms, each with its bound"
    assert sys.gettrace() is tracing


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (PARTS.replace("<image>", ""), "leaves out the picture"),
        (PARTS.replace("<image>", "<image><image>"), "writes the placeholder of the picture 2 times"),
    ],
)
def test_a_template_without_the_picture_or_with_two_is_for_text_alone(template: str, told: str, llava: LoadedModel):
    loaded = with_template(llava, template)
    assert PROMPT in read(loaded, seeing=False)
    with pytest.raises(TemplateUnusable, match=told):
        read(loaded, seeing=True)


def test_a_template_may_treat_one_prompt_otherwise(llava: LoadedModel):
    """Only what it does with the prompt at hand shows it."""
    loaded = with_template(llava, "{% if 'secret' in messages[0]['content'] %}no{% else %}" + STRING + "{% endif %}")
    assert read(loaded, False, "An open word") == "user: An open word\n"
    with pytest.raises(TemplateUnusable, match="leaves out or changes what was typed"):
        read(loaded, False, "A secret word")


@pytest.mark.parametrize("seeing", [False, True])
@pytest.mark.parametrize("template", [STRING, PARTS, CHAT])
@pytest.mark.parametrize(
    "prompt",
    ["  outer blanks \n", "{{ 7 * 7 }} {% raw %}", "{image} {prompt} {0}", 'it\'s "so"\\n', PROMPT * 3, "user: "],
)
def test_prompts_that_look_like_templates_stay_text(prompt: str, template: str, seeing: bool, llava: LoadedModel):
    assert prompt.strip() in read(with_template(llava, template), seeing, prompt)


def test_training_reads_chats_by_the_same_way(tmp_path: Path):
    loaded = with_template(tiny_llama(tmp_path), PARTS)
    chat = next(ids for ids in windows(loaded, TEXT.splitlines() * 20, 32, 0) if len(ids) != 32)
    assert loaded.tokenizer.decode(chat).endswith(" A:")
    with pytest.raises(TemplateUnusable, match="roles must alternate"):
        windows(with_template(loaded, BAD["raises"][0]), TEXT.splitlines() * 20, 32, 0)


COMMANDS = [
    ["latentlens", "PICTURE", "--lens", "logit"],
    ["segmap", "PICTURE", "--query", "cat"],
    ["functiontokens", "prompt", "What is this?", "--closed-class", "--features", "neurons-1"],
    ["check"],
]


@pytest.mark.parametrize("kind", ["raises", "syntax", "without the text"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_tell_it(command: list[str], kind: str, tmp_path: Path, capsys):
    loaded = tiny_llava(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(BAD[kind][0], encoding="utf-8")
    noise_picture(48, 48).image.save(tmp_path / "picture.png")
    words = [str(tmp_path / "picture.png") if word == "PICTURE" else word for word in command]
    options = [loaded.spec.source] if command == ["check"] else ["--model", loaded.spec.source]
    assert main([*words, *options]) == 2
    out, err = capsys.readouterr()
    assert "The chat template of the model 'model'" in err or command == ["check"]
    assert "chat template" in out + err and err.count("\n") == 1 and "Traceback" not in out + err


def test_check_says_what_is_off_for_a_model_that_reads_text_alone(llama: LoadedModel):
    report = check(with_template(llama, BAD["raises"][0]))
    assert report.off == ("every view of layers",) and "roles must alternate" in report.checks[-1].why


def test_a_file_of_its_own_goes_before_what_the_tokenizer_says(tmp_path: Path):
    loaded = tiny_llava(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(STRING, encoding="utf-8")
    assert read(load(loaded.spec), True) == f"user: \n{PROMPT}\n"


def folding() -> Tokenizer:
    """BERT's: lower case, no accents, no control characters, word pieces."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        [TEXT.lower()], trainers.WordPieceTrainer(vocab_size=300, special_tokens=[*SPECIAL, "[UNK]"])
    )
    return core


def unigram() -> Tokenizer:
    """SentencePiece's: compatibility forms, runs of blanks as one, a token for all that it doesn't know."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=[*SPECIAL, "<unk>"], unk_token="<unk>")
    core.train_from_iterator([TEXT], trainer)
    return core


def legacy() -> Tokenizer:
    """Llama's of 2023: a blank before the text, blanks as a letter, unknown characters as bytes."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=390, special_tokens=[*SPECIAL, "<unk>", *bytes_], show_progress=False)
    core.train_from_iterator([TEXT.replace(" ", "▁")], trainer)
    return core


SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]
TYPED = [
    PROMPT, "DESCRIBE THE IMAGE", "  Two  dogs,\n\trun. ", "don't", "do not .", "naïve café", "Où ?",
    "\ufb01ne \u2460 \uff21", "日本語の絵", "\u0301accent first", "e\u0301", "\u1112\u1161\u11ab", "ΣΑΣ", "İstanbul",
    "\U0001f98a\U0001f3f3\ufe0f\u200d\U0001f308", "▁word▁", "##ing", "</s> <s>", "a\u200bb", "\x00cat", "straße ẞ",
    "%", "..." * 5, "-", "<unk>", "[UNK]",
]  # fmt: skip


@pytest.mark.parametrize("template", [CHAT, STRING, None], ids=["parts", "string", "none"])
@pytest.mark.parametrize("core", [folding, unigram, legacy], ids=lambda core: core.__name__)
def test_tokenizers_that_fold_what_is_typed_give_no_false_alarm(core: Any, template: str | None, llava: LoadedModel):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core(), bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"], chat_template=template,
    )  # fmt: skip
    processor = LlavaProcessor(
        image_processor=llava.processor.image_processor,  # type: ignore[union-attr]
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    loaded = dataclasses.replace(llava, tokenizer=tokenizer, processor=processor)
    for prompt in TYPED:
        for seeing in (False, True):
            read(loaded, seeing, prompt)


def test_a_prompt_of_which_the_tokenizer_keeps_nothing_is_refused(llava: LoadedModel):
    loaded = with_template(llava, CHAT)
    loaded.tokenizer._tokenizer = copy.deepcopy(loaded.tokenizer._tokenizer)
    loaded.tokenizer._tokenizer.normalizer = normalizers.BertNormalizer()
    with pytest.raises(PromptUnusable, match="reads nothing in this prompt"):
        encode(loaded, "\x00\x07")


def without_bytes() -> Tokenizer:
    """SmolLM2's kind: bytes as letters, but no token for those that its corpus didn't hold, and none for the unknown."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    core.train_from_iterator([TEXT, "\u65e5"], trainer)
    return core


def test_a_letter_that_the_tokenizer_would_drop_is_named(llama: LoadedModel):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=without_bytes(), eos_token="</s>")
    loaded = dataclasses.replace(llama, tokenizer=tokenizer)
    assert read(loaded, False, "A cat \u65e5 \x01\u0301.").startswith("A cat ")
    for prompt, lost in (("A cat Ω!", "'!', 'Ω'"), ("\u672c", "'\u672c'"), ("Two \u65e4 dogs", "'\u65e4'")):
        with pytest.raises(PromptUnusable, match=f"has no token for {lost}, and would leave it out|reads nothing"):
            encode(loaded, prompt)


class Cutting(LlavaProcessor):
    """Loses what comes after the hundredth character."""

    def __call__(self, *args: Any, text: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().__call__(*args, text=text[:100], **kwargs)


def test_a_processor_that_loses_the_prompt_is_found_out(llava: LoadedModel):
    loaded = with_template(llava, CHAT)
    loaded.processor.__class__ = Cutting  # type: ignore[union-attr]
    assert read(loaded, True) == f"user: {PROMPT}assistant: "
    with pytest.raises(ModelFailed, match="doesn't hold the prompt"):
        read(loaded, True, "word " * 30)


def test_rendering_costs_little(llava: LoadedModel):
    loaded = with_template(llava, CHAT)
    templated(loaded, PROMPT, seeing=True)
    started = time.process_time()
    for _ in range(20):
        templated(loaded, PROMPT, seeing=True)
    assert time.process_time() - started < 20 * 0.02
