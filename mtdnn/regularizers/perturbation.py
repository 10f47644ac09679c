"""Regularizers that move word embeddings: their sizes, and the precision they need.

Dimensions: N sequences, T tokens, E size of the word embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtdnn.errors import ConfigError, Fault, Place, fault
from mtdnn.regularizers.base import Regularizer, RegularizerOptions, RunPrecision
from mtdnn.regularizers.directions import fraction, root_mean_square
from mtdnn.regularizers.forward_pass import DropoutMode, ForwardPass
from mtdnn.regularizers.sizes import resolved, rounded_up

CHECKED_BELOW = 1e-6
"""Smaller sizes may be too small for float32 next to the encoder's word embeddings; `check` then loads these."""


class PerturbationOptions(RegularizerOptions):
    """Options of regularizers that move word embeddings."""

    dropout: DropoutMode = Field(
        "same", description="Of the perturbed pass: same masks as the clean pass, independent masks, or off in both."
    )
    precision: Literal["auto", "float32", "run"] = Field(
        "auto", description="Of all its passes. auto: float32 when the run's precision cannot resolve the sizes."
    )


class PerturbationRegularizer(Regularizer):
    """A regularizer that moves word embeddings by a size given absolutely or in units of their root mean square.

    Class attributes:
        size_names: the options that are such sizes.
        compares: whether it compares the logits of two passes.
    """

    Options = PerturbationOptions
    compares: ClassVar[bool] = True
    size_names: ClassVar[tuple[str, ...]] = ("epsilon", "eta", "noise")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._seen: dict[str, Tensor] = {}
        self._resolve(math.nan)

    def _resolve(self, embedding_rms: float) -> None:
        """Set `sizes` as plain numbers; relative sizes are NaN until the encoder is known."""
        self.embedding_rms = embedding_rms
        given = {name: getattr(self.options, name) for name in self.size_names}
        self.sizes = {name: resolved(size, embedding_rms) for name, size in given.items() if size is not None}

    def moves(self) -> dict[str, float]:
        """Option → how far it moves the embeddings, for the precision to resolve; empty if moves are always large."""
        raise NotImplementedError

    def coordinates(self, embedding_size: int) -> float:
        """Size divided by the move of one coordinate: about √E for an l2 norm, else 1."""
        return embedding_size**0.5 if self.options.norm == "l2" else 1.0

    def prepare(self, *, embedding_rms: float, embedding_size: int, precision: RunPrecision) -> None:
        """Resolve relative sizes, log them, and choose the precision of the passes.

        Args:
            embedding_rms: root mean square of the word embeddings.
            embedding_size: E.
            precision: the precision of the run.
        Raises:
            ConfigError: as `precision_faults`.
        """
        place: dict[str, Any] = {"embedding_rms": embedding_rms, "embedding_size": embedding_size}
        if faults := self.precision_faults("", "regularizer", **place, precision=precision):
            raise ConfigError(faults)
        shown = ", ".join(f"{name} {value:.3g}" for name, value in self.sizes.items())
        self.log(f"{self.name}: {shown}; word embeddings have root mean square {embedding_rms:.3g}")
        found = self._unresolvable(**place, precision=precision)
        if self.options.precision == "float32" or (self.options.precision == "auto" and found):
            self.precision = "float32"
        if found and self.options.precision == "auto":
            self.log(f"{self.name}: {found}: its passes run in float32")

    @property
    def needs_resolution(self) -> bool:
        smallest = min(self.moves().values(), default=math.inf)
        return self.weight > 0 and (self.options.precision == "run" or smallest < CHECKED_BELOW)

    def precision_faults(
        self, where: Place | str, key: str, *, embedding_rms: float, embedding_size: int, precision: RunPrecision
    ) -> list[Fault]:
        """Sizes that cannot be resolved: by the run's precision with `precision: run`, by float32 with any.

        Sets `sizes` for these embeddings first.

        Args:
            where: file and line, for the message.
            key: the key, for the message.
            embedding_rms: root mean square of the word embeddings.
            embedding_size: E.
            precision: the precision of the run.
        """
        self._resolve(embedding_rms)
        place: dict[str, Any] = {"embedding_rms": embedding_rms, "embedding_size": embedding_size}
        finest = min(precision, RunPrecision.of(torch.float32), key=lambda each: each.spacing)
        if self.weight == 0:
            return []
        if found := self._unresolvable(**place, precision=finest):
            return [fault(where, key, found, "Give larger sizes.")]
        if self.options.precision == "run" and (found := self._unresolvable(**place, precision=precision)):
            larger = "" if self._compares_coarse(precision) else ", or larger sizes"
            return [fault(where, f"{key}.precision", f"run: {found}", f"Use precision: auto{larger}.")]
        return []

    def _compares_coarse(self, precision: RunPrecision) -> bool:
        """Whether it compares logits that are too coarse for that, whatever its sizes."""
        return self.compares and precision.of_logits and precision.spacing > torch.finfo(torch.float32).eps

    def _unresolvable(self, *, embedding_rms: float, embedding_size: int, precision: RunPrecision) -> str:
        """Why this precision cannot resolve the perturbation; empty when it can."""
        if self._compares_coarse(precision):
            return f"the logits are in {precision.name}, too coarse to compare two passes"
        coordinates = self.coordinates(embedding_size)
        least = embedding_rms * precision.spacing * coordinates
        small = {name: size for name, size in self.moves().items() if size < least}
        if not small:
            return ""
        return (
            f"moves of {min(small.values()) / coordinates:.2g} are below the resolution of {precision.name} around "
            f"word embeddings of root mean square {embedding_rms:.2g}; the smallest size that works is "
            f"{rounded_up(least):.2g} ({', '.join(small)})"
        )

    def perturbed(self, forward_pass: ForwardPass, embeddings: Tensor) -> Tensor:
        """Logits for other word embeddings, with the dropout of the options."""
        return forward_pass.rerun(embeddings, dropout=self.options.dropout)

    def clean_logits(self, forward_pass: ForwardPass) -> Tensor:
        """Logits to compare with: those of the clean pass, or without dropout when the perturbed pass has none."""
        if self.options.dropout == "off":
            return forward_pass.rerun(forward_pass.embeddings, dropout="off")
        return forward_pass.logits

    def note(self, delta: Tensor, forward_pass: ForwardPass, clipped: Tensor | None = None) -> None:
        """Store what `diagnostics` returns about a perturbation.

        Args:
            delta: [N, T, E].
            clipped: bool, [N, T, E] or [N, T or 1, 1]: where the limit clipped it.
            forward_pass: the clean pass of this step.
        """
        self._seen = {"perturbation": root_mean_square(delta, forward_pass.mask) / self.embedding_rms}
        if clipped is not None:
            self._seen["clipped"] = fraction(clipped, forward_pass.mask)

    def diagnostics(self) -> dict[str, Tensor]:
        """perturbation: its root mean square in units of the embeddings'; clipped: the fraction the limit clipped."""
        return dict(self._seen)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "embedding_rms": self.embedding_rms, "seen": dict(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; sizes stay relative to the embeddings at the run's start."""
        super().load_state_dict(state)
        self._seen = dict(state["seen"])
        self._resolve(state["embedding_rms"])
