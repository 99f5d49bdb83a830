"""Every hyper-parameter of vpctl on one page: its default, one sentence, and where the default comes from.

A field of these classes is an option: `learning_rate` is `--learning-rate`. Environment variables are here, too.
"""

import os
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar, dataclass_transform

from .options import duration, option

T = TypeVar("T")


@dataclass_transform(frozen_default=True, eq_default=False)
def options_class(cls: type[T]) -> type[T]:
    """Make a frozen dataclass without ``==`` and ``repr``. Nothing needs them, and they double the time to make it."""
    return dataclass(frozen=True, repr=False, eq=False)(cls)


class Variable(NamedTuple):
    """An environment variable. Every command with one of these `parameters` reads it."""

    name: str
    meaning: str
    parameters: tuple[str, ...]

    @property
    def value(self) -> str:
        """The value without spaces around it; empty if the variable is not set."""
        return os.environ.get(self.name, "").strip()


API_KEY = Variable(
    "OPENAI_API_KEY",
    "API key for the server of `openai:` and `moderation`. There is no option for it. It is never written to a file. A "
    "server on this machine needs none.",
    ("base_url",),
)
BASE_URL = Variable(
    "OPENAI_BASE_URL",
    "URL of an OpenAI-compatible server, such as http://localhost:8000/v1. --base-url overrides it. If neither is set, "
    "OpenAI's own server is used.",
    ("base_url",),
)
PROVIDER_KEYS = Variable(
    "ANTHROPIC_API_KEY AZURE_OPENAI_API_KEY DASHSCOPE_API_KEY DEEPSEEK_API_KEY FIREWORKS_API_KEY GEMINI_API_KEY "
    "GROQ_API_KEY HF_TOKEN MISTRAL_API_KEY OPENROUTER_API_KEY TOGETHER_API_KEY XAI_API_KEY",
    "API key for the servers of this provider, by their addresses. It is used in place of OPENAI_API_KEY.",
    ("base_url",),
)
CACHE = Variable(
    "XDG_CACHE_HOME",
    "Folder of caches, ~/.cache if it is not set. Its folder vpctl/servers has notes on what servers accept.",
    ("base_url",),
)
STEP_SUMMARY = Variable(
    "GITHUB_STEP_SUMMARY", "File to which --github appends its tables. GitHub Actions sets it.", ("github",)
)
VARIABLES = (
    API_KEY,
    PROVIDER_KEYS,
    BASE_URL,
    CACHE,
    Variable("HF_HOME", "Folder in which Hugging Face stores the models that it fetches from its hub.", ("device",)),
    Variable("HF_TOKEN", "Token for private models on the Hugging Face hub.", ("device",)),
    Variable(
        "OMP_NUM_THREADS",
        "Number of CPU threads. If it is not set, a command uses all cores; in a pipe it uses half of them.",
        ("device",),
    ),
    Variable(
        "GLIBC_TUNABLES MALLOC_TRIM_THRESHOLD_ MALLOC_MMAP_THRESHOLD_",
        "Settings of the memory of glibc. If none is set, a process whose model is on the CPU keeps memory that it "
        "frees, for its next tensors: up to 256 MiB for each thread, and what lies below a tensor in use.",
        ("device",),
    ),
    Variable(
        "RANK", "Number of this process among those that a launcher has started, from 0.", ("save_every", "shard")
    ),
    Variable(
        "WORLD_SIZE",
        "Number of processes that a launcher, such as accelerate launch, has started.",
        ("save_every", "shard"),
    ),
    Variable(
        "ACCELERATE_USE_FSDP",
        "If it is true, the processes divide the frozen weights of the model among themselves. accelerate launch "
        "--use_fsdp sets it.",
        ("lora",),
    ),
    Variable(
        "ACCELERATE_USE_DEEPSPEED",
        "If it is true, the processes divide the state of the optimizer among themselves. accelerate launch "
        "--use_deepspeed sets it.",
        ("lora",),
    ),
    Variable(
        "ACCELERATE_DEEPSPEED_ZERO_STAGE",
        "What DeepSpeed divides: 1 the moments of AdamW, 2 also the gradients. accelerate launch --zero_stage sets it.",
        ("lora",),
    ),
    Variable(
        "SSL_CERT_FILE",
        "File of the certificates that are trusted, for a network with its own. The default is Mozilla's list.",
        ("base_url",),
    ),
    STEP_SUMMARY,
    Variable("NO_COLOR", "If it is set, tables have no colours.", ("judgements", "html", "files")),
)
"""Every environment variable that vpctl, or a library that it loads, reads."""

LearningRate = Annotated[
    float, option(metavar="LR", min=0, max=1, group="Training", help="Peak learning rate of AdamW.")
]
Warmup = Annotated[
    int,
    option(
        metavar="N",
        min=0,
        max=1_000_000,
        group="Training",
        help="Number of optimizer steps during which the learning rate rises to its peak. It is constant after them.",
    ),
]
WeightDecay = Annotated[float, option(metavar="W", min=0, max=10, group="Training", help="Weight decay of AdamW.")]
Rank = Annotated[
    int,
    option(
        metavar="R",
        min=1,
        max=1024,
        group="Training",
        help="Rank of the LoRA: the size of its weight matrices. The alpha of the LoRA is the same number, so its "
        "scale is 1.",
    ),
]
MaxGradNorm = Annotated[
    float,
    option(
        "--max-grad-norm",
        metavar="N",
        min=0.000001,
        max=1_000_000_000,
        group="Training",
        help="Largest norm of the gradient; a longer gradient is scaled down to it.",
    ),
]
Steps = Annotated[
    int | None,
    option(
        metavar="N",
        min=2,
        max=100_000,
        group="Sampling",
        help="Number of denoising steps per picture.",
        show_default="the model's own",
    ),
]
Guidance = Annotated[
    float | None,
    option(
        metavar="W",
        min=0,
        max=1000,
        group="Sampling",
        help="Weight of classifier-free guidance, both for drawing and for training. With 1 or less there is no "
        "guidance, and a denoising step takes half the time. FLUX.1 [dev] takes it as an input, in one pass; FLUX.1 "
        "[schnell] has no guidance.",
        show_default="the model's own",
    ),
]
Eta = Annotated[
    float,
    option(
        metavar="E",
        min=0,
        max=1,
        group="Sampling",
        help="Amount of noise that a denoising step adds; 1 is the amount of DDPM sampling. ddpo, grpo and d3po need "
        "at least 0.01: a step without noise has no probability.",
    ),
]
SkipLast = Annotated[
    int,
    option(
        metavar="N",
        min=0,
        max=1000,
        group="Training",
        help="ddpo, grpo and d3po: Leave the last N denoising steps out of training.",
    ),
]
Checkpoint = Annotated[
    int,
    option(
        "--save-every",
        metavar="N",
        min=1,
        max=1_000_000,
        group="Output",
        help="Number of optimizer steps between checkpoints.",
    ),
]
PreviewEvery = Annotated[
    int,
    option(
        metavar="N",
        min=0,
        max=1_000_000,
        group="Output",
        help="Number of optimizer steps between preview grids; 0 turns previews off.",
    ),
]


PRECISIONS = ("float32", "bfloat16", "float16")
"""Names of the precisions that models compute in."""

IMAGEREWARD = {
    "backbone": "Salesforce/blip-itm-large-coco",
    "head": "mlp",
    "text_limit": 35,
    "image_size": 224,
    "freeze": 0.7,
    "freeze_rule": "imagereward",
    "batch": 4,
    "pairs_per_step": 64,
    "learning_rate": 1e-5,
    "weight_decay": 0.0,
    "loss": "bradley-terry",
    "epochs": 10,
}
"""ImageReward (Xu et al. 2023, section 4.1, and its code). It starts from BLIP-L before any fine-tuning. For
transformers, the hub has this model only after fine-tuning for retrieval."""
PRESETS = {
    "visionprefer": {**IMAGEREWARD, "freeze_rule": "layers"},
    "imagereward": IMAGEREWARD,
}
"""Values of train-rm's options by the name of a recipe. VP-Score (VisionPrefer, section 4.1 and appendix D.1) follows
ImageReward, and says that it freezes 70 % of the layers and trains on 64 pairs at once."""


@options_class
class RewardModelConfig:
    """Options of train-rm."""

    epochs: Annotated[
        int, option(metavar="N", min=1, max=10_000, group="Training", help="Number of passes over the training pairs.")
    ] = 4
    """ImageReward's code says 10. A user with 20,000 own pairs reported that training converged after 4."""
    data_fraction: Annotated[
        float,
        option(
            "--data-fraction",
            metavar="F",
            min=0.0001,
            max=1,
            group="Training",
            help="Train on this share of the training prompts only, for a learning curve. A smaller share is a part of "
            "a larger one; validation and test pairs stay the same.",
        ),
    ] = 1.0
    batch: Annotated[
        int,
        option(
            "--batch",
            metavar="N",
            min=1,
            max=4096,
            group="Training",
            help="Number of prompts per forward pass. All pairs of a prompt are in the same pass.",
        ),
    ] = 16
    """ImageReward trains on 64 pairs at once; four pictures per prompt make six pairs."""
    accumulate: Annotated[
        int,
        option(metavar="N", min=1, max=4096, group="Training", help="Number of forward passes per optimizer step."),
    ] = 1
    pairs_per_step: Annotated[
        int | None,
        option(
            "--pairs-per-step",
            metavar="N",
            min=1,
            max=1_000_000,
            group="Training",
            help="Unless --accumulate is given, choose it so that an optimizer step has about this many pairs. How "
            "many pairs a prompt has depends on the data.",
            show_default="as many as --batch and --accumulate give",
        ),
    ] = None
    learning_rate: LearningRate = 1e-5
    """ImageReward, section 4.1."""
    weight_decay: WeightDecay = 0.0
    """ImageReward's code."""
    max_grad_norm: MaxGradNorm = 1.0
    loss: Annotated[
        str,
        option(
            "--loss",
            choices=("bradley-terry", "margin", "ties", "uncertainty"),
            group="Training",
            help="Loss. bradley-terry: the preferred picture must have the higher reward. margin: by more, the larger "
            "the pair's margin is (Llama 2). ties: tied pairs must have equal rewards (PickScore); merge --keep-ties "
            "writes them. uncertainty: the model also predicts the deviation of each reward (HPSv3). Do not "
            "read the deviation as doubt. This loss makes it smallest for the pairs that are hardest to decide.",
        ),
    ] = "bradley-terry"
    """The paper, section 4.1."""
    head: Annotated[
        str,
        option(
            "--head",
            choices=("matching", "mlp"),
            group="Training",
            help="Head that turns features into a reward. matching: the one with which the backbone compares pictures "
            "with text. mlp, for a BLIP only: five new layers, as in ImageReward and VP-Score.",
        ),
    ] = "matching"
    """It can compare from the start; new layers must learn it."""
    text_limit: Annotated[
        int | None,
        option(
            "--text-limit",
            metavar="N",
            min=3,
            max=77,
            group="Model",
            help="Number of tokens that are read of a prompt, with the special tokens. Prompts that are longer are "
            "counted in a warning and in the model card.",
            show_default="as many as the backbone reads, at most 77",
        ),
    ] = None
    image_size: Annotated[
        int | None,
        option(
            "--image-size",
            metavar="PX",
            min=8,
            max=2048,
            group="Model",
            help="Side of the pictures that the model reads. Pictures are resized by their shorter side and cropped in "
            "the centre, and the backbone's position embeddings are interpolated.",
            show_default="the backbone's own size, and its own way to resize",
        ),
    ] = None
    freeze: Annotated[
        float,
        option(
            metavar="F",
            min=0,
            max=1,
            group="Training",
            help="Share of the layers that are not trained, counted from the input side.",
        ),
    ] = 0.7
    """The paper, appendix D.1."""
    freeze_rule: Annotated[
        str,
        option(
            "--freeze-rule",
            choices=("layers", "imagereward"),
            group="Training",
            help="Which tensors --freeze leaves untrained. layers: the embeddings and whole layers. imagereward, for a "
            "BLIP only: exactly those of ImageReward's code, which also freezes the first tensor of the first "
            "trained layer of both towers: with 24 vision and 12 text layers and 0.7, layer_norm1.weight of vision "
            "layer 16 and attention.self.query.weight of text layer 8.",
        ),
    ] = "layers"
    without: Annotated[
        list[str] | None,
        option(
            "--without",
            metavar="ASPECT",
            group="Training",
            help="Do not learn this aspect. The margin of a training or validation pair becomes the mean of its other "
            "aspects. Test pairs do not change; repeatable.",
        ),
    ] = None
    aspect_weight: Annotated[
        float,
        option(
            metavar="W",
            min=0,
            max=100,
            group="Training",
            help="Weight of the aspects in the loss. Above 0, each aspect of the pairs gets a head of its own, which "
            "is trained together with the overall one and written to heads.safetensors. score does not read this file.",
        ),
    ] = 0.0
    dtype: Annotated[
        str,
        option(
            "--dtype",
            choices=PRECISIONS,
            group="Training",
            help="Precision of the computation. The trained weights are always kept in float32; with float16 the loss "
            "is scaled, so that small gradients do not become 0. The results are measured in float32.",
        ),
    ] = "float32"
    patience: Annotated[
        int | None,
        option(
            metavar="N",
            min=1,
            max=10_000,
            group="Training",
            help="Stop early, after N epochs in a row without a lower validation loss.",
            show_default="all epochs",
        ),
    ] = None
    save_every: Checkpoint = 100


@options_class
class OptimizerConfig:
    """Options of tune-ppo and tune-dpo: the trained weights and their optimizer."""

    learning_rate: LearningRate = 1e-4
    warmup: Warmup = 0
    weight_decay: WeightDecay = 1e-4
    max_grad_norm: MaxGradNorm = 1.0
    """DDPO, D3PO, Diffusion-DPO and ReFL."""
    optimizer: Annotated[
        str,
        option(
            "--optimizer",
            choices=("adamw", "adamw8bit"),
            group="Training",
            help="Optimizer. adamw8bit is AdamW with moments in 8 bits (Dettmers et al. 2022, arXiv 2110.02861): they "
            "take 2 bytes for each trained weight in place of 8, which matters with --full. It needs bitsandbytes: "
            "pip install 'vpctl[8bit]'.",
        ),
    ] = "adamw"
    rank: Rank = 8
    lora_targets: Annotated[
        str,
        option(
            "--lora-targets",
            metavar="NAMES",
            group="Training",
            help="Layers that get a LoRA, separated by commas. A layer is meant if its full name is one of these, or "
            "ends with a dot and one of these.",
            show_default="all attention layers",
        ),
    ] = ""
    """As in diffusers' example scripts."""
    lora: Annotated[
        str,
        option(
            "--lora",
            metavar="PATH",
            group="Model",
            help="Start from the LoRA in this folder or safetensors file, which a tune command or diffusers has "
            "written, in place of a new one. It has its own rank, alpha and layers. Wherever the tuned model is "
            "compared with the untuned one, as by --beta, the untuned one has this LoRA, too.",
            show_default="a new LoRA",
        ),
    ] = ""
    full: Annotated[
        bool,
        option(
            "--full",
            group="Training",
            help="Train all weights of the UNet or the transformer in place of a LoRA. The output folder gets a whole "
            "pipeline in the folder model, for generate --model diffusion:DIR/model. For each weight this takes 20 "
            "bytes of the device's memory: the weight, its gradient, two moments, and the copy that the tuned model is "
            "compared with. --ema takes 4 more, and so does nft, for the policy that draws. An algorithm with rounds "
            "copies weights, moments and these to the CPU before each round. --full needs a smaller --learning-rate, "
            "such as 1e-5.",
        ),
    ] = False
    ema: Annotated[
        float,
        option(
            "--ema",
            metavar="DECAY",
            min=0,
            max=0.999999,
            group="Training",
            help="Average the trained weights over the optimizer steps, with this decay: an exponential moving "
            "average. Previews, --watch, held-out pairs and the result use the average. 0.95 averages about the last "
            "20 steps; 0 does not average. In step N the decay is at most N / (N + 9), so that the first steps are "
            "soon forgotten.",
        ),
    ] = 0.0
    dtype: Annotated[
        str,
        option(
            "--dtype",
            choices=PRECISIONS,
            group="Training",
            help="Precision of the UNet or the transformer. The 16 bits of bfloat16 or float16 halve the memory of its "
            "frozen weights. With --full there are none, and only what a step computes takes less. The trained "
            "weights, losses, log-probabilities, noise and the VAE are float32 in any case, and with float16 the loss "
            "is scaled, so that small gradients do not become 0. Algorithms compare predictions that hardly differ, so "
            "rounding is noise: in the differences of errors that dpo learns from, bfloat16 made a noise of 5e-4 and "
            "float16 one of 7e-5, beside differences of 6e-4 after the first step and 0.02 after 60 steps; in the "
            "log-probabilities of ddpo, grpo and d3po, 3e-4 and 4e-5, beside a --clip of 1e-4. The activations of some "
            "models overflow float16: optimizer steps are then skipped, and the metric skipped counts them.",
        ),
    ] = "float32"
    gradient_checkpointing: Annotated[
        bool,
        option(
            "--gradient-checkpointing",
            group="Training",
            help="Compute parts of the model again for the gradient instead of keeping them. This takes about a third "
            "more time, and needs only a small part of the memory. SDXL needs it on most GPUs.",
        ),
    ] = False
    export: Annotated[
        str,
        option(
            "--export",
            choices=("kohya",),
            group="Output",
            help="Also write the LoRA in another format. kohya: lora_kohya.safetensors, which ComfyUI, AUTOMATIC1111 "
            "and other programs read. For flow models, these programs read the LoRA that is always written.",
            show_default="only that of diffusers",
        ),
    ] = ""


@options_class
class DPOConfig(OptimizerConfig):
    """Options of tune-dpo."""

    learning_rate: LearningRate = 1e-4
    """Between the 1e-5 and 5e-4 that diffusers' example script uses for LoRA."""
    warmup: Warmup = 50
    weight_decay: WeightDecay = 1e-2
    """Diffusion-DPO."""
    max_steps: Annotated[
        int,
        option(
            "--max-steps",
            metavar="N",
            min=1,
            max=1_000_000,
            group="Training",
            help="Number of optimizer steps. With a larger number, the same command makes a finished run go on.",
        ),
    ] = 2000
    """Diffusion-DPO's SD 1.5 run."""
    batch: Annotated[
        int,
        option(
            "--batch",
            metavar="N",
            min=1,
            max=4096,
            group="Training",
            help="Number of pairs per forward pass; with kto, of pictures.",
        ),
    ] = 8
    accumulate: Annotated[
        int,
        option(metavar="N", min=1, max=4096, group="Training", help="Number of forward passes per optimizer step."),
    ] = 4
    beta: Annotated[
        float,
        option(
            metavar="B",
            min=0,
            max=1_000_000,
            group="Training",
            help="Strength of the regularization: a larger value keeps the tuned model closer to the untuned model. "
            "Flow models are often tuned with 2000 or less.",
        ),
    ] = 5000.0
    """Diffusion-DPO, for a squared error that is a mean over the latent's elements."""
    loss: Annotated[
        str,
        option(
            "--loss",
            choices=("dpo", "ipo", "hinge"),
            group="Training",
            help="dpo: Loss. dpo is the likelihood that the chosen picture is preferred. ipo: the preference must "
            "reach 1/2, and not more, so that sure pairs are not learnt by heart. hinge: it must reach 1.",
        ),
    ] = "dpo"
    """Diffusion-DPO."""
    label_smoothing: Annotated[
        float,
        option(
            "--label-smoothing",
            metavar="P",
            min=0,
            max=0.5,
            group="Training",
            help="dpo: Share of the pairs that are assumed to be judged wrongly; for --loss dpo.",
        ),
    ] = 0.0
    margin_weight: Annotated[
        float,
        option(
            "--margin-weight",
            metavar="F",
            min=0,
            max=1,
            group="Training",
            help="dpo: How much the margin of a pair counts. With 0 every pair has the same weight. With 1 the "
            "weight is the margin, divided by the mean margin.",
        ),
    ] = 0.0
    sft: Annotated[
        float,
        option(
            "--sft",
            metavar="W",
            min=0,
            max=1_000_000,
            group="Training",
            help="dpo: Weight of a second loss, the squared error on the chosen picture (SFT, supervised "
            "fine-tuning). DPO alone may denoise both pictures worse, the rejected one by more.",
        ),
    ] = 0.0
    prompt_dropout: Annotated[
        float,
        option(
            metavar="P",
            min=0,
            max=1,
            group="Training",
            help="dpo, kto: Share of the pairs, or of the pictures, that are used without their prompt.",
        ),
    ] = 0.0
    """Diffusion-DPO's code says 0.2, for models that are used with strong guidance."""
    validate_every: Annotated[
        int,
        option(
            "--validate-every",
            metavar="N",
            min=1,
            max=1_000_000,
            group="Output",
            help="dpo, kto: Number of optimizer steps between two measurements of held-out pairs: those with the split "
            "validation, at most 64. Without such pairs nothing is measured.",
        ),
    ] = 100
    preview_every: PreviewEvery = 200
    save_every: Checkpoint = 100


@options_class
class KTOConfig:
    """Options of tune-dpo --algorithm kto."""

    desirable_share: Annotated[
        float,
        option(
            "--desirable-share",
            metavar="F",
            min=0.01,
            max=0.99,
            group="Training",
            help="kto: Share of liked pictures among those that a step is trained on. Each kind is drawn evenly, so it "
            "does not matter how many pictures of each kind the data have. A larger share is for liked pictures that "
            "are better than the model's own: Diffusion-KTO takes 0.8 for Stable Diffusion 1.5.",
        ),
    ] = 0.5
    """Diffusion-KTO's 0.8 pulls the model towards the pictures, as supervised fine-tuning does. In the shapes world,
    whose pictures are the model's own, the tuned model then loses to the untuned one. With 0.5 it wins, as with DPO."""
    desirable_weight: Annotated[
        float,
        option(
            "--desirable-weight",
            metavar="W",
            min=0,
            max=1000,
            group="Training",
            help="kto: Weight of a liked picture in the loss.",
        ),
    ] = 1.0
    """Diffusion-KTO."""
    undesirable_weight: Annotated[
        float,
        option(
            "--undesirable-weight",
            metavar="W",
            min=0,
            max=1000,
            group="Training",
            help="kto: Weight of a disliked picture in the loss.",
        ),
    ] = 1.0
    """Diffusion-KTO."""


@options_class
class D3POConfig:
    """Options of tune-dpo --algorithm d3po."""

    steps: Steps = None
    """D3PO: 20."""
    guidance: Guidance = None
    """D3PO: 5."""
    eta: Eta = 1.0
    """D3PO."""
    skip_last: SkipLast = 1
    ratio_clip: Annotated[
        float,
        option(
            "--ratio-clip",
            metavar="E",
            min=0.000001,
            max=0.999999,
            group="Training",
            help="d3po: Train on a denoising step only until its probability has changed by this factor, up or down: "
            "0.1 allows factors from 0.9 to 1.1. Of the probability, this is the geometric mean over the latent's "
            "elements.",
        ),
    ] = 0.1
    """D3PO. With a wider range the pictures fell apart."""


@options_class
class PPOConfig(OptimizerConfig):
    """Options of tune-ppo that all its algorithms have."""

    learning_rate: LearningRate = 3e-4
    """DDPO, for LoRA."""

    epochs: Annotated[
        int,
        option(
            metavar="N",
            min=1,
            max=100_000,
            group="Training",
            help="Number of rounds (epochs). Each round draws pictures, scores them, and trains on them. With refl, a "
            "round is one optimizer step. With a larger number, the same command makes a finished run go on, "
            "unless --patience has ended it.",
        ),
    ] = 100
    """DDPO's compressibility run."""
    prompts_per_epoch: Annotated[
        int,
        option(
            "--prompts-per-epoch",
            metavar="N",
            min=1,
            max=65_536,
            group="Sampling",
            help="Number of prompts per round.",
        ),
    ] = 32
    images: Annotated[
        int,
        option(
            "--images",
            "-n",
            metavar="N",
            min=1,
            max=1024,
            group="Sampling",
            help="Number of pictures per prompt and round. ddpo, grpo and nft compare their rewards with one "
            "another, so they need at least 2.",
        ),
    ] = 8
    """32 × 8 is DDPO's 256 pictures a round."""
    batch: Annotated[
        int,
        option("--batch", metavar="N", min=1, max=4096, group="Training", help="Number of pictures per forward pass."),
    ] = 8
    steps: Steps = None
    guidance: Guidance = None
    eta: Eta = 1.0
    preview_every: Annotated[
        int,
        option(
            metavar="N",
            min=0,
            max=100_000,
            group="Output",
            help="Number of rounds between preview grids; 0 turns previews off.",
        ),
    ] = 10
    save_every: Annotated[
        int,
        option(
            "--save-every",
            metavar="N",
            min=1,
            max=1_000_000,
            group="Output",
            help="Number of rounds between checkpoints.",
        ),
    ] = 5


@options_class
class RoundConfig:
    """Options of tune-ppo's algorithms that compare the pictures of a round: ddpo, grpo and nft."""

    updates: Annotated[
        int,
        option(
            metavar="N",
            min=1,
            max=10_000,
            group="Training",
            help="ddpo, grpo, nft: Number of optimizer steps per round.",
        ),
    ] = 2
    """DDPO's aesthetic run."""
    timestep_fraction: Annotated[
        float,
        option(
            metavar="F",
            min=0.01,
            max=1,
            group="Training",
            help="ddpo, grpo, nft: Share of the denoising steps to train on. In each round they are chosen anew, at "
            "random.",
        ),
    ] = 0.5
    advantage_clip: Annotated[
        float,
        option(
            metavar="A",
            min=0.000001,
            max=1_000_000,
            group="Training",
            help="ddpo, grpo, nft: Maximum absolute value of an advantage. Advantages are in standard deviations.",
        ),
    ] = 5.0
    """DDPO."""
    deviation: Annotated[
        str,
        option(
            "--deviation",
            choices=("round", "prompt"),
            group="Training",
            help="ddpo, grpo, nft: What a difference of rewards is divided by. round: its standard deviation over all "
            "pictures of the round. prompt: over the pictures of the same prompt, so that all prompts weigh the same.",
        ),
    ] = "round"
    """Flow-GRPO's code and DiffusionNFT's. In DDPO it is the prompt."""
    packed: Annotated[
        int,
        option(
            "--packed",
            metavar="N",
            min=1,
            max=1000,
            group="Training",
            help="ddpo, grpo, nft: Number of denoising steps of a picture that go through the model together in "
            "training; as many batches are drawn together. More are faster, as far as the memory allows; the result "
            "differs only by rounding.",
        ),
    ] = 1


@options_class
class DDPOConfig:
    """Options of tune-ppo --algorithm ddpo and grpo."""

    skip_last: SkipLast = 1
    """The noise of these steps is so small that they dominate the gradient, but hardly change the picture. DanceGRPO
    leaves one out."""
    clip: Annotated[
        float,
        option(
            metavar="E",
            min=0,
            max=100,
            group="Training",
            help="ddpo, grpo: Clip range of PPO. In one round, a denoising step is trained on only until its "
            "probability has changed by this factor in the wanted direction: 0.0001 allows factors from 0.9999 to "
            "1.0001. Of the probability, this is the geometric mean over the latent's elements.",
        ),
    ] = 1e-4
    """DDPO, for log-probabilities that are a mean over the latent's elements."""
    kl: Annotated[
        float,
        option(
            "--kl",
            metavar="W",
            min=0,
            max=1_000_000,
            group="Training",
            help="ddpo, grpo: Weight of a penalty on the KL divergence, which measures how far the tuned model is "
            "from the untuned model.",
        ),
    ] = 0.0


@options_class
class GRPOConfig:
    """Options of tune-ppo --algorithm grpo, besides those of ddpo."""

    sde: Annotated[
        str,
        option(
            "--sde",
            choices=("cps", "flow"),
            group="Sampling",
            help="grpo: How a step adds noise, and what --eta means. cps: coefficients-preserving sampling, which "
            "leaves no more noise than the next step expects; with --eta 1 the step draws all its noise anew. flow: "
            "Flow-SDE, the first method; its authors take --eta 0.7.",
        ),
    ] = "cps"
    """Flow-GRPO's code, since it has both."""
    window: Annotated[
        int,
        option(
            "--window",
            metavar="N",
            min=0,
            max=1000,
            group="Training",
            help="grpo: Number of neighbouring denoising steps that add noise and are trained on; the others add none. "
            "In each round they are chosen anew within the first half of the steps. 0 takes all steps.",
        ),
    ] = 2
    """Flow-GRPO-Fast."""


@options_class
class NFTConfig:
    """Options of tune-ppo --algorithm nft."""

    beta: Annotated[
        float,
        option(
            "--beta",
            metavar="B",
            min=0.000001,
            max=1000,
            group="Training",
            help="nft: How carefully the model is changed. With a smaller value, the same rewards change it more.",
        ),
    ] = 1.0
    """DiffusionNFT; 0.1 for several rewards."""
    old_decay: Annotated[
        float,
        option(
            "--old-decay",
            metavar="D",
            min=0,
            max=0.999999,
            group="Training",
            help="nft: An old policy draws the pictures. After a round, it keeps this share of its weights, and takes "
            "the rest from the trained policy. 0 draws with the trained policy itself.",
        ),
    ] = 0.5
    """DiffusionNFT."""
    old_decay_rise: Annotated[
        float,
        option(
            "--old-decay-rise",
            metavar="D",
            min=0,
            max=1,
            group="Training",
            help="nft: In the first rounds the share of --old-decay is smaller: this value times the number of the "
            "round.",
        ),
    ] = 0.001
    """DiffusionNFT."""
    drift_weight: Annotated[
        float,
        option(
            "--drift-weight",
            metavar="W",
            min=0,
            max=1_000_000,
            group="Training",
            help="nft: Weight of a penalty on the squared difference of the predictions from those of the untuned "
            "model.",
        ),
    ] = 2e-5
    """DiffusionNFT: 1e-4, beside a loss that is five times as large."""


@options_class
class ReFLConfig:
    """Options of tune-ppo --algorithm refl."""

    late_share: Annotated[
        float,
        option(
            "--late-share",
            metavar="F",
            min=0,
            max=1,
            group="Sampling",
            help="refl: Stop drawing at a random step in this last share of the denoising steps, and predict the "
            "picture from there; 0 always stops at the last step.",
        ),
    ] = 0.25
    """ReFL stops at a random step from 30 to 39 of 40."""
    grad_steps: Annotated[
        int,
        option(
            "--grad-steps",
            metavar="N",
            min=1,
            max=1000,
            group="Training",
            help="refl: Number of last denoising steps that the gradient goes through. With --late-share 0 this is "
            "DRaFT-N. Each step takes the memory of one more model.",
        ),
    ] = 1
    """ReFL."""
    reward_threshold: Annotated[
        float,
        option(
            "--reward-threshold",
            metavar="C",
            min=-1000,
            max=1000,
            group="Training",
            help="refl: Leave a picture out of the gradient if the weighted sum of its rewards is at least C. Each "
            "reward is measured in standard deviations above the mean of the untuned model's pictures. A large C, "
            "such as 1000, leaves none out, as in DRaFT.",
        ),
    ] = 2.0
    """ReFL's code."""
    reward_weight: Annotated[
        float,
        option(
            "--reward-weight",
            metavar="W",
            min=0,
            max=1000,
            group="Training",
            help="refl: Weight of the reward in the loss, beside the pre-training loss.",
        ),
    ] = 1e-3
    """ReFL, section 4.2."""
    pretrain: Annotated[
        str,
        option(
            "--pretrain",
            metavar="FILE",
            group="Training",
            help="refl: Records of pictures with their prompts. Each step also trains on as many of them as it "
            "draws, with the loss that the model was trained with, so that it does not forget. They are encoded once, "
            "and kept in the folder cache of the output folder until the run ends.",
            show_default="no pre-training loss",
        ),
    ] = ""
    pretrain_weight: Annotated[
        float,
        option(
            "--pretrain-weight",
            metavar="W",
            min=0,
            max=1000,
            group="Training",
            help="refl: Weight of the pre-training loss.",
        ),
    ] = 1.0
    """ReFL, section 4.2."""


@options_class
class WatchConfig:
    """Options of tune-ppo for the pictures of held-out prompts."""

    watch: Annotated[
        list[str] | None,
        option(
            "--watch",
            metavar="SPEC",
            group="Output",
            help="Reward that is only watched: pictures of held-out prompts are drawn now and then, always from the "
            "same noise, in the model's own number of steps and with its own guidance, and scored with it and with "
            "every --reward; repeatable. A reward that falls here while "
            "--reward rises shows that the training exploits a weakness of --reward. Held-out prompts are those with "
            "the split validation, or else 10 % of the prompts, which are then not trained on.",
        ),
    ] = None
    watch_every: Annotated[
        int,
        option(
            "--watch-every",
            metavar="N",
            min=1,
            max=100_000,
            group="Output",
            help="Number of rounds between two measurements of --watch.",
        ),
    ] = 10
    patience: Annotated[
        int | None,
        option(
            metavar="N",
            min=1,
            max=10_000,
            group="Training",
            help="Stop early, after N measurements in a row in which the first --watch did not rise, and keep the LoRA "
            "of the best measurement.",
            show_default="all rounds",
        ),
    ] = None


ALGORITHMS: dict[str, dict[str, Any]] = {
    "ddpo": {},
    "grpo": {
        "rank": 32,
        "prompts_per_epoch": 12,
        "images": 24,
        "steps": 10,
        "eta": 0.8,
        "timestep_fraction": 1.0,
        "clip": 1e-5,
    },
    "refl": {
        "learning_rate": 1e-5,
        "weight_decay": 1e-2,
        "epochs": 937,
        "prompts_per_epoch": 32,
        "images": 1,
        "batch": 4,
        "steps": 40,
        "guidance": 1.0,
        "preview_every": 50,
        "save_every": 20,
        "watch_every": 50,
    },
    "nft": {
        "prompts_per_epoch": 48,
        "images": 24,
        "updates": 1,
        "timestep_fraction": 1.0,
        "steps": 10,
        "eta": 0.0,
    },
}
"""Values of tune-ppo's options by algorithm, where they are not the default.

refl: ReFL's code, and for the number of pictures VisionPrefer (Wu et al. 2024, appendix D.2): 30,000 prompts, 32 at
once. The paper trains the whole model, for which the learning rate was chosen; a LoRA may take a larger one.

nft: DiffusionNFT's code.

grpo: Flow-GRPO-Fast's code for Stable Diffusion 3.5, which has the alpha 64 with the rank 32. It draws 24 pictures of
48 prompts in a round, on 32 GPUs; here a round has about as many pictures as with ddpo."""
PREFERENCE_ALGORITHMS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "kto": {"beta": 1000.0},
    "d3po": {
        "max_steps": 400,
        "batch": 2,
        "accumulate": 5,
        "beta": 0.1,
        "learning_rate": 5e-5,
        "warmup": 0,
        "weight_decay": 1e-4,
        "steps": 20,
        "guidance": 5.0,
        "preview_every": 20,
        "save_every": 5,
    },
}
"""Values of tune-dpo's options by algorithm, where they are not the default.

kto: its code.

d3po: its code, and the rounds and the learning rate of VisionPrefer (appendix D.2). The code does an optimizer step for
each pair; here the ten pairs of a round make one."""


@options_class
class ServerConfig:
    """Options of every command that can call a model on a server."""

    base_url: Annotated[
        str,
        option(
            "--base-url",
            metavar="URL",
            group="Server",
            help="URL of an OpenAI-compatible server.",
            show_default=f"the value of {BASE_URL.name}",
        ),
    ] = ""
    server_name: Annotated[
        str,
        option(
            "--server-name",
            metavar="NAME",
            group="Server",
            help="Name of the server. It identifies judgements and pictures in place of the URL. If a server has "
            "moved, name its old URL, and it is not asked again.",
            show_default="the URL",
        ),
    ] = ""
    header: Annotated[
        list[str] | None,
        option(
            metavar="NAME=VALUE",
            group="Server",
            help="Header of every request, such as X-Team=vision; repeatable. A value such as $NAME, in single quotes, "
            "is that of an environment variable: write secrets so.",
        ),
    ] = None
    concurrency: Annotated[
        int,
        option(
            metavar="N",
            min=1,
            max=4096,
            group="Server",
            help="Maximum number of calls in progress at the same time. The actual number adapts to the server.",
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
            help="Stop before this run costs more than this; the next run may cost as much again. A call that has no "
            "answer yet counts with the most that it can cost: as if its text had --max-tokens tokens, or its picture "
            "as many as one of its size and quality. So does an answer whose usage the server does not report. The "
            "price of the model must be known; see --prices.",
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
        float,
        option(
            metavar="S",
            min=0.1,
            max=86_400,
            group="Server",
            help="Maximum number of seconds to wait for an answer. Models that reason may take minutes.",
        ),
    ] = 600.0
    temperature: Annotated[
        float,
        option(
            metavar="T",
            min=0,
            max=2,
            group="Server",
            help="Sampling temperature. It is left out of requests to models that reject it.",
        ),
    ] = 0.0
    """The paper, section 5: a higher temperature lowers both accuracy and self-consistency."""
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
            help="File with prices of models, which override those of the package genai-prices: TOML, or the "
            "model_prices_and_context_window.json of LiteLLM. In TOML each model has a table, such as "
            '["gpt-4.1"], with `input` and `output` in US dollars per million tokens. More keys are optional: '
            "`cached`, the price of cached input; `batch`, `flex` and `priority`, the fraction of the price that a "
            "call by batch or in that service tier costs; `picture`, which says how many tokens a picture takes, such "
            "as { base = 85, tile = 170 } for tiles of 512 pixels, or { most = 1536, times = 1.62 } for patches of 32 "
            "pixels. A table is for the model of this name and its dated snapshots. A cost that the server reports "
            "counts instead of any price.",
            show_default="none",
        ),
    ] = ""


@options_class
class PictureConfig:
    """How pictures are sent to a server."""

    max_side: Annotated[
        int,
        option(
            "--max-side",
            metavar="PX",
            min=0,
            max=16_384,
            group="Picture",
            help="Maximum width and height of a picture that is sent to a server; larger pictures are shrunk. 0 sends "
            "every picture in its full size.",
        ),
    ] = 1024
    detail: Annotated[
        str,
        option(
            "--detail",
            choices=("low", "high", "auto"),
            group="Picture",
            help="Detail setting that is sent with each picture, for models that support it. low costs fewer tokens.",
            show_default="not sent",
        ),
    ] = ""
    image_url: Annotated[
        str,
        option(
            "--image-url",
            metavar="PREFIX",
            group="Picture",
            help="Send the URL of each picture instead of its data. The URL is this prefix, such as "
            "https://example.com/images/, plus the picture's path relative to the folder of the records. The server "
            "must be able to open the URL, which can begin with file://.",
        ),
    ] = ""


@options_class
class ScoringConfig:
    """How the answers of a model on a server become scores."""

    logprobs: Annotated[
        bool,
        option(
            "--logprobs",
            group="Judging",
            help="Record expected levels, such as 3.4, in place of levels: the mean of the levels, weighted by the "
            "probabilities that the server gives for the token of the level. Pictures on one level then hardly ever "
            "tie. If the server gives no probabilities, the level is recorded. Not for --mode pair.",
        ),
    ] = False
    samples: Annotated[
        int,
        option(
            "--samples",
            metavar="K",
            min=1,
            max=100,
            group="Judging",
            help="Number of answers to each question. The score is their mean. Needs a --temperature above 0. A server "
            "that can give several answers to one request charges its input once.",
        ),
    ] = 1


@options_class
class GateConfig:
    """Gates of eval, for CI: what must be reached, and where the outcome is told."""

    fail_under: Annotated[
        list[str] | None,
        option(
            metavar="METRIC=X",
            group="Gate",
            help="End with exit code 4 if the lower end of an interval of this metric is below X; repeatable. X alone "
            "is for the headline: accuracy, win_rate, agreement or diversity. With few prompts intervals are wide, so "
            "a gate needs many prompts.",
            show_default="no gate",
        ),
    ] = None
    fail_over: Annotated[
        list[str] | None,
        option(
            metavar="METRIC=X",
            group="Gate",
            help="End with exit code 4 if the upper end of an interval of this metric is above X; repeatable.",
            show_default="no gate",
        ),
    ] = None
    gate_on: Annotated[
        str,
        option(
            choices=("interval", "value"),
            group="Gate",
            help="What --fail-under and --fail-over look at: the worse end of the interval, or the value itself.",
        ),
    ] = "interval"
    previous: Annotated[
        str,
        option(
            metavar="FILE",
            group="Gate",
            help="Output of an earlier run of this command: end with exit code 4 if a number is significantly worse "
            "than it was.",
            show_default="none",
        ),
    ] = ""
    junit: Annotated[
        str,
        option(
            metavar="FILE",
            group="Gate",
            help="Also write the outcome of each gate as a test case, in an XML file of JUnit, which CI servers read.",
            show_default="none",
        ),
    ] = ""
    github: Annotated[
        bool,
        option(
            "--github",
            group="Gate",
            help="For GitHub Actions: report each gate that is not met as an error, and append the tables to the "
            "summary of the job.",
        ),
    ] = False
