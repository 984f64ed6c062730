"""Two processes give the loss and the gradients of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from negguide.vlm import losses
from negguide.vlm.losses import Options
from negguide.vlm.training.gather import gather, own_rows

ROWS, WIDTH = 8, 6


class Linear(nn.Module):
    """Two towers of one layer each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 5)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        image, text, negative_image, negative_text = inputs
        return (
            F.normalize(self.image(image), dim=-1),
            F.normalize(self.text(text), dim=-1),
            F.normalize(self.image(negative_image), dim=-1),
            F.normalize(self.text(negative_text), dim=-1),
            self.scale.exp(),
        )


def step(model: nn.Module, rows: slice) -> dict[str, Tensor]:
    """All losses of some rows, their sum's gradient in the model."""
    inputs = torch.randn(4, ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    valid = torch.tensor([True, True, True, False, False, True, False, False])  # three here, one there
    source = torch.tensor([0, 1, 2, 3, 0, 4, 5, 1])
    *local, scale = model(inputs[:, rows])
    image, text, negative_image, negative_text = (gather(f) for f in local)
    everyone, own = gather(valid[rows]), own_rows(len(local[0]))
    caption = torch.arange(ROWS)
    # the negative captions of rows 1 and 5 say what captions of the other process's rows say
    negative_caption = torch.tensor([10, 6, 12, 13, 14, 2, 16, 17])
    group = gather(torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])[rows])
    options = Options(
        rows=own,
        source=gather(source[rows]),
        caption=gather(caption[rows]),
        negative_caption=gather(negative_caption[rows]),
    )
    doubting = Options(
        rows=own,
        group=group,
        false_negative_fraction=0.8,
        teacher_image=image.detach(),
        teacher_text=text.detach(),
        smoothing=0.1,
        focal=1.0,
    )
    both = {"negative_image": negative_image, "negative_text": negative_text}
    found = {
        "clip": losses.clip(image, text, scale, options),
        "doubting": losses.negclip(image, text, negative_text, scale, doubting, valid=everyone),
        "negimage": losses.negimage(image, text, negative_image, scale, options, valid=everyone),
        "triplet": losses.triplet(image, text, negative_image, negative_text, scale, options, valid=everyone),
        "conclip": losses.conclip(image, text, negative_image, negative_text, scale, options, valid=everyone),
        "siglip": losses.negsiglip(
            image, text, negative_image, negative_text, scale, -1.0, options, valid=everyone
        ),
        "rank": losses.rank_margin(image, text, 0.2, **both, valid=everyone, rows=own),
        "distill": losses.distill(image, text, scale, text.detach(), image.detach(), 3.0, own, group),
    }
    torch.stack(list(found.values())).sum().backward()
    return {name: value.detach() for name, value in found.items()}


def gathered(rank: int, world: int) -> dict[str, Tensor]:
    """Rows of every kind, of all processes, and the gradient of a loss that each process weighs in its own way."""
    own = torch.full((2, 3), float(rank), requires_grad=True)
    rows = gather(own)
    weights = torch.arange(2 * world, dtype=torch.float32)[:, None].expand(-1, 3) * (rank + 1)
    (weights * rows**2).sum().backward()
    assert own.grad is not None
    flags = gather(torch.tensor([rank == 0, True]))
    numbers = gather(torch.tensor([rank, 10 + rank]))
    return {"rows": rows.detach().clone(), "row gradient": own.grad, "flags": flags, "numbers": numbers}


def worker(folder: Path) -> None:
    """What each of the processes runs."""
    from safetensors.torch import save_file
    from torch.nn.parallel import DistributedDataParallel

    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model = DistributedDataParallel(Linear())
    values = step(model, slice(rank * ROWS // world, (rank + 1) * ROWS // world))
    for value in values.values():
        torch.distributed.all_reduce(value)
    gradients = {f"gradient.{name}": p.grad for name, p in model.module.named_parameters()}
    save_file({**{k: v / world for k, v in values.items()}, **gradients}, folder / f"{rank}.safetensors")
    save_file(
        {name: value.clone() for name, value in gathered(rank, world).items()},
        folder / f"gathered-{rank}.safetensors",
    )
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, __file__, str(folder)]
    running = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return folder


@pytest.fixture(scope="module")
def two_processes(folder_of_two: Path) -> list[dict[str, Any]]:
    return [load_file(folder_of_two / f"{rank}.safetensors") for rank in range(2)]


def test_two_processes_give_the_losses_and_gradients_of_one(two_processes: list[dict[str, Any]]) -> None:
    model = Linear()
    values = step(model, slice(None))
    expected = {**values, **{f"gradient.{name}": p.grad for name, p in model.named_parameters()}}
    for found in two_processes:
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert all(float(expected[name].abs().max()) > 0 for name in expected)


def test_rows_of_every_kind_are_gathered_and_gradients_come_back_to_them(folder_of_two: Path) -> None:
    for rank in range(2):
        found = load_file(folder_of_two / f"gathered-{rank}.safetensors")
        assert found["rows"][:, 0].tolist() == [0, 0, 1, 1]
        assert found["flags"].tolist() == [True, True, False, True]
        assert found["numbers"].tolist() == [0, 10, 1, 11]
        # of the loss of both processes, sum over p of (p + 1) * place * x^2: 2 x place (1 + 2)
        expected = [2.0 * rank * 3 * place for place in (2 * rank, 2 * rank + 1)]
        assert found["row gradient"][:, 0].tolist() == expected


def test_one_process_gathers_only_its_own() -> None:
    tensor = torch.ones(3, 2, requires_grad=True)
    assert gather(tensor) is tensor
    assert own_rows(3) == slice(0, 3)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
