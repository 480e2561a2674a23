"""This edge's part in its fleet, in the control process."""
