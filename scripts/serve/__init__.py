"""A model that answers: found, served as OpenAI's API has it, and talked to."""
