"""The README's tables of methods and families, from the registries.

python scripts/readme_tables.py           # writes them into README.md
python scripts/readme_tables.py --check   # exits with 1 when README.md has others
"""

import sys
from pathlib import Path

from negguide import registered_families, registered_methods
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
    """One row a family with pipelines."""
    rows = ["| family | pipelines | reference images for NegToMe |", "|---|---|---|"]
    for family in registered_families():
        names = [f"`{name if isinstance(name, str) else name.__name__}`" for name in family.pipelines]
        takes = "no" if family.encode_image is None else "yes"
        rows.append(f"| {family.name} | {', '.join(names)} | {takes} |")
    return "\n".join(rows)


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
