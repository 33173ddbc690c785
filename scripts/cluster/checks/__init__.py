"""What `make preflight` asks, one file a question: judged from plain objects that checks/gather.py fetched before."""
