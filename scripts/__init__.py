"""What runs on the workstation: starts, follows and lists runs."""
