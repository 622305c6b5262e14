"""Run all stages on facts about invented people (`relearn demo`)."""
