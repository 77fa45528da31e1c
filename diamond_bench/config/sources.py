"""The sources of training segments."""

SEGMENT_SOURCES: dict[str, str] = {
    "memory": "diamond_bench.data.sources:MemorySource",
    "streamed": "diamond_bench.data.sources:streamed",
}
"""Sources of segments, by the value of `training.segments`: "module:class" or "module:function". They are called with the folder of a
dataset's split (such as train/), the training device, and the number of threads that may read (training.readers)."""
