"""One file for each attack; every module here is imported when the list of audits is asked for."""
