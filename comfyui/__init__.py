"""negguide's nodes for ComfyUI: Perp-Neg, NegToMe, NAG, ONG and VSF as patches of a model.

ComfyUI is imported while nodes run, and never when this is imported.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
