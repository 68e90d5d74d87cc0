"""Names that conditions have in several families; `EMBEDDINGS`, which nearly all have, is in `conditions`."""

TEXT_MASK = "mask"  # of the text's tokens (B, L): 1 where there is one
POOLED_TEXT = "pooled"  # of the second text encoder (B, D)
GIVEN_LATENTS = "given_latents"  # of a first frame (B, C, 1, h, w); of Wan with its mask (B, 4 + C, F, h, w)
PICTURE_LATENTS = "picture"  # of the image that is given (B, C, 1, h, w)
