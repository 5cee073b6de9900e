"""Audio models of Hugging Face, from small configurations."""

from __future__ import annotations

from typing import Any

import transformers as hf
from architectures.entry import Architecture, numbers, sound, tokens

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_WAVES: dict[str, Any] = {
    **_SIZES,
    "vocab_size": 20,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_WHISPER: dict[str, Any] = {
    "vocab_size": 60,
    "num_mel_bins": 8,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 20,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_SPECTRA = {"patch_size": 8, "max_length": 32, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8}

AUDIO = {
    "Wav2Vec2": Architecture(lambda: hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**_WAVES)), sound),
    "HuBERT": Architecture(lambda: hf.HubertForCTC(hf.HubertConfig(**_WAVES)), sound),
    "Whisper": Architecture(
        lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**_WHISPER)),
        lambda: {"input_features": numbers(2, 8, 40), "decoder_input_ids": tokens(2, 5)},
    ),
    "AST": Architecture(
        lambda: hf.ASTForAudioClassification(hf.ASTConfig(**_SIZES, **_SPECTRA)),
        lambda: {"input_values": numbers(2, 32, 16)},
    ),
}

__all__ = ["AUDIO"]
