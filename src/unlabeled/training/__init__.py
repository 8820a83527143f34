"""The loop that trains a method, and what it stands on."""
