"""Inputs -> teacher -> journal -> dataset: the first step."""
