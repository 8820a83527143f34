"""From a path or a name to batches.

A batch is a dict of tensors whose axis 0 is the sample. The keys are a fixed vocabulary:

| key        | type, shape                                             | meaning                               |
|------------|---------------------------------------------------------|---------------------------------------|
| `image`    | uint8 (batch, channels, height, width)                  | pixels in 0..255: grey, RGB or bands  |
| `size`     | int64 (batch, 2)                                        | true height and width of images       |
| `video`    | uint8 (batch, frames, channels, height, width)          | pixels in 0..255                      |
| `views`    | uint8 (batch, cameras, frames, channels, height, width) | the same moments from several cameras |
| `waveform` | float32 (batch, samples)                                | sound in -1..1, zeros behind its end  |
| `length`   | int64 (batch,)                                          | true samples of each waveform         |
| `tokens`   | int64 (batch, length)                                   | numbers of words or word pieces       |
| `mask`     | bool (batch, length)                                    | which tokens are real, not padding    |
| `sentence` | int64 (batch, length)                                   | sentence of each token, -1 in padding |
| `document` | int64 (batch,)                                          | the text that the tokens are from     |
| `pose`     | float32 (batch, frames, 3)                              | x, y in metres, heading in radians    |
| `depth`    | float32 (batch, frames, height, width)                  | distances that were seen, in metres   |
| `time`     | int64 (batch, frames) or (batch, cameras, frames)       | number of each frame in its source    |
| `action`   | float32 (batch, frames, actions)                        | what the agent did                    |
| `group`    | int64 (batch,)                                          | the recording or speaker it is from   |
| `index`    | int64 (batch,)                                          | the row in the data                   |

`size` is there only where the images of the data differ in size; they are then padded with zeros at the
bottom and right. A `video` may also hold images of one place at several times, whose `size` is then (batch, frames, 2).
Headings are counter-clockwise from the x axis. Labels and factors are not in a batch: they stay
in `Data` for the evaluation and never enter pre-training.
"""

from unlabeled.data.image.data import Images, from_images
from unlabeled.data.opening import BUILT_IN, KINDS, STORE_SIZE, kind_of, open_data, open_splits, store_size
from unlabeled.data.samples import Batch, Data, Skipped

__all__ = [
    "BUILT_IN",
    "KINDS",
    "STORE_SIZE",
    "Batch",
    "Data",
    "Images",
    "Skipped",
    "from_images",
    "kind_of",
    "open_data",
    "open_splits",
    "store_size",
]
