"""A bank on a live network: attach, adapters, switching, export."""
