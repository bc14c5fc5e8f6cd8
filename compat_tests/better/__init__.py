"""Where the standard library hangs or misbehaves: one test for each, named after what a program wants."""
