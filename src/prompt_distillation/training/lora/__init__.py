"""What is adapted, how adapters are applied, and the proof that an adapter is live."""
