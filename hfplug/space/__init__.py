"""What stands behind the comparison Space: its settings, its columns, votes, and how it is deployed."""
