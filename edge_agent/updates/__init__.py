"""Updates: desired state becomes this device's state, or is refused with a reason."""
