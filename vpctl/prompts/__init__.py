"""Knowledge about prompts: what is noise, who is credited, what is unsafe, what repeats, how long CLIP finds a text."""
