"""Models with weights: inspecting a folder, finding the files of a hub id, and the one place that opens models."""

import logging

# diffusers imports it where it is installed, and then it warns of kernels that vpctl does not use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
