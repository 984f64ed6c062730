"""ComfyUI in this very process: `test_comfyui_inside.py` starts pytest with ComfyUI's own interpreter here."""

import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path

import torch

PACK = Path(__file__).parents[3] / "comfyui"
NAME = "negguide_pack"

sys.path.insert(0, os.environ["COMFYUI_FOLDER"])
sys.path.insert(1, str(Path(__file__).parent))
# ComfyUI reads them where it is imported
sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention"]
logging.disable(logging.WARNING)

importlib.import_module("comfy.options").enable_args_parsing()
# before nodes_latent: the two import one another
importlib.import_module("comfy_extras.nodes_post_processing")
torch.set_num_threads(1)
torch.set_grad_enabled(False)

spec = importlib.util.spec_from_file_location(
    NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
)
module = importlib.util.module_from_spec(spec)
sys.modules[NAME] = module
spec.loader.exec_module(module)
