"""The rooms of negguide.vlm: imports go one way, and users find everything at one place."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from PIL import Image

import negguide.vlm as vlm

ROOT = Path(vlm.__file__).parent


def imports(path: Path) -> set[str]:
    """The modules of negguide.vlm that a file needs to be imported: not those for types, nor inside functions."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("negguide.vlm"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def modules() -> dict[str, Path]:
    return {
        ".".join(("negguide.vlm", *path.relative_to(ROOT).with_suffix("").parts)): path
        for path in ROOT.rglob("*.py")
        if path.name != "__init__.py"
    }


def test_no_module_imports_itself_by_a_detour() -> None:
    known = modules()
    graph = {name: imports(path) & known.keys() for name, path in known.items()}
    assert len(graph) > 40
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_rooms_know_only_those_below_them() -> None:
    below = {
        "losses": {"losses"},
        "data": {"data", "losses", "models"},
        "evaluation": {"evaluation", "models"},
        "training": {"training", "data", "losses", "evaluation", "models"},
    }
    for name, path in modules().items():
        room = name.split(".")[2]
        if room in below:
            used = {m.split(".")[2] for m in imports(path) if m.startswith("negguide.vlm.")}
            assert used <= below[room], (name, used)


@pytest.mark.parametrize("name", vlm.__all__)
def test_every_public_name_is_at_one_place_and_described(name: str) -> None:
    assert (getattr(vlm, name).__doc__ or "").strip()
    assert name in dir(vlm)


def test_a_name_that_is_not_there_is_missed() -> None:
    with pytest.raises(AttributeError, match=r"module 'negguide\.vlm' has no attribute 'train'"):
        vlm.train  # noqa: B018


def test_the_loss_and_the_suite_of_the_documentation_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from negguide.vlm.evaluation.suites import registered_suites
    from negguide.vlm.evaluation.suites import registry as suites
    from negguide.vlm.losses import registry as losses

    known = set(vlm.registered_losses()), set(registered_suites())
    monkeypatch.setattr(losses, "_LOSSES", dict(losses._LOSSES))
    monkeypatch.setattr(suites, "_READERS", dict(suites._READERS))
    text = (ROOT.parents[1] / "docs" / "extending.md").read_text()
    (snippet,) = re.findall(r"```python\n(from negguide\.vlm import register_loss.*?)```", text, re.DOTALL)
    exec(snippet, {})
    assert set(vlm.registered_losses()) - known[0] == {"cosine"}
    assert set(registered_suites()) - known[1] == {"mine"}
    assert vlm.Settings("set", loss="cosine").columns == ("negative_caption",)
    Image.new("RGB", (4, 4)).save(tmp_path / "bear.png")
    assert vlm.make_suite(f"mine:{tmp_path}").parts[""].items[0].options == ("a bear", "nothing")


def test_nothing_is_printed_by_hand() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            )
            assert not called, path
