"""Steps from one schema to the next; :mod:`~control_plane.store.migrations.running` takes them."""
