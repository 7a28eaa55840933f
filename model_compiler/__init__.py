"""The compiler: a model version becomes a verified engine for a target."""
