"""What knows the shape of a text-to-image model, a family of models each file."""
