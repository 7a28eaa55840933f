"""The control plane: devices, models, releases, rollouts."""
