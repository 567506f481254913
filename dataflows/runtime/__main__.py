"""``python -m dataflows.runtime < task.json``: one run as a process of its own, see `dataflows.runtime.launcher`.

Nothing of what is imported is garbage: looking for it takes a fifth of the start.
"""

import gc

gc.disable()

from dataflows.runtime.launcher import main  # noqa: E402 - after the above

gc.freeze()
gc.enable()
main()
