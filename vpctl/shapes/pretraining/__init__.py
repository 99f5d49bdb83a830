"""How the weights in `vpctl/shapes/weights` were trained; nothing here runs when vpctl is used.

In order, each with its seed, from a checkout with vpctl installed:

    python -m vpctl.shapes.pretraining.autoencoder  WORK/vae
    python -m vpctl.shapes.pretraining.diffusion    WORK/vae WORK/base
    python -m vpctl.shapes.pretraining.diffusion    WORK/vae WORK/small --size small
    python -m vpctl.shapes.pretraining.backbone     WORK/vae WORK/backbone

No prompt for which `grammar.held_out` is true is ever seen by any of them.
"""
