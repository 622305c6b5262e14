"""The registered attacks; every module here is imported when AUDITS is first read."""
