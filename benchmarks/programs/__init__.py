"""Programs that run as processes of their own during a measurement."""
