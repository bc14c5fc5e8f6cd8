"""Other projects' own test suites, run unchanged against distpool."""
