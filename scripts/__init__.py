"""Commands of the checkout beside the three steps, and tools for working on it."""
