"""S3 as a store: addresses, the connection, whole directories up and down, and the mirror of a run that trains."""
