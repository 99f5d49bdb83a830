"""The environment in which vpctl runs in tests, and one thread for the numerical libraries of this process.

Import this module before numpy and torch: they read their number of threads when they are loaded.
"""

import os

# With models this small, threads mostly wait for one another, and they spin while they do. Also, a process that forks
# must have a single thread.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "0",
}
os.environ.update(_ONE_THREAD)
_OWN = ("OPENAI_", "COMP_", "_VPCTL", "VPCTL")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)} | {
    "COLUMNS": "80",
    "NO_COLOR": "1",
}
"""The environment of vpctl in tests: no settings of the user, one thread, a terminal of the usual width."""
