"""Audits: does the forgetting hold when the questions, the weights or the number format change?"""
