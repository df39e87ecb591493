"""Job folders as the agent sees them: made, followed, journalled, listed."""
