"""kbn's backend for TensorFlow: the functions of `kbn.backend.interface.Backend`."""

from kbn.backend.portable import carried_mask, in_double
from kbn.backend.tensorflow.arrays import COUNTER, numpy_of
from kbn.backend.tensorflow.channel_sums import sum_terms
from kbn.backend.tensorflow.compiling import (
    compile_for,
    compile_for_batches,
    current_trace,
    shared,
)
from kbn.backend.tensorflow.gradients import differentiable, value_and_gradients
from kbn.backend.tensorflow.hidden_state import HiddenState
from kbn.backend.tensorflow.normalization import kernel, normalize, normalize_batch
from kbn.backend.tensorflow.replicas import gather, is_chief, several_replicas, undisturbed
from kbn.backend.tensorflow.training import iterations
