"""What every method is: where it acts, its windows, its JSON form, and what the integration asks of it.

A method belongs to one *space*, the place in a model where it acts, and at most one method of each space acts in a
call. The base class of a space says what a method has to compute there:

| space | base class | a method defines |
|---|---|---|
| score: whole predictions | `ScoreMethod` | `guide`: the guided prediction, from those of prompt and negatives |
| token: self-attention outputs | `TokenMethod` | `push` and `push_others`: image tokens away from reference tokens |
| attention: where image meets text | `AttentionMethod` | `combine`: the image tokens' output, from those for prompt \
and negatives; or `attend`, which also gets queries, keys and values |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from torch import Tensor

from negguide.guidance import Match
from negguide.methods.negative import Negative
from negguide.methods.serialise import Load, Save, Serialisable, check_keys, encode, field_names
from negguide.methods.validation import ImageLike, MaskLike, at_least_one
from negguide.methods.window import Edge, Window, check_window, edge_from_json

Space = Literal["score", "token", "attention"]


@dataclass(frozen=True, eq=False, repr=False)
class Method(Serialisable):
    """A frozen dataclass that a user passes as `negative_guidance=`; see the text of `negguide.methods.base`.

    Two methods with the same values are equal, whoever said them.

    Args:
        default_values: {field: value} that the model family, or the model, gave where the user left it open. It goes
            through `replace`, `with_negatives` and JSON; see `defaulted`. A constructor that a subclass writes itself
            takes it without naming it.

    Attributes:
        space: where it acts.
        key: its name on the command line and in the demo, e.g. "perp-neg".
        label: its name for people, e.g. "Perp-Neg".
        summary: one line that says what it does.
        source: where it was published.
        needs_guidance: whether it needs classifier-free guidance, a second prediction without the prompt.
    """

    space: ClassVar[Space]
    key: ClassVar[str]
    label: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs_guidance: ClassVar[bool] = False

    default_values: Mapping[str, Any] = field(default_factory=dict, kw_only=True, repr=False)

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        own = vars(cls).get("__init__")
        if own is not None:
            cls.__init__ = _with_default_values(own)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        right = f"default_values must be a mapping from fields of {type(self).__name__} to their values"
        if not isinstance(self.default_values, Mapping):
            raise TypeError(f"{right}, got {self.default_values!r}")
        unknown = sorted(set(self.default_values) - set(field_names(self)))
        if unknown:
            raise ValueError(f"{right}; it has no {', '.join(unknown)}")

    @property
    def defaulted(self) -> frozenset[str]:
        """The fields that have the value of `default_values`; one that was given another since is not among them."""
        return frozenset(
            name
            for name, value in self.default_values.items()
            # as JSON, since it may come from there
            if encode(getattr(self, name), None) == encode(value, None)
        )

    @property
    def windows(self) -> list[Window]:
        """When the method acts; of a method with negatives a window for each, in their order."""
        raise TypeError(f"{type(self).__name__} must say its windows")

    def with_defaults(self, defaults: Mapping[str, Any]) -> Self:
        """The method with these values where it leaves a field to the model family (None).

        Raises:
            ValueError: a value does not go with the others, e.g. a stop that is not behind the method's start.
        """
        values = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        if not values:
            return self
        before = {name: self.default_values[name] for name in self.defaulted}
        return replace(self, **values, default_values={**before, **values})

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        """The method as JSON data; `save` stores its images (see the text of `negguide.methods`)."""
        data = {"method": type(self).__name__, **super().to_dict(save)}
        defaults = {name: encode(self.default_values[name], None) for name in sorted(self.defaulted)}
        del data["default_values"]
        return {**data, "default_values": defaults} if defaults else data

    def _compared(self) -> dict[str, Any]:
        return {name: value for name, value in self.to_dict().items() if name != "default_values"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> Self:
        """The inverse of `to_dict`."""
        raise TypeError(f"{cls.__name__} must say how it is made of JSON data")


class NegativesMethod(Method):
    """What the methods that take negatives in words share: the list of negatives, and JSON.

    A subclass is a frozen dataclass whose first field is `negatives`, and whose constructor takes the negatives one by
    one, or as `negatives=`.
    """

    negatives: tuple[Negative, ...]
    default_stop: ClassVar[Edge] = 1.0
    """Where a negative's window ends that does not say so."""
    weighs_automatically: ClassVar[bool] = False
    """Whether a negative's weight may be "auto"."""
    automatic_stop: ClassVar[Edge] = 0.75
    """Where the window of one ends whose weight is "auto" and that does not say so."""

    if TYPE_CHECKING:
        # what each subclass has, with options of its own by name
        def __init__(
            self,
            *prompts: Negative | str,
            negatives: Sequence[Negative | str] | None = None,
            default_values: Mapping[str, Any] | None = None,
            **options: Any,
        ) -> None: ...

    def _hold(self, negatives: Sequence[Negative | str], named: Sequence[Negative | str] | None) -> None:
        """Check the negatives of the constructor and keep them."""
        name = type(self).__name__
        if named is not None:
            if negatives:
                raise TypeError(f"{name} got negatives twice; give them one by one, or as negatives=")
            if isinstance(named, str) or not isinstance(named, Sequence):
                raise TypeError(f"negatives must be a sequence of Negative objects or strings, got {named!r}")
            negatives = named
        if not negatives:
            raise ValueError(f"{name} needs at least one negative, e.g. {name}('black glasses')")
        for negative in negatives:
            if not isinstance(negative, Negative | str):
                hint = f"; unpack it: {name}(*negatives)" if isinstance(negative, list | tuple) else ""
                raise TypeError(f"negatives must be Negative objects or strings, got {negative!r}{hint}")
        held = [Negative(n) if isinstance(n, str) else n for n in negatives]
        for negative in held:
            if negative.automatic and not self.weighs_automatically:
                raise ValueError(
                    f"weight of Negative({negative.prompt!r}) must be a number in {name}, got 'auto', which needs the "
                    "predictions of PerpNeg"
                )
            if negative.stop is None:
                check_window(negative.start, self._stop(negative))
        object.__setattr__(self, "negatives", tuple(held))

    def with_negatives(self, *negatives: Negative | str) -> Self:
        """The same method with other negatives."""
        return type(self)(*negatives, **self._options(), default_values=self.default_values)

    @classmethod
    def per_prompt(cls, *negatives: Negative | str | Sequence[Negative | str], **options: Any) -> Self:
        """The method for a call with a list of prompts, with negatives of each prompt's own.

        Args:
            negatives: for each prompt of the call, in order, its negatives: one, several in a list, or [] for none.
            options: of the method itself.

        Raises:
            TypeError, ValueError: as the method itself.

        Example:
            >>> PerpNeg.per_prompt("black glasses", ["brown fur", Negative("snow", weight=2)], [])
        """
        flat: list[Negative] = []
        for index, own in enumerate(negatives):
            for one in own if isinstance(own, list | tuple) else [own]:
                negative = Negative(one) if isinstance(one, str) else one
                if not isinstance(negative, Negative):
                    raise TypeError(
                        f"negatives of prompt {index} must be Negative objects or strings, got {one!r}"
                    )
                flat.append(replace(negative, prompt_index=index))
        return cls(*flat, **options)

    @property
    def windows(self) -> list[Window]:
        """When each negative acts."""
        return [self._window(negative) for negative in self.negatives]

    def _window(self, negative: Negative) -> Window:
        default = negative.stop is None and negative.start == 0
        return Window(f"Negative({negative.prompt!r})", negative.start, self._stop(negative), default)

    def _stop(self, negative: Negative) -> Edge:
        if negative.stop is not None:
            return negative.stop
        return self.automatic_stop if negative.automatic else self.default_stop

    def _options(self) -> dict[str, Any]:
        beside = ("negatives", "default_values")
        return {name: getattr(self, name) for name in field_names(self) if name not in beside}

    def __repr__(self) -> str:
        options = [f"{name}={value!r}" for name, value in self._options().items()]
        return f"{type(self).__name__}({', '.join([*map(repr, self.negatives), *options])})"

    def to_dict(self, save: Save | None = None) -> dict[str, Any]:
        """As JSON, with the negatives; see `Method.to_dict`."""
        return {**super().to_dict(save), "negatives": [negative.to_dict(save) for negative in self.negatives]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], load: Load | None = None) -> Self:
        """The inverse of `to_dict`; see `Method.from_dict`."""
        values = check_keys(data, ("method", *field_names(cls)), cls.__name__)
        values.pop("method", None)
        negatives = [Negative.from_dict(n, load) for n in values.pop("negatives", ())]
        return cls(*negatives, **{name: edge_from_json(value) for name, value in values.items()})


class ScoreMethod(NegativesMethod):
    """A method on whole predictions, with a prediction of each negative's own.

    Attributes:
        refresh_every: every how many steps each negative is evaluated; in between, its last direction is used.
        adaptive: whether a negative is no longer evaluated once it has little effect.
        economy: whether negatives and the unconditional prediction are evaluated in few steps.
        guidance_stop: where guidance ends.
        auto_weight: what a present negative of weight "auto" weighs.
    """

    space: ClassVar[Space] = "score"
    needs_guidance: ClassVar[bool] = True
    refresh_every: int = 1
    adaptive: bool = False
    economy: bool = False
    guidance_stop: Edge = 1.0
    auto_weight: float = 1.0

    def guide(
        self,
        uncond: Tensor,
        cond: Tensor,
        negatives: Tensor,
        weights: Tensor,
        guidance_scale: float,
        masks: Tensor | None = None,
    ) -> Tensor:
        """The guided prediction.

        Args:
            uncond: [B, ...] prediction of the empty (or classic negative) prompt, float32 or float64.
            cond: [B, ...] prediction of the prompt.
            negatives: [K, B, ...] predictions of the negatives.
            weights: [K] or [K, B], >= 0.
            guidance_scale: g; at 1, the conditional prediction with the negatives taken away from it.
            masks: broadcastable to `negatives`, 1 where a negative acts and 0 where not; None = everywhere.

        Returns:
            [B, ...]; without negatives uncond + g (cond - uncond).
        """
        raise TypeError(f"{type(self).__name__} must define guide()")

    def remainder(self, negative: Tensor, positive: Tensor) -> Tensor:
        """What of a negative's direction counts in later steps that do not evaluate it, in the shape of both.

        Args:
            negative: [B, ...] n - u of the step that evaluated it.
            positive: [B, ...] p = c - u of that step.
        """
        return negative


class TokenMethod(Method):
    """A method on the image tokens that a self-attention gives, and on those of reference images.

    Attributes:
        reference: "others" or "first" of the same prompt, or the images of `images`.
        mask: which tokens are pushed.
        blocks: which modules, a regular expression; None = the model family's.
        group_size: how many consecutive images of a call belong together; None = those of one prompt.
        match_every: how many consecutive modules of a forward, of equally many tokens, share one match. 1 = `push` and
            `push_others` find their own; more asks `match`, `match_others`, `push_matched` and `push_others_matched` of
            the method.
    """

    space: ClassVar[Space] = "token"
    reference: Any
    mask: MaskLike | None = None
    blocks: str | None = None
    group_size: int | None = None
    match_every: int = 1

    @property
    def images(self) -> tuple[ImageLike, ...]:
        """The reference images; empty without."""
        return ()

    @property
    def reference_masks(self) -> tuple[MaskLike, ...]:
        """One mask for each reference image, or one for all; empty without."""
        return ()

    def push(
        self,
        tokens: Tensor,
        reference: Tensor,
        mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, C] pushed away from reference tokens [B or 1, M, C], and the fraction [B] that was pushed."""
        raise TypeError(f"{type(self).__name__} must define push()")

    def push_others(self, groups: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same of each image of [G, I, N, C] away from the I - 1 others, and the fractions [G, I]."""
        raise TypeError(f"{type(self).__name__} must define push_others()")

    def match(self, tokens: Tensor, reference: Tensor, reference_mask: Tensor | None = None) -> Match:
        """What `push` finds before it pushes, of [B, N]."""
        raise TypeError(f"{type(self).__name__} must define match() to share matches")

    def match_others(self, groups: Tensor) -> Match:
        """What `push_others` finds before it pushes, of [G, I, N], with indices into the group's I * N tokens."""
        raise TypeError(f"{type(self).__name__} must define match_others() to share matches")

    def push_matched(
        self, tokens: Tensor, reference: Tensor, match: Match, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`push` by a match that is there already, of these tokens or of another module's."""
        raise TypeError(f"{type(self).__name__} must define push_matched() to share matches")

    def push_others_matched(
        self, groups: Tensor, match: Match, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`push_others` by a match that is there already, of these tokens or of another module's."""
        raise TypeError(f"{type(self).__name__} must define push_others_matched() to share matches")


class NegativeAttention(Protocol):
    """One attention of the image's tokens over prompt and negatives, as a method in attention space sees it.

    Attributes:
        positive: [rows, N, C] the image tokens' output for the prompt.
        strengths: for each negative a number, or a tensor that broadcasts over [rows, N, 1].
        query: [rows, H, N, D], already scaled so that the logits are query · key / sqrt(D).
        key_pos, value_pos: [rows, H, M, D] of all that the image's tokens see with the prompt.
        mask_pos: added to the logits, broadcastable to [rows, H, N, M]; None = everything is seen.
    """

    positive: Tensor
    strengths: Sequence[float | Tensor]
    query: Tensor
    key_pos: Tensor
    value_pos: Tensor
    mask_pos: Tensor | None

    def negatives(self) -> list[Tensor]:
        """For each negative the image tokens' output, as if it were the prompt, [rows, N, C]."""
        ...

    def negative_keys(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values [rows, H, L, D] of all negatives' tokens, and a mask as `mask_pos`.

        Each value is times its negative's weight, and the mask is closed where a negative does not act.
        """
        ...


class AttentionMethod(NegativesMethod):
    """A method inside the attention of image over text: no second prediction, so it works without guidance too.

    Attributes:
        max_sequence_length: to how many tokens at most the text of each negative is encoded, as the argument of this
            name of the pipeline says it of the prompt; None = as that one says. A negative costs by its tokens, and one
            of few words needs few.
    """

    space: ClassVar[Space] = "attention"
    max_sequence_length: int | None = None

    def _hold_length(self, max_sequence_length: int | None) -> None:
        """Check `max_sequence_length` of the constructor and keep it."""
        if max_sequence_length is not None:
            max_sequence_length = at_least_one("max_sequence_length", max_sequence_length)
        object.__setattr__(self, "max_sequence_length", max_sequence_length)

    def combine(
        self, positive: Tensor, negatives: Sequence[Tensor], strengths: Sequence[float | Tensor]
    ) -> Tensor:
        """The image tokens' output.

        Args:
            positive: z+, [rows, N, C], their output for the prompt.
            negatives: z_k, [rows, N, C] each, their outputs for the negatives.
            strengths: for each negative a number, or a tensor that broadcasts over [rows, N, 1]: its weight, 0 where
                it does not act.

        Returns:
            [rows, N, C] in the dtype of `positive`.
        """
        raise TypeError(f"{type(self).__name__} must define combine(), or attend()")

    def attend(self, attention: NegativeAttention) -> Tensor:
        """The image tokens' output [rows, N, C] of one attention; by `combine` unless a method needs more."""
        return self.combine(attention.positive, attention.negatives(), attention.strengths)


def negatives_of(methods: Sequence[Method]) -> Iterator[Negative]:
    """All negatives in words, or embedded, of these methods."""
    for method in methods:
        yield from getattr(method, "negatives", ())


def _with_default_values(own: Callable[..., None]) -> Callable[..., None]:
    """A constructor that a method writes itself, which also takes `default_values`."""

    @wraps(own)
    def init(
        self: Method, *args: Any, default_values: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        own(self, *args, **options)
        object.__setattr__(self, "default_values", {} if default_values is None else default_values)
        Method.__post_init__(self)

    return init
