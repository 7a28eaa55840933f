"""How every maskfleet process speaks gRPC: channels, servers, and errors as statuses."""
