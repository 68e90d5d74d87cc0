"""Distils the decoder of a teacher's autoencoder into a small one."""
