"""The workstation's side of a cluster: what is asked of it and told to it, all through kubectl."""
