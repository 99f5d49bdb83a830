"""Every hyper-parameter of vpctl on one page: its default, one sentence, and where the default comes from.

A field is an option of the command that trains with it: `learning_rate` is `--learning-rate`.
"""

from dataclasses import dataclass
from typing import Annotated

from .options import duration, option

LearningRate = Annotated[
    float, option(metavar="LR", min=0, max=1, group="Training", help="Peak learning rate of AdamW.")
]
Rank = Annotated[
    int,
    option(
        metavar="R",
        min=1,
        max=1024,
        group="Training",
        help="Rank of the LoRA. Its alpha equals the rank, so its scale is 1.",
    ),
]
Checkpoint = Annotated[
    int, option("--save-every", metavar="N", min=1, max=1_000_000, group="Output", help="Steps between checkpoints.")
]
PreviewEvery = Annotated[
    int,
    option(metavar="N", min=0, max=1_000_000, group="Output", help="Steps between preview grids; 0 turns them off."),
]


@dataclass(frozen=True)
class RewardModelConfig:
    """Options of train-rm."""

    epochs: Annotated[
        int, option(metavar="N", min=1, max=10_000, group="Training", help="Passes over the training pairs.")
    ] = 4
    """ImageReward's code says 10; a user with 20,000 pairs of his own saw it converge at 4."""
    batch: Annotated[
        int,
        option(
            "--batch",
            metavar="N",
            min=1,
            max=4096,
            group="Training",
            help="Prompts per optimizer step. All pairs of a prompt are in the same step.",
        ),
    ] = 16
    """ImageReward trains on 64 pairs at once; four pictures a prompt make six."""
    learning_rate: LearningRate = 1e-5
    """ImageReward, section 4.1."""
    weight_decay: Annotated[
        float, option(metavar="W", min=0, max=10, group="Training", help="Weight decay of AdamW.")
    ] = 0.0
    """ImageReward's code."""
    freeze: Annotated[
        float,
        option(
            metavar="F",
            min=0,
            max=1,
            group="Training",
            help="Share of the layers that are frozen, counted from the input side.",
        ),
    ] = 0.7
    """The paper, appendix D.1."""
    save_every: Checkpoint = 100


@dataclass(frozen=True)
class DPOConfig:
    """Options of tune-dpo."""

    max_steps: Annotated[
        int, option("--max-steps", metavar="N", min=1, max=1_000_000, group="Training", help="Optimizer steps.")
    ] = 2000
    """Diffusion-DPO's SD 1.5 run."""
    batch: Annotated[
        int, option("--batch", metavar="N", min=1, max=4096, group="Training", help="Pairs per forward pass.")
    ] = 8
    accumulate: Annotated[
        int, option(metavar="N", min=1, max=4096, group="Training", help="Forward passes per optimizer step.")
    ] = 4
    beta: Annotated[
        float,
        option(
            metavar="B",
            min=0,
            max=1_000_000,
            group="Training",
            help="Regularization: a larger value keeps the model closer to the untuned model.",
        ),
    ] = 5000.0
    """Diffusion-DPO, for a squared error that is a mean over the latent's elements."""
    learning_rate: LearningRate = 1e-4
    """Between the 1e-5 and 5e-4 that diffusers' example script uses for LoRA."""
    warmup: Annotated[
        int,
        option(
            metavar="N",
            min=0,
            max=1_000_000,
            group="Training",
            help="Number of warm-up steps, during which the learning rate rises.",
        ),
    ] = 50
    rank: Rank = 8
    prompt_dropout: Annotated[
        float,
        option(
            metavar="P",
            min=0,
            max=1,
            group="Training",
            help="Share of the pairs that are trained without their prompt.",
        ),
    ] = 0.0
    """Diffusion-DPO's code says 0.2, for models that are used with strong guidance."""
    preview_every: PreviewEvery = 200
    save_every: Checkpoint = 100


@dataclass(frozen=True)
class PPOConfig:
    """Options of tune-ppo."""

    epochs: Annotated[
        int,
        option(
            metavar="N",
            min=1,
            max=100_000,
            group="Training",
            help="Number of rounds. Each round draws pictures, scores them and trains on them.",
        ),
    ] = 100
    """DDPO's compressibility run."""
    prompts_per_epoch: Annotated[
        int, option("--prompts-per-epoch", metavar="N", min=1, max=65_536, group="Sampling", help="Prompts per round.")
    ] = 32
    images: Annotated[
        int,
        option(
            "--images",
            "-n",
            metavar="N",
            min=2,
            max=1024,
            group="Sampling",
            help="Pictures per prompt. The rewards of these pictures are compared with one another.",
        ),
    ] = 8
    """32 × 8 is DDPO's 256 pictures a round."""
    updates: Annotated[
        int, option(metavar="N", min=1, max=10_000, group="Training", help="Optimizer steps per round.")
    ] = 2
    """DDPO's aesthetic run."""
    batch: Annotated[
        int, option("--batch", metavar="N", min=1, max=4096, group="Training", help="Pictures per forward pass.")
    ] = 8
    steps: Annotated[
        int | None,
        option(metavar="N", min=2, max=1000, group="Sampling", help="Denoising steps.", show_default="the model's own"),
    ] = None
    guidance: Annotated[
        float | None,
        option(
            metavar="W",
            min=0,
            max=1000,
            group="Sampling",
            help="Weight of classifier-free guidance, in drawing and in training.",
            show_default="the model's own",
        ),
    ] = None
    eta: Annotated[
        float,
        option(
            metavar="E",
            min=0.01,
            max=1,
            group="Sampling",
            help="Amount of noise in a denoising step; 1 is the amount of DDPM.",
        ),
    ] = 1.0
    timestep_fraction: Annotated[
        float,
        option(
            metavar="F",
            min=0.01,
            max=1,
            group="Training",
            help="Share of the denoising steps to train on. Each round selects them at random.",
        ),
    ] = 0.5
    skip_last: Annotated[
        int,
        option(
            metavar="N",
            min=0,
            max=1000,
            group="Training",
            help="Number of final denoising steps to leave out of training.",
        ),
    ] = 1
    """Their noise is so small that they dominate the gradient and mean nothing for the picture; DanceGRPO drops one."""
    clip: Annotated[
        float,
        option(metavar="E", min=0, max=100, group="Training", help="Clip range of the probability ratio in a round."),
    ] = 1e-4
    """DDPO, for log-probabilities that are a mean over the latent's elements."""
    advantage_clip: Annotated[
        float,
        option(
            metavar="A",
            min=0,
            max=1_000_000,
            group="Training",
            help="Maximum absolute value of an advantage, in standard deviations.",
        ),
    ] = 5.0
    """DDPO."""
    kl: Annotated[
        float,
        option(
            "--kl",
            metavar="W",
            min=0,
            max=1_000_000,
            group="Training",
            help="Weight of the KL divergence from the untuned model.",
        ),
    ] = 0.0
    learning_rate: LearningRate = 3e-4
    """DDPO, for LoRA."""
    rank: Rank = 8
    preview_every: Annotated[
        int,
        option(metavar="N", min=0, max=100_000, group="Output", help="Rounds between preview grids; 0 turns them off."),
    ] = 10
    save_every: Annotated[
        int,
        option("--save-every", metavar="N", min=1, max=1_000_000, group="Output", help="Rounds between checkpoints."),
    ] = 5


@dataclass(frozen=True)
class ServerConfig:
    """Options of all that asks a server."""

    base_url: Annotated[
        str,
        option(
            "--base-url",
            metavar="URL",
            group="Server",
            help="URL of an OpenAI-compatible server.",
            show_default="OPENAI_BASE_URL",
        ),
    ] = ""
    concurrency: Annotated[
        int,
        option(
            metavar="N",
            min=1,
            max=4096,
            group="Server",
            help="Maximum number of calls at the same time. The actual number adapts to the server.",
        ),
    ] = 64
    rpm: Annotated[
        float | None,
        option(
            metavar="N",
            min=1,
            max=1e9,
            group="Server",
            help="Maximum number of requests per minute.",
            show_default="no limit",
        ),
    ] = None
    tpm: Annotated[
        float | None,
        option(
            metavar="N",
            min=1,
            max=1e12,
            group="Server",
            help="Maximum number of tokens per minute.",
            show_default="no limit",
        ),
    ] = None
    max_cost: Annotated[
        float | None,
        option(
            "--max-cost",
            metavar="USD",
            min=0,
            max=1e9,
            group="Budget",
            help="Stop before the run costs more than this. An unfinished call counts with its maximum cost.",
            show_default="no limit",
        ),
    ] = None
    max_requests: Annotated[
        int | None,
        option(
            "--max-requests",
            metavar="N",
            min=0,
            max=1_000_000_000,
            group="Budget",
            help="Stop after this number of requests.",
            show_default="no limit",
        ),
    ] = None
    max_time: Annotated[
        float | None,
        option(
            "--max-time",
            metavar="TIME",
            parser=duration,
            group="Budget",
            help="Start no new work after this time, such as 90s, 45m or 6h.",
            show_default="no limit",
        ),
    ] = None
    timeout: Annotated[
        float, option(metavar="S", min=0.1, max=86_400, group="Server", help="Seconds to wait for an answer.")
    ] = 120.0
    temperature: Annotated[
        float,
        option(
            metavar="T",
            min=0,
            max=2,
            group="Server",
            help="Sampling temperature. It is not sent to models that reject it.",
        ),
    ] = 0.0
    """The paper, section 5: accuracy and self-consistency both fall as it rises."""
    max_tokens: Annotated[
        int,
        option(
            "--max-tokens",
            metavar="N",
            min=1,
            max=1_000_000,
            group="Server",
            help="Maximum number of tokens in an answer, including reasoning tokens.",
        ),
    ] = 4096
    extra: Annotated[
        str,
        option(
            metavar="JSON",
            group="Server",
            help='Additional keys for every request, such as \'{"reasoning_effort": "low"}\'.',
        ),
    ] = ""
    prices: Annotated[
        str,
        option(
            metavar="FILE",
            group="Budget",
            help="TOML file with your own prices. They override the built-in prices.",
            show_default="none",
        ),
    ] = ""


@dataclass(frozen=True)
class PictureConfig:
    """How a server gets to see pictures."""

    max_side: Annotated[
        int,
        option(
            "--max-side",
            metavar="PX",
            min=0,
            max=16_384,
            group="Picture",
            help="Shrink pictures that are larger than this; 0 never shrinks.",
        ),
    ] = 1024
    detail: Annotated[
        str,
        option(
            "--detail",
            choices=("low", "high", "auto"),
            group="Picture",
            help="How closely the model looks at pictures, if the model supports this setting.",
        ),
    ] = ""
    image_url: Annotated[
        str,
        option(
            "--image-url",
            metavar="PREFIX",
            group="Picture",
            help="Send the URL of each picture instead of its data. The URL is this prefix and the picture's "
            "path relative to the records. The server must be able to open it; file:// URLs are possible.",
        ),
    ] = ""
