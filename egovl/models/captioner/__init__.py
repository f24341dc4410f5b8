"""Captioner on a video-conditioned language model (Egoinstructor spec 2.1)."""
