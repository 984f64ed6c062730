"""The copy of negguide/guidance that the ComfyUI nodes carry, so that they need neither negguide nor diffusers.

python scripts/comfyui_guidance.py            # writes it to comfyui/guidance/
python scripts/comfyui_guidance.py --check    # exits with 1 when it differs
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "negguide" / "guidance"
COPY = ROOT / "comfyui" / "guidance"
PACKAGE = "negguide.guidance"
# what the nodes use by name; what these files import follows
WANTED = ("attention", "automatic", "score", "tokens", "window", "grid")


def copies() -> dict[str, str]:
    """{file name: text} of the copy."""
    names, found = list(WANTED), {}
    while names:
        name = names.pop()
        if f"{name}.py" in found:
            continue
        text = (SOURCE / f"{name}.py").read_text()
        imported = [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
        names += [module.removeprefix(f"{PACKAGE}.") for module in imported if module and PACKAGE in module]
        note = f"# Written by scripts/{Path(__file__).name} from negguide/guidance/{name}.py; change that.\n"
        found[f"{name}.py"] = note + text.replace(f"from {PACKAGE}.", "from .")
    found["__init__.py"] = '"""Guidance as pure tensor functions: a copy of negguide.guidance."""\n'
    return found


def main() -> int:
    wanted = copies()
    present = {path.name: path.read_text() for path in COPY.glob("*.py")}
    if "--check" in sys.argv:
        differing = sorted(name for name in wanted | present if wanted.get(name) != present.get(name))
        if differing:
            print(f"comfyui/guidance: run scripts/{Path(__file__).name}; differing: {', '.join(differing)}")
        return int(bool(differing))
    COPY.mkdir(parents=True, exist_ok=True)
    for name in present.keys() - wanted.keys():
        (COPY / name).unlink()
    for name, text in wanted.items():
        (COPY / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
