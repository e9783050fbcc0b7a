"""kbn's backend for PyTorch: the functions of `kbn.backend.interface.Backend`."""

from kbn.backend.portable import carried_mask, in_double, sum_terms
from kbn.backend.torch.arrays import COUNTER, numpy_of
from kbn.backend.torch.compiling import compile_for, compile_for_batches, current_trace, shared
from kbn.backend.torch.gradients import differentiable, value_and_gradients
from kbn.backend.torch.hidden_state import HiddenState
from kbn.backend.torch.normalization import kernel, normalize, normalize_batch
from kbn.backend.torch.replicas import gather, is_chief, several_replicas, undisturbed
from kbn.backend.torch.training import iterations
