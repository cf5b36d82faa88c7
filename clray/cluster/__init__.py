"""From a laptop onto a cluster: what is sent, how the cluster is reached, started and left."""
