"""The demo's rows and base model, and how they are made."""
