"""What TensorBoard loads at its start: a small module that cannot fail, whatever the tab needs.

An import that fails here would end the `tensorboard` command; one that fails in `load` costs the
tab alone.
"""

from typing import Any

from tensorboard.plugins.base_plugin import TBLoader


class Loader(TBLoader):
    """Makes the plugin after TensorBoard has started."""

    def load(self, context: Any) -> Any:
        """Return the plugin; if it raises, TensorBoard logs that and starts without the tab."""
        from kbn.dashboard.plugin import CovariateShiftPlugin

        return CovariateShiftPlugin(context)
