"""The entry point that TensorBoard loads at its start: small, so that it cannot fail.

An import that fails here ends the `tensorboard` command; one that fails in `load` costs the tab
alone.
"""

from tensorboard.plugins.base_plugin import TBContext, TBLoader, TBPlugin


class Loader(TBLoader):
    """Makes the plugin after TensorBoard has started."""

    def load(self, context: TBContext) -> TBPlugin:
        """Return the plugin; if it raises, TensorBoard logs that and starts without the tab."""
        from kbn.dashboard.plugin import CovariateShiftPlugin

        return CovariateShiftPlugin(context)
