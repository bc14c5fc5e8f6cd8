"""The engine: one process per test, a time limit, a verdict, and a comparison with the committed exceptions."""
