"""How the weights in `vpctl/shapes/weights` were trained. vpctl itself never runs this code.

Run these commands in order, from a checkout with vpctl installed. Each one has a fixed seed:

    python -m vpctl.shapes.pretraining.autoencoder  WORK/vae
    python -m vpctl.shapes.pretraining.diffusion    WORK/vae WORK/base
    python -m vpctl.shapes.pretraining.diffusion    WORK/vae WORK/small --size small
    python -m vpctl.shapes.pretraining.backbone     WORK/vae WORK/backbone

The packaged backbone was trained in stages, while its objectives were extended: 3,000 steps before the grounding of
words was added, then 4,000 more with `backbone --start … --vision-steps 0 --steps 4000 --size 60000`. A single run with
the defaults was measured later, on 300 held-out scenes, and does as well. It distinguishes 98 % of reversed relations
from the true one (the packaged backbone 97 %), 98 % of swapped colours (98 %) and 86 % of changed shapes (90 %).

None of the models ever sees a prompt for which `grammar.held_out` is true.
"""
