"""Texts for a corpus: narrate clips, rephrase narrations, keep those that a dual encoder believes.

All three are jobs over the samples of a dataset (`job.py`), cut in shards that many tasks of an
array work on, each written in small parts, so that a stopped task goes on where it was.
"""
