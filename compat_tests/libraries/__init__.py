"""What other libraries rely on beyond the documented interfaces: one test module per library, named after it."""
