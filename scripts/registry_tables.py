"""What README and documentation say of methods and families, from the registries.

python scripts/registry_tables.py           # writes it
python scripts/registry_tables.py --check   # exits with 1 when something else stands there
"""

import sys
from pathlib import Path

from negguide import Family, registered_families, registered_methods
from negguide.methods import NegativesMethod

PROJECT = Path(__file__).parents[1]
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


def families_count() -> str:
    """One sentence: how many families and pipelines there are."""
    # of the table, in which families of one name stand together
    groups = len(families_table().splitlines()) - 2
    families = registered_families()
    pipelines = sum(len(family.pipelines) for family in families)
    modular = sum(len(family.modulars) for family in families)
    return (
        f"{groups} model families, {pipelines} pipelines and {modular} modular ones take them: "
        "[docs/families.md](docs/families.md)."
    )


TABLES = {
    "README.md": {"count": families_count},
    "docs/families.md": {"families": families_table},
    "docs/methods/index.md": {"methods": methods_table},
}
"""By file, what stands between the marks of a name."""


def rendered(file: str, text: str) -> str:
    """The text of a file with what the registries have between its marks.

    Raises:
        ValueError: the marks do not stand there once each.
    """
    for name, table in TABLES[file].items():
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end of table: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{file} must hold {begin.strip()} and {end} once each")
        before, rest = text.split(begin)
        text = f"{before}{begin}{table()}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Write what stands between the marks, or check it."""
    old = {file: (PROJECT / file).read_text() for file in TABLES}
    new = {file: rendered(file, text) for file, text in old.items()}
    changed = [file for file in TABLES if new[file] != old[file]]
    if "--check" in sys.argv[1:]:
        sys.exit(f"{', '.join(changed)}: run scripts/registry_tables.py" if changed else 0)
    for file in changed:
        (PROJECT / file).write_text(new[file])


if __name__ == "__main__":
    main()
