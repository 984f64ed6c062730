"""The README's tables of methods and families, from the registries.

python scripts/readme_tables.py           # writes them into README.md
python scripts/readme_tables.py --check   # exits with 1 when README.md has others
"""

import sys
from pathlib import Path

from negguide import Family, registered_families, registered_methods
from negguide.methods import NegativesMethod

README = Path(__file__).parents[1] / "README.md"
_SPACES = {
    "score": "score space, one prediction a prompt",
    "token": "self-attention tokens",
    "attention": "attention, image to text",
}


def methods_table() -> str:
    """One row a method."""
    rows = ["| method | where it acts | what it does | source |", "|---|---|---|---|"]
    for method in registered_methods():
        example = (
            f'{method.__name__}("black glasses")'
            if issubclass(method, NegativesMethod)
            else f"{method.__name__}()"
        )
        number = method.source.removeprefix("arXiv ")
        source = f"[{number}](https://arxiv.org/abs/{number})" if number != method.source else method.source
        rows.append(f"| `{example}` | {_SPACES[method.space]} | {method.summary} | {source} |")
    return "\n".join(rows)


def families_table() -> str:
    """One row for each family and those whose name begins with its own."""
    rows = ["| family | pipelines | modular | reference images for NegToMe |", "|---|---|---|---|"]
    families = registered_families()
    groups: dict[str, list[Family]] = {}
    for family in families:
        names = [other.name for other in families if family.name.startswith(f"{other.name} ")]
        groups.setdefault(min(names, key=len, default=family.name), []).append(family)
    for name, group in groups.items():
        pipelines = [_name(pipeline) for family in group for pipeline in family.pipelines]
        modular = [modular.model_name for family in group for modular in family.modulars]
        takes = [
            _name(pipeline)
            for family in group
            for pipeline in family.pipelines
            if family.encode_image is not None
        ]
        images = "yes" if takes == pipelines else "no" if not takes else f"in {_code(takes)}"
        cells = [name, _code(pipelines) or "-", _code(modular) or "-", images if pipelines else "no"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _name(pipeline: str | type) -> str:
    return pipeline if isinstance(pipeline, str) else pipeline.__name__


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


TABLES = {"methods": methods_table, "families": families_table}


def rendered(text: str) -> str:
    """`text` with the tables as the registries have them, between their marks."""
    for name, table in TABLES.items():
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end of table: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{README.name} must hold {begin.strip()} and {end} once each")
        before, rest = text.split(begin)
        text = f"{before}{begin}{table()}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Write the tables, or check them."""
    text = README.read_text()
    new = rendered(text)
    if "--check" in sys.argv[1:]:
        sys.exit(
            0
            if new == text
            else "README.md has other tables than the registries: run scripts/readme_tables.py"
        )
    README.write_text(new)


if __name__ == "__main__":
    main()
