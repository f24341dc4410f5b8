"""Text from a decoder: greedy, sampled, by beams.

`generate(decoder, prompt, config, generator)` in `generate.py`; what a decoder offers is in
`decoder.py`, the options in `configs.py`.
"""
