"""What the scripts of the project share."""
