"""Methods and a model family that another package brings, in the demo."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from negguide import Negative, from_pipe
from negguide.demo.as_python import code
from negguide.demo.backend import Backend, Run
from negguide.demo.messages import what_happened
from negguide.demo.methods import method_labels, scales, with_method
from negguide.domain import Defaults
from negguide.methods.choices import methods_in_words
from negguide.toyworld.domain import TOYWORLD_DEFAULTS

PLAIN = Run("a bear wearing glasses", 2, 4.0, (0, 1))


def draw(backend: Backend, run: Run) -> Any:
    return backend.draw(run, lambda: None, threading.Event())


def test_its_methods_are_offered_by_their_labels(negguide_extra: Any) -> None:
    labels = method_labels()
    assert list(labels)[:2] == ["plain", "negative-prompt"]
    assert (labels["minus"], labels["whole"], labels["nag"]) == ("Minus", "Whole", "NAG")
    own = scales(Defaults())
    assert own["Minus"] == 0.25 and own["NAG"] == 5.0 and "Whole" not in own
    suited = {key: one["scale"] for key, one in TOYWORLD_DEFAULTS.attention.items() if "scale" in one}
    assert scales(TOYWORLD_DEFAULTS) == own | {methods_in_words()[key].label: suited[key] for key in suited}


def test_its_methods_draw_on_its_own_pipeline_and_say_what_happened(
    tiny_model: Path, negguide_extra: Any
) -> None:
    pipe = from_pipe(negguide_extra.ElsewherePipeline.from_pretrained(tiny_model))
    backend = Backend("owner/name", pipe=pipe)
    assert backend.suited.negtome == {"threshold": 0.65}
    plain = draw(backend, PLAIN)
    for method, said in (("minus", "Minus changed"), ("whole", "overlaps the prompt by")):
        run = with_method(PLAIN, method, [Negative("black glasses", stop=1.0)], None, "toyworld")
        drawn = draw(backend, run)
        assert drawn.images[0].tobytes() != plain.images[0].tobytes()
        assert said in what_happened(run.methods[0], drawn.trace, ["black glasses"])


def test_its_methods_as_python_are_imported_from_where_they_are(
    tiny_model: Path, tmp_path: Path, negguide_extra: Any
) -> None:
    backend = Backend(str(tiny_model))
    runs = [
        (method, with_method(PLAIN, method, [Negative("black glasses", 2.0)], 0.5, "toyworld"))
        for method in ("minus", "whole")
    ]
    text = code(backend, runs)
    assert "from negguide import Negative\n" in text
    assert "from negguide_extra import Minus\nfrom negguide_extra import Whole\n" in text
    assert "Minus(Negative('black glasses', weight=2.0), scale=0.5)" in text
    (tmp_path / "settings.py").write_text(text)
    helpers = str(Path(negguide_extra.__file__).parent)
    path = os.pathsep.join((helpers, str(Path(__file__).parents[2])))
    done = subprocess.run(
        [sys.executable, "settings.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"{method}-seed{seed}.png" for method in ("minus", "whole") for seed in (0, 1)
    }
