"""The tiny text side: a word-level tokenizer and a UMT5 encoder, both made offline."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from fewstep.teacher.shapes.captions import named, vocabulary
from fewstep.teacher.shapes.world import ATTRIBUTES

TEXT_DIM = 128
_SPECIAL = ("<pad>", "</s>", "<unk>")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-cased words of the shapes captions, `</s>` at the end, `<unk>` for any other word."""
    words = {word: i for i, word in enumerate((*_SPECIAL, *(w.rstrip(",") for w in vocabulary())))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[a-z]+"), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", words["</s>"])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def make_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    """A two-layer UMT5 encoder with TEXT_DIM outputs per token, randomly initialised."""
    # as Wan's text encoder in kind, small enough for a CPU
    config = UMT5Config(
        vocab_size=vocab_size,
        d_model=TEXT_DIM,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )
    return UMT5EncoderModel(config)


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: list[str], length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask, each (B, length)."""
    batch = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def encode_text(encoder: UMT5EncoderModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Embeddings (B, length, TEXT_DIM), zero behind each caption's end, as WanPipeline makes them."""
    return encoder(ids, mask).last_hidden_state * mask[..., None]


class AttributeReader(nn.Module):
    """Reads from a caption's mean embedding what it names: one class more per attribute, for 'unsaid'.

    The text encoder learns this before the denoiser meets it, so that words already mean something: a text path
    that starts random is the slowest part of a small text-to-video model.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({n: nn.Linear(TEXT_DIM, len(v) + 1) for n, v in ATTRIBUTES.items()})

    def loss(self, embeddings: Tensor, mask: Tensor, captions: list[str]) -> Tensor:
        """Mean cross-entropy over attributes; embeddings (B, L, TEXT_DIM), mask (B, L)."""
        pooled = embeddings.sum(1) / mask.sum(1, keepdim=True)
        attributes = [named(caption) for caption in captions]
        total = pooled.new_zeros(())
        for name, classes in ATTRIBUTES.items():
            target = [classes.index(s[name]) if name in s else len(classes) for s in attributes]
            total = total + nn.functional.cross_entropy(self.heads[name](pooled), torch.tensor(target))
        return total / len(ATTRIBUTES)
