"""Judging pictures: the questions, the calls that ask them, the answers, and what the judgements mean."""
