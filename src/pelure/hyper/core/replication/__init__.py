"""Replication of cores between peers, over any byte stream (HYPER-FACTS sections 7, 8 and 11 to 13)."""
