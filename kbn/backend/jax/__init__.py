"""kbn's backend for JAX: the functions of `kbn.backend.interface.Backend`."""

from kbn.backend.jax.arrays import COUNTER, in_double, numpy_of
from kbn.backend.jax.compiling import compile_for, compile_for_batches, current_trace, shared
from kbn.backend.jax.gradients import differentiable, value_and_gradients
from kbn.backend.jax.hidden_state import HiddenState
from kbn.backend.jax.normalization import kernel, normalize, normalize_batch
from kbn.backend.jax.replicas import gather, is_chief, several_replicas, undisturbed
from kbn.backend.jax.training import iterations
from kbn.backend.portable import carried_mask, sum_terms
