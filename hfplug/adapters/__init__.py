"""What one run of one method on one task leaves behind: a folder with an allow-list of files."""
