"""A model and held-out inputs -> a measured result: the third step."""
