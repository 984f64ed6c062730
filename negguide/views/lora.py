"""A copy of a denoiser that learns what the renders look like: the second score of variational score distillation."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from negguide.methods.validation import at_least_one, positive

_ADAPTER = "negguide_renders"
_PROJECTIONS = r"(.*\.)?(to_q|to_k|to_v|to_out\.0)"
"""The projections of attention as diffusers names them, in every denoiser."""


@dataclass(frozen=True)
class RenderLora:
    """How the denoiser's copy is fine-tuned on the renders, for `loss="vsd"`.

    Args:
        rank: of the low-rank matrices in the attention modules' projections.
        learning_rate: of AdamW, without weight decay.

    Raises:
        TypeError, ValueError: naming the argument, its value and what would be right.
    """

    rank: int = 4
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", at_least_one("rank", self.rank))
        object.__setattr__(self, "learning_rate", positive("learning_rate", self.learning_rate))


class RenderModel:
    """The denoiser with a LoRA of its own in attention; it shares the denoiser's weights and leaves them as they are.

    The copy has modules of its own, so that the denoiser has no adapter, hook or flag more than before, and other calls
    on it see nothing of this one.

    Args:
        denoiser: whose weights are shared; it must not move to another device or dtype afterwards.
        lora: how the copy is fine-tuned.
        seed: of the LoRA's first weights, with which it changes nothing yet.

    Raises:
        ImportError: peft is not installed.
        ValueError: the denoiser has no attention projections of diffusers' names.
    """

    def __init__(self, denoiser: nn.Module, lora: RenderLora, seed: int = 0) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
            from peft.tuners.tuners_utils import BaseTunerLayer
        except ImportError as error:
            raise ImportError("loss='vsd' needs peft: pip install peft") from error
        inner = unwrap_module(denoiser)
        shared: dict[int, Any] = {
            id(p): nn.Parameter(p.detach(), requires_grad=False) for p in inner.parameters()
        }
        shared |= {id(buffer): buffer for buffer in inner.buffers()}
        self.model: Any = copy.deepcopy(inner, shared)
        # adapters that are on the denoiser already go on acting
        active: dict[str, list[str]] = {}
        for name, module in self.model.named_modules():
            if isinstance(module, BaseTunerLayer):
                apart = not (module.merged or module.disable_adapters)
                active[name] = list(module.active_adapters) if apart else []
                # what is fused is in the shared weights: peft would take it out of them, and so out of the denoiser
                module.merged_adapters.clear()
                # in a layer that is switched off the LoRA would not act
                module.enable_adapters(True)
        if not any(re.fullmatch(_PROJECTIONS, name) for name, _ in self.model.named_modules()):
            raise ValueError(
                f"pipe has a {type(inner).__name__} without attention projections to_q, to_k, to_v; loss='vsd' cannot "
                "fine-tune it, use another loss"
            )
        with torch.random.fork_rng(devices=[]):
            # not of every device, whose random numbers are somebody else's
            torch.default_generator.manual_seed(seed)
            config = LoraConfig(r=lora.rank, lora_alpha=lora.rank, target_modules=_PROJECTIONS)
            inject_adapter_in_model(config, self.model, adapter_name=_ADAPTER)
        for name, module in self.model.named_modules():
            if isinstance(module, BaseTunerLayer):
                own = [_ADAPTER] if _ADAPTER in module.r else []
                module.set_adapter([*active.get(name, []), *own])
        self.parameters = {name: p for name, p in self.model.named_parameters() if _ADAPTER in name}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.parameters)
        for parameter in self.parameters.values():
            # in 16 bit a step of AdamW would be rounded away; peft casts its inputs
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=lora.learning_rate, weight_decay=0.0
        )

    def learn(self, loss: Tensor) -> None:
        """One step of AdamW on the LoRA alone.

        Args:
            loss: a scalar, with a graph to the LoRA.

        Raises:
            ValueError: it has none, or is not finite.
        """
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"the loss of the LoRA is {float(loss)}, and would ruin it; use the denoiser in float32 or bfloat16"
            )
        if not loss.requires_grad:
            raise ValueError(
                "the pipeline's call gives predictions without gradients, and loss='vsd' trains the denoiser's LoRA "
                "through them; use another loss"
            )
        gradients = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The LoRA's weights and the optimizer's state, to resume with."""
        weights = {name: p.detach().clone() for name, p in self.parameters.items()}
        return {"weights": weights, "optimizer": copy.deepcopy(self.optimizer.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: it is the state of another model or rank.
        """
        weights = state["weights"]
        if {n: p.shape for n, p in weights.items()} != {n: p.shape for n, p in self.parameters.items()}:
            raise ValueError("state holds the LoRA of another model or rank; give that of the same")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
        self.optimizer.load_state_dict(state["optimizer"])
