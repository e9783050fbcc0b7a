"""Print the oldest versions that setup.cfg allows, as constraints for pip.

The tools of the tests are not constrained, because users of kbn do not install them.
"""

import configparser
import re
from pathlib import Path

settings = configparser.ConfigParser()
settings.read(Path(__file__).parent.parent / "setup.cfg", encoding="utf-8")
bounds = settings["options"]["install_requires"] + "".join(
    needs for extra, needs in settings["options.extras_require"].items() if extra != "test"
)
for name, oldest in sorted(set(re.findall(r"^([\w-]+)(?:\[[\w-]+\])?>=([\d.]+)$", bounds, re.M))):
    print(f"{name}=={oldest}")
