"""What TensorBoard loads at its start: a small module that cannot fail, whatever the tab needs.

An import that fails here would end the `tensorboard` command; one that fails in `load` costs the
tab alone.
"""

from typing import Any

from tensorboard.plugins.base_plugin import TBLoader


class Loader(TBLoader):
    """Makes the plugin once TensorBoard is up."""

    def load(self, context: Any) -> Any:
        """Return the plugin; where it raises, TensorBoard logs that and goes on without it."""
        from kbn.dashboard.plugin import CovariateShiftPlugin

        return CovariateShiftPlugin(context)
