"""``python -m dataflows.runs < tasks.jsonl``: the process of runs, see `dataflows.runs.serving`.

The garbage collector is off during the imports: it would take a fifth of the start and find nothing.
"""

import gc

gc.disable()

from dataflows.runs.serving import main  # noqa: E402 - after the above

gc.enable()
main()
