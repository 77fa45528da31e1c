"""Shapes of a game's frames and actions, and whether it has rewards and ends. Plain data; gymnasium is imported only to build a space."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from diamond_bench.errors import UserError
from diamond_bench.shapes import count, listing, number, record, text

if TYPE_CHECKING:
    import gymnasium

ActionKind = Literal["Discrete", "MultiDiscrete", "Box"]


@dataclass(frozen=True)
class FrameSpec:
    """RGB frames of `height` x `width` pixels."""

    height: int
    width: int

    @classmethod
    def square(cls, side: int) -> "FrameSpec":
        """Frames of `side` x `side` pixels."""
        return cls(side, side)

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def pixels(self) -> int:
        """height x width."""
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.height} x {self.width}"


@dataclass(frozen=True)
class ActionSpec:
    """The actions of a game, one of three kinds of gymnasium's spaces; build it with `discrete`, `columns` or `continuous`.

    | Kind | `sizes` | `trailing` | Tensors of b rows and t steps |
    | --- | --- | --- | --- |
    | Discrete(n) | (n,) | false | (b, t) int64, 0 to n - 1 |
    | MultiDiscrete([n1, ..., nk]) | (n1, ..., nk) | true | (b, t, k) int64, column i from 0 to ni - 1 |
    | Box(low, high, (k,)) | (0, ..., 0) | true | (b, t, k) float32, column i from low[i] to high[i] |
    """

    sizes: tuple[int, ...]
    """Number of values of each column. 0 for a continuous column."""
    names: tuple[str, ...] = ()
    """Discrete: the names of the n actions. Otherwise the names of the k columns. Empty if there are none."""
    low: tuple[float, ...] = ()
    """Minimum of each column of a Box. Empty for other kinds."""
    high: tuple[float, ...] = ()
    """Maximum of each column of a Box. Empty for other kinds."""
    trailing: bool = False
    """Whether action tensors have a last axis of k columns."""

    def __post_init__(self) -> None:
        """Raises ValueError for a description that fits none of the three kinds."""
        continuous = [size == 0 for size in self.sizes]
        columns = len(self.sizes) if self.trailing else sum(self.sizes)
        bounds = len(self.sizes) if all(continuous) else 0
        if not self.sizes or min(self.sizes) < 0 or (any(continuous) and not (all(continuous) and self.trailing)):
            raise ValueError(f"sizes={self.sizes}: expected counts from 1, or only zeros for continuous actions with a trailing axis")
        if not self.trailing and len(self.sizes) != 1:
            raise ValueError(f"sizes={self.sizes}: several columns need trailing=True")
        if self.names and len(self.names) != columns:
            raise ValueError(f"{len(self.names)} names for {columns} {'columns' if self.trailing else 'actions'}")
        if len(self.low) != bounds or len(self.high) != bounds:
            raise ValueError(f"low={self.low}, high={self.high}: expected {bounds} bounds each")
        if not all(math.isfinite(a) and math.isfinite(b) and a < b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low={self.low}, high={self.high}: expected finite bounds, each low below its high")

    @classmethod
    def discrete(cls, number: int, names: tuple[str, ...] = ()) -> "ActionSpec":
        """`number` actions, of which a player takes one."""
        return cls((number,), names)

    @classmethod
    def columns(cls, sizes: tuple[int, ...], names: tuple[str, ...] = ()) -> "ActionSpec":
        """Several choices at once, `sizes[i]` values of choice i."""
        return cls(sizes, names, trailing=True)

    @classmethod
    def continuous(cls, low: tuple[float, ...], high: tuple[float, ...], names: tuple[str, ...] = ()) -> "ActionSpec":
        """Several numbers at once. Number i goes from `low[i]` to `high[i]`, in float32."""
        return cls((0,) * len(low), names, _as_float32(low), _as_float32(high), trailing=True)

    @property
    def kind(self) -> ActionKind:
        """The name of the gymnasium space."""
        return "Box" if self.low else "MultiDiscrete" if self.trailing else "Discrete"

    @property
    def width(self) -> int:
        """Number of columns of the concatenated one-hots (a continuous column is one number): an embedding is a linear map of them."""
        return sum(size or 1 for size in self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action: () or (k,)."""
        return (len(self.sizes),) if self.trailing else ()

    @property
    def dtype(self) -> Literal["int64", "float32"]:
        """dtype of arrays and tensors of actions."""
        return "float32" if self.low else "int64"

    @property
    def dtype_kinds(self) -> str:
        """Kinds of numpy dtypes that hold such actions."""
        return "iuf" if self.low else "iu"

    @property
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Least and greatest value of each column."""
        return (self.low, self.high) if self.low else ((0,) * len(self.sizes), tuple(size - 1 for size in self.sizes))

    @property
    def neutral(self) -> tuple[float, ...]:
        """The no-op: the first action if Discrete. Otherwise numbers and bins are in the middle of their range, and keys, which are columns
        of two values, are 0."""
        if not self.trailing:
            return (0,)
        middles = [low if size == 2 else (low + high) / 2 for size, low, high in zip(self.sizes, *self.bounds, strict=True)]
        return tuple(middles) if self.low else tuple(map(round, middles))

    @property
    def withheld(self) -> float:
        """The value of a withheld action in every column: NaN if continuous, else -1."""
        return math.nan if self.low else -1

    def __str__(self) -> str:
        sizes = self.sizes[0] if not self.trailing else len(self.sizes) if self.low else list(self.sizes)
        return f"{self.kind}({sizes})"

    def space(self) -> "gymnasium.Space[Any]":
        """The gymnasium space of one action."""
        import numpy as np
        from gymnasium import spaces

        if self.kind == "Discrete":
            return spaces.Discrete(self.sizes[0])
        if self.kind == "MultiDiscrete":
            return spaces.MultiDiscrete(list(self.sizes))
        return spaces.Box(np.array(self.low, np.float32), np.array(self.high, np.float32))

    @classmethod
    def of_space(cls, space: "gymnasium.Space[Any]", names: tuple[str, ...] = ()) -> "ActionSpec":
        """The spec of a gymnasium space. Raises UserError for a space that is none of the three kinds, does not start at 0, or has no
        bounds."""
        from gymnasium import spaces

        try:
            if isinstance(space, spaces.Discrete) and space.start == 0:
                return cls.discrete(int(space.n), names)
            if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
                return cls.columns(tuple(map(int, space.nvec)), names)
            if isinstance(space, spaces.Box) and len(space.shape) == 1:
                return cls.continuous(tuple(space.low.tolist()), tuple(space.high.tolist()), names)
        except ValueError as error:
            raise UserError(f"action space {space}: {error}") from None
        raise UserError(f"action space {space}: expected Discrete from 0, MultiDiscrete from 0 with one axis, or Box with one axis")

    def to_plain(self) -> dict[str, Any]:
        """Converts the spec to plain data for JSON, which `from_plain` reads."""
        plain: dict[str, Any] = {"kind": self.kind, "sizes": list(self.sizes)}
        if self.names:
            plain["names"] = list(self.names)
        if self.low:
            plain |= {"low": list(self.low), "high": list(self.high)}
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "ActionSpec":
        """The spec that `to_plain` wrote. Raises ValueError if it is damaged."""
        ACTIONS(plain)
        sizes, names, low, high = (tuple(plain.get(key, ())) for key in ("sizes", "names", "low", "high"))
        spec = cls(sizes, names, low, high, trailing=plain["kind"] != "Discrete")
        if spec.kind != plain["kind"]:
            raise ValueError(f"kind={plain['kind']!r}: its sizes and bounds are those of {spec.kind}")
        return spec


def _as_float32(values: tuple[float, ...]) -> tuple[float, ...]:
    try:
        return struct.unpack(f"{len(values)}f", struct.pack(f"{len(values)}f", *values))
    except OverflowError:
        raise ValueError(f"bounds {str(values)[:60]}: float32 does not hold them") from None


ACTIONS = record({"kind": text, "sizes": listing(count, 1)}, {"names": listing(text), "low": listing(number), "high": listing(number)})
"""The JSON shape of an `ActionSpec`."""


@dataclass(frozen=True)
class WorldSpec:
    """The frames and actions of a game, and whether it has rewards and ends."""

    frames: FrameSpec
    actions: ActionSpec
    rewards: bool = True
    """Whether a step gives a reward."""
    ends: bool = True
    """Whether an episode can end by itself. A time limit is not an end."""
