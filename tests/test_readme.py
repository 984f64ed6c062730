"""The README says what the registries hold, and its snippets are what they say."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import negguide

PROJECT = Path(__file__).parents[1]


def tables() -> Any:
    spec = importlib.util.spec_from_file_location("readme_tables", PROJECT / "scripts" / "readme_tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_registries() -> None:
    text = (PROJECT / "README.md").read_text()
    assert tables().rendered(text) == text, "run python scripts/readme_tables.py"
    for method in negguide.registered_methods():
        assert f"`{method.__name__}(" in text
    table = text.split("<!-- table: families -->")[1].split("<!-- end of table: families -->")[0]
    for family in negguide.registered_families():
        # a row holds the families whose name goes on from its own
        assert any(family.name.startswith(row.split(" | ")[0].strip("| ")) for row in table.splitlines()[3:])
        for pipeline in family.pipelines:
            assert f"`{pipeline if isinstance(pipeline, str) else pipeline.__name__}`" in table
        for modular in family.modulars:
            assert f"`{modular.model_name}`" in table


def test_every_python_snippet_parses_and_names_only_what_negguide_has() -> None:
    text = "".join(path.read_text() for path in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")))
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) >= 6
    for snippet in snippets:
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom) and node.module == "negguide":
                assert all(hasattr(negguide, alias.name) for alias in node.names), snippet
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "negguide":
                assert hasattr(negguide, node.attr) or node.attr == "toyworld", node.attr


def test_a_method_written_as_in_the_documentation_works(toyworld_pipeline: Any) -> None:
    import torch

    from negguide.methods import AttentionMethod, registry

    text = (PROJECT / "docs" / "extending.md").read_text()
    (snippet,) = re.findall(r"```python\n(@negguide\.register_method.*?)```", text, re.DOTALL)
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
