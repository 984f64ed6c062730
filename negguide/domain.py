"""Closed worlds: models that know a small language, with what reads, draws and judges it, as one object each.

Whatever asks whether a model is one of a closed world asks `domain_of(model)`, and takes the general way where that is
None. One registration makes a world known everywhere. A domain is cheap: its parts are imported when they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from negguide._utils.plugins import load_plugins

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from PIL import Image

    from negguide.benchmark.judges import Verdict
    from negguide.benchmark.suites import Check
    from negguide.demo.examples import Page
    from negguide.mining.edits.closed import ClosedPlanner
    from negguide.mining.sources import Input
    from negguide.mining.verify.margins import PairJudge
    from negguide.views import Preset, View
    from negguide.vlm.evaluation.suites.base import Suite

USUAL_STEPS = 25
"""Denoising steps of a model that says nothing else."""
_SHIPPED = "negguide.toyworld.domain"
"""The module of the domain that ships with the package, which registers itself as `DOMAIN`."""
_domains: dict[str, Domain] = {}


def frozen(**values: Any) -> Mapping[str, Any]:
    """Arguments that nobody can change."""
    return MappingProxyType(values)


@dataclass(frozen=True)
class Defaults:
    """What suits a model unless the user says otherwise.

    Attributes:
        guidance_scale: of classifier-free guidance, where the pipeline is not asked (`own_guidance_scale`).
        negtome: arguments of `NegToMe` that differ from its own defaults.
        negtome_images: those of it with reference images; None = `negtome`, as without.
        negative: arguments of a `Negative` of `PerpNeg` that do.
        attention: {key: arguments} of the methods in attention space that do, e.g. of "nag".
    """

    guidance_scale: float = 7.5
    negtome: Mapping[str, Any] = field(default_factory=frozen)
    negtome_images: Mapping[str, Any] | None = None
    negative: Mapping[str, Any] = field(default_factory=frozen)
    attention: Mapping[str, Mapping[str, Any]] = field(default_factory=frozen)

    def arguments(self, key: str, images: bool = False) -> Mapping[str, Any]:
        """The arguments of the method with this key that differ from its own defaults, with reference images or not."""
        return self.of_negtome(images) if key == "negtome" else self.attention.get(key, {})

    def of_negtome(self, images: bool) -> Mapping[str, Any]:
        """Arguments of `NegToMe`, with reference images or without."""
        return self.negtome if self.negtome_images is None or not images else self.negtome_images


@dataclass(frozen=True)
class DomainModel:
    """A text-to-image model of a closed world.

    Attributes:
        name: accepted wherever a model id goes; another than those of all other models.
        about: what it is, in a few words.
        pipeline: the class that it is loaded as.
        steps: of the sampler, that suit it.
        draft_steps: where many pictures are drawn while somebody waits: in the demo, for mining and benchmarks.
        defaults: of it and of the methods on it.
        size: pixels along an edge of its pictures, the only size that it has learned.
        always_guided: whether it draws poorly without classifier-free guidance; the others take it only where negatives
            need it.
        bfloat16: whether it draws as well in bfloat16, so that a processor which has it may draw drafts with it.
        call: further arguments of its pipeline's call, without which it draws another size or longer texts than it has
            learned.
    """

    name: str
    about: str
    pipeline: str
    steps: int
    draft_steps: int
    defaults: Defaults
    size: int = 64
    always_guided: bool = False
    bfloat16: bool = False
    call: Mapping[str, Any] = field(default_factory=frozen)


@dataclass(frozen=True)
class DomainClip:
    """The CLIP-like model of a closed world, which goes by the world's name.

    Attributes:
        folder: where `save_pretrained` wrote it.
        lr: the peak learning rate that suits it.
    """

    folder: Path
    lr: float


class Language(Protocol):
    """The closed language of a world's captions; a module can be one."""

    def check(self, text: str) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: a word that is not known, words in an order that the grammar does not have, or no word; with
                the text, and with what would be right.
        """

    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a text may hold."""

    def words_of(self, text: str) -> list[str]:
        """The words of a text as the vocabulary has them, whether they are in it or not."""

    def joined(self, texts: Sequence[str]) -> str:
        """One text that says what all of them say, for a classic negative prompt.

        Raises:
            ValueError: the grammar has none.
        """

    def in_view(self, text: str, view: View) -> str:
        """The text, seen from this side.

        Raises:
            ValueError: the world has no such view, or the text says one already.
        """


class DomainJudge(Protocol):
    """What reads the pictures of a world, by a way of its own that takes no part in drawing.

    Attributes:
        name: that of the world.
        revision: of its weights; None where it has none.
        remark: what a reader of its verdicts must know; "" = nothing.
    """

    name: str
    revision: str | None
    remark: str

    def verdicts(self, images: Sequence[Image.Image], checks: Sequence[Check]) -> list[Verdict]:
        """Verdict i is about image i and check i.

        Raises:
            ValueError: for a check that it cannot read.
        """

    def features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Float32 [len(images), D] of unit length on the CPU, whose cosine says how alike two images are."""

    def shows(self, images: Sequence[Image.Image], text: str) -> list[bool]:
        """Whether each image shows all that a text says.

        Raises:
            ValueError: for a text that is not of the world.
        """

    def views(self, images: Sequence[Image.Image]) -> list[str]:
        """From which side each image is seen, as `View` names it; "?" where that cannot be read."""


@dataclass(frozen=True, eq=False)
class Domain:
    """A closed world and all that knows it.

    The parts that are functions import what they need when they are called. A part that is None is one that the world
    does not have: what would ask it goes the general way of open models.

    Attributes:
        name: of its CLIP, its judges and its input of `negguide mine` (`NAME:200`); a word without a colon or a slash.
        title: how sentences call it, e.g. "the toy world".
        models: its text-to-image models by name, the usual one first.
        load_pipeline: the plain diffusers pipeline of one of `models`: (its name, dtype of all weights, the class to
            load it as or None for its own). What it loads says the first of `folders` as its `name_or_path`.
        folders: the folders that one of `models` consists of, its own first.
        language: of its captions.
        planner: of edits, `negguide mine --backend rules`; its arguments are the options of the planner. It also knows
            what the other planners need, see `ClosedPlanner`.
        pair_judge: scores pairs of images and captions for `negguide mine`, on a device.
        judge: reads pictures, on a device.
        source: captions with their true images for `negguide mine`: `source(count, seed=..., size=...)`.
        judge_folder: of the weights of the judges; None = they have none.
        clip: its CLIP-like model.
        suites: {kind: file} of what `negguide benchmark` draws with it, see `negguide.benchmark.suites`.
        evaluation: suites of `negguide evaluate` by name, the usual one first, as `register_suite` takes them.
        preset: of view-dependent prompts, for its models; None = the world has no views.
        page: what the demo says and proposes.
    """

    name: str
    title: str
    models: Mapping[str, DomainModel]
    load_pipeline: Callable[[str, torch.dtype, type[DiffusionPipeline] | None], Any]
    folders: Callable[[str], tuple[Path, ...]]
    language: Callable[[], Language]
    planner: Callable[..., ClosedPlanner]
    pair_judge: Callable[[str], PairJudge]
    judge: Callable[[str], DomainJudge]
    source: Callable[..., Input]
    judge_folder: Path | None = None
    clip: DomainClip | None = None
    suites: Mapping[str, Path] = field(default_factory=frozen)
    evaluation: Mapping[str, Callable[..., Suite]] = field(default_factory=frozen)
    preset: Callable[[], Preset] | None = None
    page: Callable[[], Page] | None = None

    @property
    def model(self) -> DomainModel:
        """The usual one of its models."""
        return next(iter(self.models.values()))


def register_domain(domain: Domain) -> Domain:
    """Make a closed world known everywhere: on the command line, for mining and benchmarks, and in the demo.

    An installed package can bring one by the entry point group "negguide": a function without arguments that registers
    it.

    Args:
        domain: the world and all that knows it.

    Returns:
        The domain as it is.

    Raises:
        ValueError: it has no model, its name cannot be told from something else, or it or one of its models has a name
            that is taken.
    """
    if not domain.name or set(":/") & set(domain.name):
        raise ValueError(f"the domain's name must be a word without a colon or a slash, got {domain.name!r}")
    if not domain.models:
        raise ValueError(f"the domain {domain.name!r} has no models; give it at least one")
    for key, model in domain.models.items():
        if key != model.name:
            raise ValueError(f"the domain {domain.name!r} has {model.name!r} under the name {key!r}")
    for other in _domains.values():
        if other is domain:
            return domain
        if other.name == domain.name:
            raise ValueError(f"a domain {domain.name!r} is registered already; give another name")
        if taken := sorted(domain.models.keys() & other.models.keys()):
            raise ValueError(
                f"the domain {other.name!r} has a model {taken[0]!r} already; give that of {domain.name!r} another name"
            )
    _domains[domain.name] = domain
    return domain


def default_domain() -> Domain:
    """The one that ships with the package, whose models are used unless another is named."""
    domain: Domain = import_module(_SHIPPED).DOMAIN
    return domain


def registered_domains() -> Mapping[str, Domain]:
    """All domains by name, the shipped one first."""
    shipped = default_domain()
    load_plugins()
    return MappingProxyType({shipped.name: shipped, **_domains})


def find_domain(name: str) -> Domain:
    """The domain of a name.

    Raises:
        ValueError: there is none.
    """
    domains = registered_domains()
    if name not in domains:
        raise ValueError(f"world must be one of {', '.join(domains)}, or None, got {name!r}")
    return domains[name]


def domain_of(model: str) -> Domain | None:
    """The closed world that a text-to-image model belongs to, by the model's name; None for any other model."""
    return next((domain for domain in registered_domains().values() if model in domain.models), None)


def negative_prompt_of(model: str, texts: Sequence[str]) -> str:
    """All that is to be left out, as one classic negative prompt of a text-to-image model.

    Raises:
        ValueError: the grammar of the model's closed world has no text that says all of it.
    """
    domain = domain_of(model)
    if domain is None:
        return ", ".join(texts)
    try:
        return domain.language().joined(texts)
    except ValueError as error:
        raise ValueError(
            f"the negatives make no negative prompt of {domain.title} together ({error})"
        ) from error


def domain_models() -> Mapping[str, DomainModel]:
    """The text-to-image models of all domains by name."""
    return MappingProxyType(
        {name: model for domain in registered_domains().values() for name, model in domain.models.items()}
    )


def clip_of(name: str) -> DomainClip | None:
    """The CLIP-like model that the name of a domain stands for; None where it is no domain, or one without."""
    domain = registered_domains().get(name)
    return None if domain is None else domain.clip
