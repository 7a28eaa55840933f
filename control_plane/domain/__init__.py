"""Rules of the plane: pure, no I/O."""
