"""Models with weights: inspecting a folder, finding the files of a hub id, and the one place that opens models."""
