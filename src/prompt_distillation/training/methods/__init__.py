"""Training methods: what is learned from the teacher, and the loss."""
