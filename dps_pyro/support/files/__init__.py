"""Files from users: records in several formats, YAML, and what an error of the file system means."""
