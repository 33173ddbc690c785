"""Runs and models measured by EleutherAI's lm-evaluation-harness, on task files of this machine."""
