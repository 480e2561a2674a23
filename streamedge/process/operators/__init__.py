"""What operators see of the edge, in the control process and in workers."""
