"""What makes a step fast and leaves it what it is: packs of rows, shared prefixes, LoRA and loss with less work."""
