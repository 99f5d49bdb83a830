"""`python -m vpctl`, which is what `accelerate launch -m vpctl` runs."""

import sys

from .cli import main

sys.exit(main())
