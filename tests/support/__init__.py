"""What tests of several areas share: the watchdog, and the accounting of what a test leaves behind."""
