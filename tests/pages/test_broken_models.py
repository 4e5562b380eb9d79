"""Every page on a model whose own files don't fit: its sentence, and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from lens.backend import catalog
from tests.helpers import tiny_llava

PAGES = ("latentlens", "embedlens", "functiontokens", "segmaps")
STRING = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"


def script(page: str) -> None:
    """A page as the navigation runs it."""
    import runpy

    from ui import navigation

    with navigation.around(page):
        runpy.run_path(f"pages/{page}.py")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of models, named by what is wrong with them."""
    folder = tmp_path_factory.mktemp("broken")
    for name, template in (("raises", "{{ raise_exception('roles must alternate') }}"), ("string", STRING)):
        tiny_llava(folder / name)
        (folder / name / "chat_template.jinja").write_text(template, encoding="utf-8")
    mismatched: Any = tiny_llava(folder / "mismatched").processor
    mismatched.patch_size = 16
    mismatched.save_pretrained(folder / "mismatched")
    grown: Any = tiny_llava(folder / "grown").processor
    grown.tokenizer.add_tokens(["<extra>"])
    grown.save_pretrained(folder / "grown")
    rows = [f'["{path.name}"]\nsource = "{path}"\n' for path in folder.iterdir()]
    (folder / "catalog.toml").write_text("\n".join(rows), encoding="utf-8")
    return folder / "catalog.toml"


@pytest.fixture
def told(broken: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """All that a page says at an address."""
    monkeypatch.setattr(catalog, "SHIPPED", broken)

    def run(page: str, **address: str) -> str:
        app = AppTest.from_function(script, args=(page,), default_timeout=60)
        for name, value in address.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, [one.message for one in app.exception]
        return "\n".join(
            one.value for kind in ("error", "warning", "info", "text", "markdown", "caption") for one in app.get(kind)
        )

    return run


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("raises", "The chat template of the model 'raises' can't be rendered (TemplateError: roles must alternate)"),
        ("mismatched", "Image features and image tokens do not match"),
        ("grown", "The text holds the token '<extra>' (id 400)"),
    ],
)
def test_a_page_says_what_is_wrong(page: str, name: str, sentence: str, told: Callable[..., str]):
    typed = "What <extra> is it?" if name == "grown" else "What is it?"
    assert sentence in told(page, model=name, prompt=typed, text=typed)


@pytest.mark.parametrize("page", PAGES)
def test_a_template_for_strings_is_a_model_like_any_other(page: str, told: Callable[..., str]):
    found = told(page, model="string", prompt="What is it?")
    assert "chat template" not in found and "fails" not in found
