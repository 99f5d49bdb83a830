"""Judging pictures: which questions are asked, by whom and how, and what the judgements say."""
