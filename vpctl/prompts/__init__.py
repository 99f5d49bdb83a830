"""Knowledge about prompts: noise, credits, safety, duplicates, faithful rewrites, and length in CLIP tokens."""
