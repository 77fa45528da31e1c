"""How a tokenizer uses its codes, on the true frames of the references. Every evaluation of a family with a tokenizer measures it."""

from typing import TYPE_CHECKING

from diamond_bench.metrics.header import ROLLOUT_SIZES, Column
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Measured, Meter, Setting


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter

    return Meter(lambda batch: {})  # the evaluation counts the tokens, since a batch has frames only


def _reduce(measured: "Measured") -> dict[str, list[Row]]:
    """Perplexity of the codes, and the share that is used, from the counts (references, codes) of all tokens."""
    import torch

    from diamond_bench.models.vq_tokenizer import code_usage

    counts = measured.shown("reconstructed").get("code_counts")
    if counts is None:
        return {}
    return {"after": [Row(name, float(value)) for name, value in code_usage(torch.from_numpy(counts.sum(axis=0))).items()]}


METRIC = Metric(
    "code_usage",
    {
        "code_perplexity": Column(
            "perplexity of the codes",
            low=1.0,
            definition="exp of the entropy of the tokens of the references' true frames: the number of codes that the tokenizer uses as if "
            "equally often",
            detail=True,
            sizes=ROLLOUT_SIZES,
        ),
        "codes_used": Column(
            "codes used",
            low=0.0,
            high=1.0,
            definition="share of the tokenizer's codes that occur in the references' true frames",
            detail=True,
            sizes=ROLLOUT_SIZES,
        ),
    },
    _open,
    _reduce,
    asked=False,
)
