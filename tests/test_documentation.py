"""README and documentation say what the registries hold, and their snippets run."""

import ast
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import typer
from PIL import Image

import negguide
from negguide.cli import app

PROJECT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(PROJECT)) for path in (PROJECT / "docs").rglob("*.md"))]


def snippets(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (PROJECT / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def tables() -> Any:
    path = PROJECT / "scripts" / "registry_tables.py"
    spec = importlib.util.spec_from_file_location("registry_tables", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_registries(tables: Any) -> None:
    for file in tables.TABLES:
        text = (PROJECT / file).read_text()
        assert tables.rendered(file, text) == text, "run python scripts/registry_tables.py"


def test_the_tables_name_every_method_family_and_pipeline() -> None:
    methods = (PROJECT / "docs" / "methods" / "index.md").read_text()
    for method in negguide.registered_methods():
        assert f"`{method.__name__}(" in methods
        assert (PROJECT / "docs" / "methods" / f"{method.key}.md").is_file()
    table = (PROJECT / "docs" / "families.md").read_text()
    for family in negguide.registered_families():
        # a row holds the families whose name goes on from its own
        assert any(family.name.startswith(row.split(" | ")[0].strip("| ")) for row in table.splitlines())
        for pipeline in family.pipelines:
            assert f"`{pipeline if isinstance(pipeline, str) else pipeline.__name__}`" in table
        for modular in family.modulars:
            assert f"`{modular.model_name}`" in table


def test_a_table_without_its_marks_is_refused(tables: Any) -> None:
    with pytest.raises(ValueError, match=r"README\.md must hold <!-- table: count --> and"):
        tables.rendered("README.md", "no marks")


def test_the_readme_is_short_and_leads_everywhere() -> None:
    text = (PROJECT / "README.md").read_text()
    assert len(text.splitlines()) <= 160
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in target or (PROJECT / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_page_or_a_picture_leads_somewhere(page: str) -> None:
    folder = (PROJECT / page).parent
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (PROJECT / page).read_text()):
        if "://" not in target:
            # the site shows the benchmarks' plots under this name
            path = PROJECT / "benchmarks" / target if target.startswith("results/") else folder / target
            assert path.exists(), target


def test_the_messages_of_troubleshooting_are_messages_of_the_package() -> None:
    page = (PROJECT / "docs" / "troubleshooting.md").read_text()
    said = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(said) >= 6
    # a message may be wrapped anywhere in the source
    source = re.sub(
        r'"\s+f?"', "", "".join(path.read_text() for path in (PROJECT / "negguide").rglob("*.py"))
    )
    assert [message for message in said if message not in source] == []


def test_every_python_snippet_parses_and_names_only_what_negguide_has() -> None:
    found = [snippet for page in PAGES for snippet in snippets(page)]
    assert len(found) >= 20
    for snippet in found:
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom) and node.module == "negguide":
                assert all(hasattr(negguide, alias.name) for alias in node.names), snippet
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "negguide":
                assert hasattr(negguide, node.attr) or node.attr == "toyworld", node.attr


def commands(page: str) -> list[list[str]]:
    """The words of every call of negguide in a page's shell snippets, comments and continuations taken out."""
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", (PROJECT / page).read_text(), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [found[1:] for found in words if found[:1] == ["negguide"]]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists_with_its_options(page: str) -> None:
    for words in commands(page):
        command: Any = typer.main.get_command(app)
        context = command.make_context("negguide", [], resilient_parsing=True)
        rest = list(words)
        while hasattr(command, "get_command"):
            name = rest.pop(0)
            found = command.get_command(context, name)
            assert found is not None, f"negguide {' '.join(words)}"
            command = found
        known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
        said = {word.partition("=")[0] for word in rest if re.match(r"-{1,2}[a-z]", word)}
        assert said <= known, f"negguide {' '.join(words)}: {said - known}"


def test_the_commands_of_the_pages_are_found() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 40


@pytest.fixture
def embedded(toyworld_pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every model that a page loads is the embedded one, in few steps, on the CPU; files go to a new folder."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("pip.png")
    Image.new("RGB", (64, 64), "red").save("photo.png")
    components = dict(toyworld_pipeline.components)
    components["scheduler"] = type(components["scheduler"]).from_config(components["scheduler"].config)

    def load(cls: Any, *_: Any, **__: Any) -> Any:
        plain = diffusers.StableDiffusionPipeline(**components, requires_safety_checker=False)
        plain.set_progress_bar_config(disable=True)
        return plain

    def few(self: Any, num_inference_steps: int, *args: Any, **more: Any) -> None:
        set_timesteps(self, min(num_inference_steps, 4), *args, **more)

    set_timesteps = diffusers.DDIMScheduler.set_timesteps
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(load))
    monkeypatch.setattr(diffusers.DiffusionPipeline, "to", lambda self, *args, **more: self)
    monkeypatch.setattr(diffusers.DDIMScheduler, "set_timesteps", few)
    return lambda: negguide.from_pipe(load(None))


RUNS = {
    "README.md": None,
    "docs/pipelines.md": None,
    "docs/quickstart.md": None,
    "docs/without-cfg.md": None,
    "docs/seeds-alike.md": None,
    "docs/away-from-an-image.md": None,
    **{page: None for page in PAGES if page.startswith("docs/methods/") and page != "docs/methods/index.md"},
}
"""Pages whose snippets are run from top to bottom, as a reader would."""


@pytest.mark.parametrize("page", RUNS)
def test_the_snippets_of_a_page_run_from_top_to_bottom(page: str, embedded: Callable[[], Any]) -> None:
    size = embedded().text_encoder.config.hidden_size
    names: dict[str, Any] = {
        "negguide": negguide,
        "pipe": embedded(),
        "model": "owner/name",
        "DiffusionPipeline": diffusers.DiffusionPipeline,
        "torch": torch,
        # what a reader has: a text encoded elsewhere
        "embeds": torch.zeros(1, 77, size),
        "embeddings": torch.zeros(1, 77, size),
        "pooled": torch.zeros(1, size),
    }
    names |= {name: getattr(negguide, name) for name in ("Negative", "NegToMe", "PerpNeg", "NAG")}
    found = snippets(page)
    assert found
    for snippet in found:
        exec(compile(snippet, page, "exec"), names)
    if "images" in names:
        assert all(isinstance(image, Image.Image) for image in names["images"])


def test_a_method_written_as_in_the_documentation_works(toyworld_pipeline: Any) -> None:
    from negguide.methods import registry

    (snippet,) = [one for one in snippets("docs/extending.md") if "@negguide.register_method" in one]
    before = dict(registry._METHODS)
    names: dict[str, Any] = {}
    exec(snippet, names)
    try:
        call = {
            "num_inference_steps": 3,
            "guidance_scale": 1.0,
            "output_type": "latent",
        }

        def draw(**more: Any) -> torch.Tensor:
            generator = torch.Generator().manual_seed(0)
            latents: torch.Tensor = toyworld_pipeline("a bear", generator=generator, **call, **more).images
            return latents

        assert not torch.equal(draw(negative_guidance=names["Minus"]("brown fur")), draw())
    finally:
        registry._METHODS.clear()
        registry._METHODS.update(before)


def test_a_loss_and_a_suite_written_as_in_the_documentation_are_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from negguide.vlm import make_suite
    from negguide.vlm.evaluation.suites import registry as suites
    from negguide.vlm.losses import registry as losses

    # they are imported when they are first asked for
    assert losses.registered_losses() and suites.registered_suites()
    own_losses, own_suites = dict(losses._LOSSES), dict(suites._READERS)
    monkeypatch.setattr(losses, "_LOSSES", own_losses)
    monkeypatch.setattr(suites, "_READERS", own_suites)
    known = {*own_losses, *own_suites}
    (snippet,) = [one for one in snippets("docs/extending.md") if "@register_loss" in one]
    exec(snippet, {})
    (loss,), (suite,) = own_losses.keys() - known, own_suites.keys() - known
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    inputs = {
        "image": features,
        "text": features,
        "negative_text": features.flip(0),
        "valid": features[0] > 0,
    }
    assert own_losses[loss](inputs) == 0
    Image.new("RGB", (4, 4)).save(tmp_path / "cat.png")
    (part,) = make_suite(f"{suite}:{tmp_path}").parts.values()
    assert part.items[0].options[0] == "a cat"


def test_a_rule_written_as_in_the_documentation_edits_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    from negguide.mining import item
    from negguide.mining.edits.caption import Caption
    from negguide.mining.edits.english import EnglishRules

    monkeypatch.setattr(item, "CATEGORIES", (*item.CATEGORIES, "weather"))
    (snippet,) = [one for one in snippets("docs/extending.md") if "def weathers(caption)" in one]
    names: dict[str, Any] = {}
    exec(snippet, names)
    tagger = EnglishRules().tagger

    def edited(text: str) -> list[str]:
        caption = Caption(text, tagger.tag(text), tagger.parses)
        return [candidate.edit.caption for candidate in names["weathers"](caption)]

    assert edited("A street on a rainy day") == ["A street on a sunny day"]
    assert edited("A street that is not rainy") == []


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is in the extra docs alone")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    import subprocess

    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        # and not quiet, or warnings are not even counted
        "--strict",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in PAGES[1:]:
        assert (tmp_path / "site" / Path(page).relative_to("docs").with_suffix(".html")).is_file()
