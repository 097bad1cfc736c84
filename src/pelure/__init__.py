"""pelure: private file and web sharing over anonymous rendezvous."""
