"""Changed block tracking: change ids, and the file in which the changes of a disk file are kept."""
