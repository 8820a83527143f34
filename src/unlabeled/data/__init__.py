"""From a path or a name to batches.

A batch is a dict of tensors whose axis 0 is the sample. The keys are a fixed vocabulary:

| key           | type, shape                                    | meaning                                  |
|---------------|------------------------------------------------|------------------------------------------|
| `image`       | uint8 (batch, channels, height, width)         | pixels in 0..255, grey or RGB            |
| `size`        | int64 (batch, 2)                               | true height and width of padded images   |
| `video`       | uint8 (batch, frames, channels, height, width) | pixels in 0..255                         |
| `waveform`    | float32 (batch, samples)                       | sound in -1..1                           |
| `sample_rate` | int64 (batch,)                                 | samples of sound per second, in hertz    |
| `tokens`      | int64 (batch, length)                          | numbers of words or word pieces          |
| `mask`        | bool (batch, length)                           | which tokens are real, not padding       |
| `pose`        | float32 (batch, steps, ...)                    | where an agent was                       |
| `depth`       | float32 (batch, steps, ...)                    | distances that it saw, in metres         |
| `action`      | float32 (batch, steps, ...)                    | what it did                              |
| `index`       | int64 (batch,)                                 | the row in the data                      |

`size` is there only where the images of the data differ in size; they are then padded with zeros at the
bottom and right. Labels are no key: they stay in `Data.labels` for the evaluation and never enter
pre-training.
"""

from unlabeled.data.builtin import NAMES as BUILT_IN
from unlabeled.data.images import Batch, Data, Skipped, from_images
from unlabeled.data.opening import STORE_SIZE, open_data, open_splits

__all__ = ["BUILT_IN", "STORE_SIZE", "Batch", "Data", "Skipped", "from_images", "open_data", "open_splits"]
