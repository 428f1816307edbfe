"""Asking for answers: what is asked about a row, through the journal, within the budget, and what is made of several."""
