"""README and documentation say what the registries hold, and their snippets run."""

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

import negguide

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


@pytest.fixture
def embedded(toyworld_pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
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
    yield lambda: negguide.from_pipe(load(None))


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
    from negguide.methods import AttentionMethod, registry

    (snippet,) = [one for one in snippets("docs/extending.md") if "@negguide.register_method" in one]
    before = dict(registry._METHODS)
    names: dict[str, Any] = {
        "negguide": negguide,
        "AttentionMethod": AttentionMethod,
        "Negative": negguide.Negative,
    }
    exec("from dataclasses import dataclass\n" + snippet, names)
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


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is in the extra docs alone")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    import subprocess

    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in PAGES[1:]:
        assert (tmp_path / "site" / Path(page).relative_to("docs").with_suffix(".html")).is_file()
