"""How fast fine-tuning is here, beside others, and where its time goes: `make bench`, `make profile`."""
