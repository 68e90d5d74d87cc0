"""Small decoders that stand in for the decoder of a teacher's autoencoder."""
