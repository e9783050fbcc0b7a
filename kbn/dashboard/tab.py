"""The entry point that TensorBoard loads when it starts.

It is small, because an import error here ends the `tensorboard` command. After an import error in
`load`, only the tab is missing.
"""

from tensorboard.plugins.base_plugin import TBContext, TBLoader, TBPlugin


class Loader(TBLoader):
    """Creates the plugin after TensorBoard has started."""

    def load(self, context: TBContext) -> TBPlugin:
        """Return the plugin. If this raises, TensorBoard logs it and starts without the tab."""
        from kbn.dashboard.plugin import CovariateShiftPlugin

        return CovariateShiftPlugin(context)
