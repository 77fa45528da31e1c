"""Sampling a frame as one CUDA graph: the solver's steps and all denoiser calls in a single launch."""

from collections.abc import Callable

from torch import Tensor

from diamond_bench.config import Sampler
from diamond_bench.diffusion.samplers import Callback, Noise, Sampling, SupportsDenoise, sample
from diamond_bench.models.graphs import Graphed, Outputs, Recorder


class GraphedSampling:
    """`sample` (or another way of sampling), recorded once for each denoiser, shape and sampler; a call with a callback is not.

    Noise is drawn before the graph runs, by as many calls as the sampler makes: the numbers are those of what is recorded.
    """

    def __init__(self, record: Recorder | None = None, sampling: Sampling = sample) -> None:
        self._record, self._sampling = record, sampling
        self._recorded: dict[object, tuple[Graphed, int]] = {}

    def __call__(
        self, denoiser: SupportsDenoise, past: Tensor, actions: Tensor, sampler: Sampler, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        """As `sample`."""
        if callback is not None:
            return sample(denoiser, past, actions, sampler, noise, callback)
        key = (denoiser, past.shape, sampler)
        if key not in self._recorded:
            drawn: list[Tensor] = []

            def counted() -> Tensor:
                drawn.append(noise())
                return drawn[-1]

            frame = self._sampling(denoiser, past, actions, sampler, counted)
            self._recorded[key] = (Graphed(self._recordable(denoiser, sampler), record=self._record), len(drawn))
            return frame
        graphed, num_draws = self._recorded[key]
        (frame,) = graphed(past, actions, *(noise() for _ in range(num_draws)))
        return frame

    def _recordable(self, denoiser: SupportsDenoise, sampler: Sampler) -> Callable[..., Outputs]:
        def run(past: Tensor, actions: Tensor, *noises: Tensor) -> Outputs:
            left = iter(noises)
            return (self._sampling(denoiser, past, actions, sampler, lambda: next(left)),)

        return run
