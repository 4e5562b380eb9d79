"""The command line on a tiny model and an index that it builds itself: output, exit status, one sentence per error."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lens.backend.catalog import ModelSpec, find
from lens.backend.encoding import DEFAULT_PROMPT, encode
from lens.backend.images import open_picture
from lens.backend.loading import load
from lens.backend.tracing import trace
from lens.cli import main
from lens.commands.terminal import printable
from lens.home import project_root
from lens.latentlens.index import open_index
from lens.latentlens.reading import as_json, read
from tests.helpers import TEXT, tiny_llama, tiny_llava

HOSTILE = "<script>alert('cat')</script> \x1b[31mA red cat"


@dataclass(frozen=True)
class Place:
    """Files that every test reads and none changes."""

    model: str
    other: str
    text_only: str
    image: str
    index: str
    corpus: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("cli")
    tiny_llava(folder / "llava")
    tiny_llava(folder / "other", seed=1)
    tiny_llama(folder / "llama")
    pixels = np.random.default_rng(5).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    (folder / "lines.txt").write_text(f"{TEXT}\n{HOSTILE}\n", encoding="utf-8")
    names = {
        name: str(folder / path) for name, path in [("model", "llava"), ("other", "other"), ("text_only", "llama")]
    }
    place = Place(
        **names, image=str(folder / "photo.png"), index=str(folder / "lines"), corpus=str(folder / "lines.txt")
    )
    arguments = ["index", "build", place.corpus, "--model", place.model, "--out", place.index]
    assert main([*arguments, "--layers", "1,3", "--factory", "Flat"]) == 0
    return place


@pytest.fixture
def run(place: Place, capsys: pytest.CaptureFixture[str]):
    """Run one command in this process: (status, stdout, stderr)."""

    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def look(run, place: Place):
    """``latentlens`` on the photo with the tiny model and its index."""

    def call(*argv: object) -> tuple[int, str, str]:
        return run("latentlens", place.image, "--model", place.model, "--index", place.index, *argv)

    return call


def sentence(result: tuple[int, str, str]) -> str:
    """The one sentence of a failed command."""
    status, out, err = result
    assert status == 2, (out, err)
    assert out == ""
    assert err.endswith((".\n", "`.\n")) and err.count("\n") == 1
    assert "Traceback" not in err
    return err.strip()


def test_json_is_what_the_page_reads(look, place: Place) -> None:
    status, out, err = look("--layer", 2, "--lens", "all", "--json", "-", "--top-k", 3)
    assert (status, err) == (0, "")
    loaded = load(find(place.model))
    encoded = encode(loaded, DEFAULT_PROMPT, open_picture(place.image))
    index = open_index(place.index, loaded)
    assert json.loads(out) == as_json(read(loaded, trace(loaded, encoded, ["hidden.2"]), index, 2, k=3))


def test_json_has_exactly_the_keys_of_the_interface(look) -> None:
    lists = {"latent": ["word", "token", "similarity", "layer", "sentence"]}
    lists |= {"logit": ["word", "token", "logit"], "embedding": ["word", "token", "similarity"]}
    for lens, keys in lists.items():
        found = json.loads(look("--lens", lens, "--patch", "2,3", "--json", "-", "--top-k", 4)[1])
        assert list(found) == ["model", "index", "image", "grid", "layer", "lens", "patches"]
        assert (found["model"], found["lens"], found["layer"]) == ("llava", lens, 2)
        assert found["index"] == ("lines" if lens == "latent" else None)
        assert found["image"] == {"width": 90, "height": 60} and found["grid"] == {"rows": 6, "cols": 6}
        (patch,) = found["patches"]
        assert list(patch) == ["row", "col", "box", "neighbours"]
        assert patch["box"] == [45.0, 20.0, 55.0, 30.0]
        assert [list(neighbour) for neighbour in patch["neighbours"]] == [keys] * 4


def test_json_to_a_file_is_utf8_and_leaves_stdout_alone(look, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    assert look("--patch", "0,0", "--json", target) == (0, "", "")
    assert look("--patch", "0,0", "--json", "-")[1] == target.read_text(encoding="utf-8")
    refused = sentence(look("--patch", "0,0", "--json", tmp_path / "no" / "out.json"))
    assert "out.json" in refused and "a folder that is there" in refused


def test_a_region_is_the_union_of_its_patches(look) -> None:
    def patches(*argv: str) -> list:
        return json.loads(look("--layer", "1", "--json", "-", *argv)[1])["patches"]

    def alike(ours: list, theirs: list) -> bool:
        names = [[(p["row"], p["col"], [n["token"] for n in p["neighbours"]]) for p in side] for side in (ours, theirs)]
        return names[0] == names[1]

    region = patches("--region", "1,2,2,4")
    cells = [(row, col) for row in (1, 2) for col in (2, 3, 4)]
    assert [(p["row"], p["col"]) for p in region] == cells
    assert alike(region, [patch for row, col in cells for patch in patches("--patch", f"{row},{col}")])
    assert alike(region, patches("--region", "1,2,1,4", "--region", "2,2,2,4", "--patch", "1,2"))
    assert alike(patches(), patches("--region", "0,0,5,5"))


def test_the_table(look) -> None:
    status, out, err = look("--patch", "4,1", "--lens", "all", "--top-k", 2, "--layer", 3)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "llava, index lines, layer 3, photo.png (90 x 60 pixels, 6 x 6 patches)"
    assert lines[2].split()[:5] == ["patch", "lens", "score", "word", "layer"]
    assert [line.split()[0] for line in lines[3:]] == ["4,1", "latent", "logit", "logit", "embedding", "embedding"]
    found = json.loads(look("--patch", "4,1", "--top-k", 1, "--layer", 3, "--json", "-")[1])["patches"][0][
        "neighbours"
    ][0]
    assert f"{found['similarity']:.3f}" in lines[3] and f" {found['layer']}  " in lines[3]
    # All that the causal model had read of the sentence stands before the bar, the token itself last.
    before, _, after = lines[3].partition(" | ")
    assert before.endswith(printable(found["token"]))
    assert found["sentence"].endswith(after.strip())


def test_sentences_can_steer_neither_the_terminal_nor_a_page(look) -> None:
    """Printed text has no control characters; JSON holds the sentence as it is, for the page to escape."""
    table_text = look("--top-k", 200, "--layer", 1)[1]
    assert "<script>alert('cat')</script>" in table_text.replace(" | ", "")
    assert "\x1b" not in table_text
    sentences = {
        neighbour["sentence"]
        for patch in json.loads(look("--top-k", 200, "--layer", 1, "--json", "-")[1])["patches"]
        for neighbour in patch["neighbours"]
    }
    assert HOSTILE in sentences


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--patch", "6,0"), r"Patch 6,0 .* rows 0 to 5 and columns 0 to 5"),
        (("--patch", "-1,0"), r"Patch -1,0 .* rows 0 to 5"),
        (("--region", "0,0,6,0"), r"Patch 6,0"),
        (("--region", "3,0,2,0"), r"region 3,0,2,0 ends before it starts"),
        (("--patch", "1"), r"'1' is not of the form ROW,COL"),
        (("--patch", "a,b"), r"'a,b' is not of the form ROW,COL"),
        (("--region", "1,2"), r"'1,2' is not of the form R0,C0,R1,C1"),
        (("--layer", "5"), r"Layer 5 .* 0 \(input embeddings\) to 4"),
        (("--layer", "-1"), r"Layer -1 "),
        (("--layer", "two"), r"--layer: invalid int value: 'two'"),
        (("--top-k", "0"), r"'0' is no number from 1"),
        (("--lens", "tuned"), r"'tuned' .*'latent', 'logit', 'embedding', 'all'"),
        (("--prompt", ""), r"prompt is empty"),
        (("--prompt", "word " * 1000), r"prompt has [\d,]+ tokens, but at most 512"),
        (("--prompt", "word " * 20_000), r"prompt has 100,000 characters, but at most 32,768"),
        (("--model", "no-such-model"), r"no model 'no-such-model': .*demo"),
        (("--index", "no-such-index"), r"no index at 'no-such-index'"),
        (("--frames", "2"), r"Unrecognized arguments: --frames 2"),
    ],
)
def test_each_mistake_is_one_sentence(look, argv: tuple[str, ...], says: str) -> None:
    assert re.search(says, sentence(look(*argv)))


def test_an_emoji_prompt_works(look) -> None:
    assert look("--prompt", "🐈", "--patch", "0,0")[0] == 0


def test_bad_images(run, place: Place, tmp_path: Path) -> None:
    def attempt(name: str) -> str:
        return sentence(run("latentlens", tmp_path / name, "--model", place.model, "--index", place.index))

    (tmp_path / "text.png").write_text("no image")
    buffer = io.BytesIO()
    Image.open(place.image).save(buffer, "JPEG")
    (tmp_path / "half.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    assert "text.png" in attempt("text.png")
    assert "half.jpg" in attempt("half.jpg")
    assert "absent.png" in attempt("absent.png")
    # A name that would move the cursor, and one on two lines, still make one plain line.
    (tmp_path / "\x1b[2Jevil\nname.png").write_text("no image")
    assert "\x1b" not in attempt("\x1b[2Jevil\nname.png")


def test_models_that_do_not_fit(run, place: Place) -> None:
    image, index = place.image, place.index
    other = sentence(run("latentlens", image, "--model", place.other, "--index", index))
    assert "lines was built from llava, not from other" in other and "weights" in other
    text_only = sentence(run("latentlens", image, "--model", place.text_only, "--index", index))
    assert "text-only" in text_only
    missing = sentence(run("latentlens", image, "--model", place.model))
    assert "index build CORPUS" in missing and place.model in missing and "--index DIR" in missing


def test_without_the_latent_lens_no_index_is_needed(run, place: Place) -> None:
    status, out, err = run("latentlens", place.image, "--model", place.model, "--lens", "logit", "--patch", "0,0")
    assert (status, err) == (0, "") and "logit" in out and "index" not in out


def test_a_damaged_index_is_refused_by_every_command(run, place: Place, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(place.index, damaged)
    file = next(damaged.glob("*.faiss"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    look = ("latentlens", place.image, "--model", place.model, "--index", damaged)
    for argv in (look, ("index", "info", damaged), ("index", "verify", damaged)):
        refused = sentence(run(*argv))
        assert file.name in refused and "altered" in refused


def test_index_info_and_verify(run, place: Place) -> None:
    status, out, err = run("index", "info", place.index)
    assert (status, err) == (0, "")
    manifest = open_index(place.index).manifest
    for fact in (
        manifest.language_fingerprint,
        manifest.corpus_digest,
        "lines.txt",
        "Flat",
        f"{manifest.rows:,} contexts",
    ):
        assert fact in out
    assert [line.split()[:2] for line in out.splitlines()[-2:]] == [["1", "1.0000"], ["3", "1.0000"]]
    status, out, err = run("index", "verify", place.index)
    assert (status, out, err) == (0, f"lines: all {len(manifest.files)} files are as they were built.\n", "")
    assert "manifest.json" in sentence(run("index", "verify", Path(place.index).parent))


def test_names_of_folders_can_not_steer_the_terminal(run, tmp_path: Path) -> None:
    folder = tmp_path / "\x1b[2Jtwo\nlines"
    folder.mkdir()
    assert "\x1b" not in sentence(run("index", "info", folder))


def test_index_build_refuses(run, place: Place, tmp_path: Path) -> None:
    def attempt(corpus: str | Path, *argv: object) -> str:
        return sentence(
            run("index", "build", corpus, "--model", place.model, "--out", tmp_path / Path(corpus).stem, *argv)
        )

    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "table.csv").write_text("sentence\nA cat\n")
    (tmp_path / "notes.doc").write_text("A cat")
    assert "no corpus at" in attempt(tmp_path / "absent.txt")
    assert "empty.txt" in attempt(tmp_path / "empty.txt")
    assert "sentence" in attempt(tmp_path / "table.csv")
    assert "notes.doc" in attempt(tmp_path / "notes.doc")
    assert "Layer 9" in attempt(place.corpus, "--layers", "1,9")
    assert "'1,x' is no list of layers" in attempt(place.corpus, "--layers", "1,x")
    assert "Nonsense" in attempt(place.corpus, "--factory", "Nonsense")
    assert "invalid choice: 'last'" in attempt(place.corpus, "--rule", "last")
    assert "already holds" in sentence(
        run("index", "build", place.corpus, "--model", place.model, "--out", place.index)
    )
    assert "required: --out" in sentence(run("index", "build", place.corpus))


def test_index_build_with_options(run, place: Place, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id,sentence\n1,A cat sat on a mat\n2,Two dogs run\n")
    argv = ["index", "build", tmp_path / "table.csv", "--column", "sentence", "--model", place.model]
    status, out, _ = run(*argv, "--out", tmp_path / "out", "--rule", "reservoir", "--layers", "2")
    assert status == 0 and "table.csv" in out and "reservoir" in out
    index = open_index(tmp_path / "out")
    assert index.layers == (2,) and index.manifest.factory == "SQ8" and index.manifest.rule.cap == 20
    again = run(*argv, "--out", tmp_path / "out", "--rule", "reservoir", "--layers", "2", "--resume")
    assert again[:2] == (0, out)


def test_models_lists_the_catalog(run) -> None:
    status, out, err = run("models")
    assert (status, err) == (0, "")
    for name in ("demo", "demo-scratch", "llava-1.5-7b"):
        assert re.search(rf"^{re.escape(name)} \((on disk|not on disk|made when first used)\): ", out, re.M)
    assert "llava-hf/llava-1.5-7b-hf" in out
    assert re.search(r"^demo-seg \((on disk|made from demo when first used)\): ", out, re.M)
    assert "little better than chance" in " ".join(out.split())


def test_a_broken_catalog_is_one_sentence(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENLENS_HOME", str(tmp_path))
    (tmp_path / "catalog.toml").write_text("[mine]\ntitle = 'x'\n")
    assert "[mine] needs a key 'source'" in sentence(run("models"))


def test_no_command(run) -> None:
    assert "COMMAND" in sentence(run())


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom lens.cli import main\n"
        "try:\n    main(['latentlens', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'faiss', 'numpy', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project_root(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "--region R0,C0,R1,C1" in done.stdout


def test_as_a_process_stderr_is_silent_and_the_locale_does_not_matter(place: Place) -> None:
    """Libraries warn when they are asked to, and some characters among the tokens are no ASCII."""
    argv = [place.image, "--model", place.model, "--lens", "logit", "--top-k", "300", "--patch", "1,1", "--json", "-"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "always"}
    command = [sys.executable, "-m", "lens", "latentlens", *argv]
    done = subprocess.run(command, cwd=project_root(), capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    found = {word["token"] for word in json.loads(done.stdout.decode("utf-8"))["patches"][0]["neighbours"]}
    assert any(re.fullmatch(r"<[0-9A-F]{2}( [0-9A-F]{2})*>", word) for word in found), (
        "bytes that are no whole character"
    )


def test_ctrl_c_during_a_build_says_how_to_go_on(place: Place, tmp_path: Path) -> None:
    corpus, out = tmp_path / "long.txt", tmp_path / "out"
    corpus.write_text("".join(f"Number {i} is a green apple of the kind {i * 7}.\n" for i in range(200_000)))
    argv = [sys.executable, "-m", "lens", "index", "build", str(corpus), "--model", place.model, "--out", str(out)]
    with subprocess.Popen(
        argv,
        cwd=project_root(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a script is started with Ctrl-C ignored, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 120
        while not out.is_dir() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "Stopped; the same command goes on from here."


def test_a_reader_who_has_seen_enough(place: Place) -> None:
    """``… | head -1``: no complaint about the closed pipe."""
    argv = [sys.executable, "-m", "lens", "latentlens", place.image, "--model", place.model, "--index", place.index]
    command = " ".join(f"'{word}'" for word in [*argv, "--top-k", "200"]) + " | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=project_root(), capture_output=True, text=True)
    assert done.stdout.startswith("llava, index lines") and done.stderr == ""


def test_a_file_that_may_not_be_used(run, place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = sentence(run("index", "verify", tmp_path / "file" / "index"))
    assert "file" in refused
    too_long = sentence(run("index", "build", "word " * 1000, "--model", place.model, "--out", tmp_path / "out"))
    assert "can't be used (File name too long)" in too_long


def test_unknown_model_folder_without_a_model(run, place: Place, tmp_path: Path) -> None:
    refused = sentence(run("latentlens", place.image, "--model", tmp_path, "--index", place.index))
    assert "config.json" in refused
    assert find(str(tmp_path)) == ModelSpec(tmp_path.name, str(tmp_path.resolve()), tmp_path.name)
