"""One module a peer, each run by an interpreter of its own environment: none of ours is there but this folder."""
