"""Losses of reward models, one number for each pair of pictures.

A difference is the raw reward of the chosen picture minus that of the rejected one. All tensors have the shape (P,),
with one entry for each pair. Every loss is differentiable and deterministic.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossName = Literal["bradley-terry", "margin", "ties", "uncertainty"]

_REACH, _NODES = 9.0, 289
"""The integral of `uncertainty_loss` is a sum over this many points, from −9 to 9 standard deviations. The sum of a
smooth function times a normal density at even distances converges exponentially. At a distance of 1/16 the error is
that of float32 up to a deviation of 20."""


def bradley_terry_loss(difference: Tensor) -> Tensor:
    """−log σ(r_w − r_l): the negative log-likelihood of the Bradley-Terry model.

    Equation 1 of VisionPrefer (Wu et al. 2024, arXiv 2404.15100) and of ImageReward (Xu et al. 2023, arXiv 2304.05977).
    It is 0 for a sure and right model and log 2 for equal rewards.
    """
    return -F.logsigmoid(difference)


def margin_loss(difference: Tensor, margin: Tensor) -> Tensor:
    """−log σ(r_w − r_l − m): pairs with a larger margin m must have a larger difference.

    Equation 2 of Llama 2 (Touvron et al. 2023, arXiv 2307.09288). Its smaller scale gives margins of 1/3, 2/3 and 1 to
    its levels of preference; the margins of pairs are from 0 to 1 too, and are used as they are.
    """
    return -F.logsigmoid(difference - margin)


def soft_tie_loss(difference: Tensor, tied: Tensor) -> Tensor:
    """The divergence KL(p ‖ σ(r_w − r_l)), where p is (1, 0) for a pair and (½, ½) if it is `tied` (P,), a bool.

    The preference loss of PickScore (Kirstain et al. 2023, arXiv 2305.01569), which has ties as soft labels. It is the
    Bradley-Terry loss for a pair. For a tie it is −½ log σ(d) − ½ log σ(−d) − log 2: 0 for equal rewards, and more the
    further they are apart.
    """
    tie = -0.5 * (F.logsigmoid(difference) + F.logsigmoid(-difference)) - math.log(2)
    return torch.where(tied, tie, -F.logsigmoid(difference))


def uncertainty_loss(difference: Tensor, variance: Tensor) -> Tensor:
    """E[−log σ(z)] with z normal, of mean μ_w − μ_l and of variance σ_w² + σ_l².

    The uncertainty-aware loss of HPSv3 (Ma et al. 2025, arXiv 2508.03789), whose model gives each picture a mean and a
    deviation. HPSv3 takes the mean over 1000 random samples of z; here the integral is computed, so there is no
    sampling noise. With a variance of 0 it is the Bradley-Terry loss. As −log σ is convex, a larger variance never
    lowers the loss: it costs most for pairs of nearly equal rewards, and hardly anything for sure ones.
    """
    nodes = torch.linspace(-_REACH, _REACH, _NODES, dtype=torch.float64, device="cpu")
    weights = torch.exp(-0.5 * nodes**2)
    weights = (weights / weights.sum()).to(difference)
    # The root of 0 has no gradient.
    deviation = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
    return -F.logsigmoid(difference[:, None] + deviation[:, None] * nodes.to(difference)) @ weights


def loss_of(name: LossName, difference: Tensor, margin: Tensor, variance: Tensor) -> Tensor:
    """The loss with this name. A tied pair is one whose margin is 0. Each loss ignores what it does not need."""
    match name:
        case "bradley-terry":
            return bradley_terry_loss(difference)
        case "margin":
            return margin_loss(difference, margin)
        case "ties":
            return soft_tie_loss(difference, margin == 0)
        case "uncertainty":
            return uncertainty_loss(difference, variance)


def aspect_loss(differences: Tensor, preferred: Tensor) -> Tensor:
    """The Bradley-Terry loss of every aspect, each with a reward of its own: (P, A) for P pairs and A aspects.

    `differences` (P, A) are the differences of the aspects' rewards. `preferred` (P, A) is 1 if the chosen picture is
    the better one on an aspect, −1 if the rejected one is, and 0 if neither is or nothing is known; then the loss is 0.
    """
    return -F.logsigmoid(differences * preferred) * preferred.abs()
