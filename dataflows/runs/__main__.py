"""``python -m dataflows.runs < task.json``: one run as a process of its own, see `dataflows.runs.launcher`.

Nothing of what is imported is garbage: looking for it takes a fifth of the start.
"""

import gc

gc.disable()

from dataflows.runs.launcher import main  # noqa: E402 - after the above

gc.freeze()
gc.enable()
main()
