"""What comes out of a router with nf_ctcache, compared with what comes out of it without. Run by ../compare.py."""
