"""The text in a picture's file that says how it was drawn, in the form of the AUTOMATIC1111 web UI.

Other tools read it. It names models and adapters without their folders: a picture may be published, and a path may not.
"""

import json
import os
import re
from pathlib import Path

from .. import plugins
from .plan import Drawing

_REVISED = "Revised prompt"
_PUBLIC = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
"""Matches a word such as ``small``, and an id of the hub."""


def parameters(job: Drawing, size: tuple[int, int]) -> str:
    """The text for a picture of this size. The prompt is first; the last line has the settings."""
    record = job.record
    about: dict[str, object] = {
        "Steps": record.get("num_inference_steps"),
        "Sampler": job.model.sampler,
        "CFG scale": f"{record['guidance_scale']:g}" if "guidance_scale" in record else "",
        "Seed": "" if "a seed" in record.get("asked", {}).get("without", "") else record["seed"],
        "Size": f"{size[0]}x{size[1]}",
        "Model": public_name(record["model"]),
        "Lora": ", ".join(map(_last, record.get("adapter", "").split(","))),
        _REVISED: " ".join(record.get("revised_prompt", "").split()),
    }
    settings = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in about.items() if value not in ("", None))
    negative = record.get("negative_prompt")
    texts = [record["prompt"], *([f"Negative prompt: {negative}"] if negative else [])]
    return "\n".join([*(" ".join(text.split()) for text in texts), settings])  # a line of a prompt is not a setting


def revised_in(text: str) -> str:
    """The prompt that a server has drawn in place of the one it was given, by the text in a picture's file, if any."""
    found = re.search(rf', {_REVISED}: ("(?:[^"\\]|\\.)*"|[^,\n]*)$', text)
    if not found:
        return ""
    try:
        return str(json.loads(found[1])) if found[1].startswith('"') else found[1]
    except ValueError:
        return ""


def public_name(spec: str) -> str:
    """A SPEC without folders: ``sd15`` for ``diffusion:/models/sd15``, and ``mine`` for ``./mine.py:http://host``."""
    name, argument = plugins.split(spec)
    if name.endswith(".py"):
        return Path(name).stem
    if not argument:
        return name
    if os.path.exists(argument) or not _PUBLIC.fullmatch(argument):
        return _last(argument)
    return argument if "/" in argument else f"{name}:{argument}"


def _last(path: str) -> str:
    return os.path.basename(path.strip().rstrip("/"))


def _quoted(value: str) -> str:
    """The value; in quotes, as the web UI does it, if it would not be read back as one."""
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n]", value) else value
