"""Fast code for one operation each, with a plain fallback."""
