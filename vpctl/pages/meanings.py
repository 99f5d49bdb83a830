"""What the numbers of reports and of training curves mean: a sentence for each, and which way is good."""

from typing import NamedTuple

from ..report.statistics import COUNT

SHARE, DIFFERENCE, COEFFICIENT, RATING, NUMBER = "share", "difference", "coefficient", "rating", "number"
"""Scales of metrics: from 0 to 1; the difference of two shares; from −1 to 1; Elo; anything else."""


class Meaning(NamedTuple):
    """What a metric means: its short name, a sentence, its scale, and the value that says nothing."""

    head: str
    says: str
    scale: str = SHARE
    neutral: float | None = 0.5


class Family(NamedTuple):
    """Metrics that share tables: the heading of their tables, a sentence, and what a row is."""

    title: str
    says: str
    row: str


FAMILIES = {
    "win_rate": Family(
        "Win rates",
        "How often a model’s picture is better than the other’s for the same prompt; a tie counts one half. Higher is "
        "better, and 50 % is no difference. Intervals are not corrected for multiple comparisons.",
        "model",
    ),
    "elo": Family(
        "Ranking",
        "The strengths of the models after Bradley and Terry, on the scale of Elo. Higher is better. The base has "
        "1000, and a model with 400 more wins ten times as often as it loses.",
        "model",
    ),
    "accuracy": Family(
        "Accuracy",
        "How often a reward scores the preferred picture of a pair higher. Higher is better, and chance is what "
        "guessing gives. The columns count equal scores in different ways.",
        "reward",
    ),
    "accuracy_difference": Family(
        "Differences of accuracies",
        "By how many percentage points the accuracy differs from that of the baseline on the same pairs. Above 0 is "
        "better than the baseline; an interval that includes 0 shows no difference.",
        "reward",
    ),
    "accuracy_harmonic_mean": Family(
        "Accuracy by file",
        "The accuracy on each file, and the harmonic mean, for which a low accuracy counts more. Higher is better.",
        "reward",
    ),
    "agreement": Family(
        "Agreement",
        "How far annotators say the same. Higher is better, and people do not agree perfectly either.",
        "aspect",
    ),
    "images": Family(
        "Pictures without a judge",
        "What can be measured of pictures alone. High diversity is good; few duplicates and unsafe pictures are, and "
        "small distances to the pictures of the reference.",
        "model",
    ),
    "claim": Family(
        "Claims",
        "By how much each comparison that is claimed holds. An interval above 0 confirms it, one below 0 shows the "
        "opposite, and one that includes 0 does not decide.",
        "claim",
    ),
    "quality": Family(
        "Quality of the judgements",
        "How an annotator judges. A good one has few refusals, ties and changed preferences, and prefers no place.",
        "aspect",
    ),
}

MEANINGS = {
    "win_rate": Meaning("win rate", "The share of comparisons won; a tie counts one half."),
    "elo": Meaning("Elo", "The strength on the scale of Elo; the base has 1000.", RATING, 1000.0),
    "accuracy": Meaning("accuracy", "The share of pairs in the right order; equal scores count one half."),
    "accuracy_pooled": Meaning("pooled", "The share of pairs in the right order; equal scores are wrong."),
    "accuracy_per_prompt": Meaning("per prompt", "The mean of pooled over prompts, so that every prompt counts once."),
    "accuracy_ties_count": Meaning(
        "ties count", "The mean over prompts of the share of pairs that are not in the wrong order."
    ),
    "accuracy_tie_aware": Meaning(
        "tie aware", "The share of pairs predicted rightly, where nearly equal scores predict a tie."
    ),
    "accuracy_harmonic_mean": Meaning("harmonic mean", "The harmonic mean of the accuracies on the files."),
    "agreement": Meaning("agreement", "The share of pairs on which both prefer the same picture, ties left out."),
    "agreement_with_ties": Meaning(
        "with ties", "The share of all pairs on which both prefer the same picture, or both tie.", neutral=None
    ),
    "cohens_kappa": Meaning(
        "Cohen’s kappa", "The agreement of two beyond chance: 0 is chance, 1 is perfect.", COEFFICIENT, 0.0
    ),
    "fleiss_kappa": Meaning(
        "Fleiss’ kappa", "The agreement of all beyond chance: 0 is chance, 1 is perfect.", COEFFICIENT, 0.0
    ),
    "krippendorff_alpha": Meaning(
        "Krippendorff’s alpha",
        "The agreement of all on the scores as numbers: 0 is chance, 1 is perfect.",
        COEFFICIENT,
        0.0,
    ),
    "spearman": Meaning("Spearman", "The rank correlation of the scores: 1 is the same order.", COEFFICIENT, 0.0),
    "kendall": Meaning("Kendall", "The rank correlation tau-b of the scores: 1 is the same order.", COEFFICIENT, 0.0),
    "self_consistency": Meaning("self-consistency", "The agreement of an annotator’s passes with each other."),
    "slot_preferred": Meaning(
        "place",
        "How often the picture shown in this place is preferred; near 50 % is good, because the order is random.",
    ),
    "first_preferred": Meaning(
        "first preferred", "How often the picture shown first beats the one shown last; near 50 % is good."
    ),
    "refused": Meaning("refused", "The share of refused judgements; lower is better.", neutral=None),
    "failed": Meaning("failed", "The share of failed judgements; lower is better.", neutral=None),
    "ties": Meaning("ties", "The share of equal scores; few ties make many pairs.", neutral=None),
    "flips": Meaning("flips", "The share of preferences that changed when asked again; lower is better.", neutral=None),
    "suspicious": Meaning(
        "suspicious", "The share of pictures that may contain instructions to the annotator.", neutral=None
    ),
    "diversity": Meaning(
        "diversity", "How different the pictures of one prompt are, from 0 to 1; higher is better.", neutral=None
    ),
    "duplicates": Meaning(
        "duplicates", "The share of pictures with the very bytes of an earlier one; lower is better.", neutral=None
    ),
    "unsafe": Meaning("unsafe", "The share of pictures that a model finds unsafe; lower is better.", neutral=None),
    "frechet_distance": Meaning(
        "Fréchet distance", "The distance from the reference, as FID, on other features; lower is better.", NUMBER, None
    ),
    "kernel_distance": Meaning(
        "kernel distance", "The distance from the reference, as KID, on other features; lower is better.", NUMBER, None
    ),
    COUNT: Meaning("count", "How many there are.", NUMBER, None),
    "share": Meaning("share", "The share of the lines of a file that match.", neutral=None),
    "claim": Meaning("margin", "By how much a claim holds; below 0 the opposite is true.", NUMBER, 0.0),
    "level": Meaning("level", "The share of this level among the scores.", neutral=None),
}

AGREEMENT = (
    "agreement",
    "agreement_with_ties",
    "cohens_kappa",
    "spearman",
    "kendall",
    "fleiss_kappa",
    "krippendorff_alpha",
    "self_consistency",
    "slot_preferred",
)
IMAGES = ("diversity", "duplicates", "unsafe", "frechet_distance", "kernel_distance")
QUALITY = ("refused", "failed", "ties", "flips", "level", "first_preferred", "suspicious")

_CURVES = {
    "loss": "What training makes smaller. Lower is better, but only of runs with the same loss and data.",
    "accuracy": "Share of a step’s pairs with the preferred picture scored higher. Higher is better; 0.5 is guessing.",
    "aspect_loss": "The loss of the heads for single aspects. Lower is better.",
    "validation_loss": "The loss on pairs that are not trained on. Lower is better; if it rises, training is too long.",
    "validation_accuracy": "The accuracy on pairs that are not trained on. Higher is better; 0.5 is guessing.",
    "pretraining_loss": "The loss of denoising other pictures, which keeps what the model knew. Lower is better.",
    "implicit_accuracy": "Share of the step’s pictures that the tuned model favours as it should. Higher is better; "
    "0.5 is the untuned model.",
    "held_out_accuracy": "The implicit accuracy on pairs that are not trained on. Higher is better; if it falls, the "
    "pairs are learnt by heart.",
    "held_out_margin": "How strongly the preferred pictures are favoured on pairs that are not trained on. Higher is "
    "better.",
    "margin": "How strongly the preferred pictures are favoured. Higher means further from the untuned model.",
    "chosen_error": "Error in denoising preferred pictures. It should stay near that of the untuned model.",
    "rejected_error": "Error in denoising rejected pictures. It rises as the model moves away from them.",
    "chosen_error_reference": "The untuned model’s error on the same preferred pictures, to compare with.",
    "rejected_error_reference": "The untuned model’s error on the same rejected pictures, to compare with.",
    "liked_error": "Error in denoising liked pictures. It should stay near that of the untuned model.",
    "disliked_error": "Error in denoising disliked pictures. It rises as the model moves away from them.",
    "liked_error_reference": "The untuned model’s error on the same liked pictures, to compare with.",
    "disliked_error_reference": "The untuned model’s error on the same disliked pictures, to compare with.",
    "liked_reward": "What the model has gained on liked pictures. It should be above that on disliked pictures.",
    "disliked_reward": "What the model has gained on disliked pictures. It should be below that on liked pictures.",
    "reference_point": "The gain that a picture is compared with. It has no good direction.",
    "reward": "Mean reward of the pictures drawn in training. Higher is better, as far as the reward can be trusted.",
    "reward_std": "How much the rewards of one prompt’s pictures differ. At 0 there is nothing left to learn from.",
    "equal_groups": "Share of prompts whose pictures all have the same reward. Lower is better: they teach nothing.",
    "unscored": "Share of pictures without a score. Lower is better.",
    "step_size": "How far one update moves the predictions. A jump warns of too high a learning rate.",
    "drift": "How far the predictions are from the untuned model’s. High drift with a flat reward is a warning.",
    "kl": "How far the model is from the untuned one. High values with a flat reward are a warning.",
    "approximate_kl": "How far one round moves the model. A jump warns of too high a learning rate.",
    "clipped": "Share of clamped ratios. Low is good: a large share means steps that are too long.",
    "clipped_high": "Share of ratios above the clip range. Low is good: a large share means steps that are too long.",
    "clipped_low": "Share of ratios below the clip range. Low is good: a large share means steps that are too long.",
    "ratio_mean": "Mean ratio of new to old probability. Near 1 is good.",
    "ratio_std": "Spread of the ratios of new to old probability. Low is good.",
}
_CURVES_OF = {
    "watched:": "Mean score on held-out prompts by a reward that was not trained for. Higher is better; if it falls "
    "while the reward rises, the reward is being exploited.",
    "reward:": "Mean score by one of the rewards. Higher is better.",
    "held_out_margin_quarter_": "The held-out margin on a quarter of the noise levels; quarter 1 has the least noise. "
    "Higher is better.",
}


def meaning(metric: str) -> Meaning:
    """What a metric means. A metric that this file does not know has only its name."""
    if metric.endswith("_difference"):
        of = meaning(metric.removesuffix("_difference"))
        return Meaning(of.head, f"{of.says} Here minus that of the baseline.", DIFFERENCE, 0.0)
    return MEANINGS.get(metric) or Meaning(metric.replace("_", " "), "", NUMBER, None)


def family(metric: str) -> str:
    """The key of the family of a metric in `FAMILIES`; for an unknown metric its own name."""
    if metric.endswith("_difference"):
        return "accuracy_difference"
    if metric.startswith("accuracy") and metric in MEANINGS:
        return "accuracy" if metric != "accuracy_harmonic_mean" else metric
    if metric in IMAGES:
        return "images"
    return "agreement" if metric in AGREEMENT else "quality" if metric in QUALITY else metric


def of_curve(name: str) -> str:
    """What a curve of a training run means; empty if it is not known."""
    if name in _CURVES:
        return _CURVES[name]
    return next((says for start, says in _CURVES_OF.items() if name.startswith(start)), "")
