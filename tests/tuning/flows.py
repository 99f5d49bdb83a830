"""Tiny random pipelines of flow models: Stable Diffusion 3 and FLUX.1. Their pictures are 16 × 16."""

import copy
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from vpctl.shapes.pretraining.text import MAX_LENGTH, new_tokenizer

PROMPTS = ["a red circle", "two blue stars"]
SIDE = 16
LATENT = 8
"""Side of the latents."""


def clip(kind: Any, tokenizer: Any) -> Any:
    """A text encoder of width 16, with pooled embeddings of width 12 if it has a projection."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config: Any = CLIPTextConfig
    return kind(
        config(vocab_size=len(tokenizer), projection_dim=12, max_position_embeddings=MAX_LENGTH, **sizes, **tokens)
    )


def t5(tokenizer: Any) -> T5EncoderModel:
    """A text encoder of width 32."""
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0)
    )


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def sd3(*, with_t5: bool = True, **scheduler: Any) -> StableDiffusion3Pipeline:
    """A pipeline like Stable Diffusion 3, whose noise levels have the shift 3 unless `scheduler` says another."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    pipe = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=LATENT,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            pos_embed_max_size=LATENT,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
        vae=autoencoder(),
        text_encoder=clip(CLIPTextModelWithProjection, tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip(CLIPTextModelWithProjection, tokenizer),
        tokenizer_2=copy.deepcopy(tokenizer),
        text_encoder_3=t5(tokenizer) if with_t5 else None,
        tokenizer_3=copy.deepcopy(tokenizer) if with_t5 else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux(*, distilled: bool = True) -> FluxPipeline:
    """A pipeline like FLUX.1 [dev], or if it is not `distilled` from one with guidance, like FLUX.1 [schnell]."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    shift = {"use_dynamic_shifting": True, "shift": 3.0} if distilled else {"shift": 1.0}
    pipe = FluxPipeline(
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=distilled,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
        vae=autoencoder(),
        text_encoder=clip(CLIPTextModel, tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=t5(tokenizer),
        tokenizer_2=copy.deepcopy(tokenizer),
    )
    pipe.default_sample_size = LATENT
    pipe.set_progress_bar_config(disable=True)
    return pipe
