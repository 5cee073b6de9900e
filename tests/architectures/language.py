"""Language models of Hugging Face, from small configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as hf
from architectures.entry import Architecture, Example, source_and_target, text, tokens

_SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32}
_SMALL: dict[str, Any] = {**_SIZES, "num_hidden_layers": 2, "num_attention_heads": 4}
_MARKS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
# Two heads of queries for each head of keys.
_GROUPED = {**_SMALL, **_MARKS, "num_key_value_heads": 2}
_GPT = {"vocab_size": 60, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, **_MARKS}
_OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32}
_BART = {
    **{f"{part}_layers": 1 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")},
}


def _of(
    model: type, configuration: type, example: Callable[[], Example] = text, share: float = 0.3, **options: Any
) -> Architecture:
    return Architecture(lambda: model(configuration(**options)), example, share)


def _only_tokens() -> Example:
    return {"input_ids": tokens(2, 9)}


ENCODERS = {
    "BERT": _of(hf.BertForSequenceClassification, hf.BertConfig, **_SMALL),
    "RoBERTa": _of(hf.RobertaForSequenceClassification, hf.RobertaConfig, **_SMALL, pad_token_id=1),
    "DistilBERT": _of(
        hf.DistilBertForSequenceClassification,
        hf.DistilBertConfig,
        vocab_size=60,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=32,
    ),
    "ALBERT": _of(hf.AlbertForSequenceClassification, hf.AlbertConfig, **_SMALL, embedding_size=16),
    "ELECTRA": _of(hf.ElectraForSequenceClassification, hf.ElectraConfig, **_SMALL, embedding_size=16),
    "DeBERTa": _of(
        hf.DebertaForSequenceClassification,
        hf.DebertaConfig,
        **_SMALL,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
    ),
    "DeBERTa v2": _of(
        hf.DebertaV2ForSequenceClassification,
        hf.DebertaV2Config,
        **_SMALL,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        share_att_key=True,
    ),
    "MPNet": _of(hf.MPNetForSequenceClassification, hf.MPNetConfig, **_SMALL, pad_token_id=1),
    "ModernBERT": _of(
        hf.ModernBertForSequenceClassification,
        hf.ModernBertConfig,
        **_SMALL,
        **_MARKS,
        cls_token_id=0,
        sep_token_id=2,
    ),
    "FNet": _of(hf.FNetForSequenceClassification, hf.FNetConfig, _only_tokens, **_SIZES, num_hidden_layers=2, **_MARKS),
}

DECODERS = {
    "GPT-2": _of(hf.GPT2LMHeadModel, hf.GPT2Config, **_GPT),
    "GPT-J": _of(hf.GPTJForCausalLM, hf.GPTJConfig, **_GPT, rotary_dim=4),
    "GPT-NeoX": _of(hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig, **_SMALL, **_MARKS),
    "Llama": _of(hf.LlamaForCausalLM, hf.LlamaConfig, **_GROUPED),
    "Mistral": _of(hf.MistralForCausalLM, hf.MistralConfig, **_GROUPED, sliding_window=4),
    "Qwen2": _of(hf.Qwen2ForCausalLM, hf.Qwen2Config, **_GROUPED),
    "Gemma": _of(hf.GemmaForCausalLM, hf.GemmaConfig, **_GROUPED, head_dim=8),
    "Phi": _of(hf.PhiForCausalLM, hf.PhiConfig, **_SMALL, **_MARKS),
    "Phi-3": _of(hf.Phi3ForCausalLM, hf.Phi3Config, **_GROUPED),
    "OPT": _of(hf.OPTForCausalLM, hf.OPTConfig, vocab_size=60, max_position_embeddings=32, **_OPT, **_MARKS),
    "BLOOM": _of(hf.BloomForCausalLM, hf.BloomConfig, vocab_size=60, hidden_size=32, n_layer=2, n_head=4, **_MARKS),
    "Falcon": _of(
        hf.FalconForCausalLM,
        hf.FalconConfig,
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        **_MARKS,
    ),
    "Mixtral": _of(hf.MixtralForCausalLM, hf.MixtralConfig, **_GROUPED, num_local_experts=4),
    "Mamba": _of(
        hf.MambaForCausalLM,
        hf.MambaConfig,
        _only_tokens,
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        **_MARKS,
    ),
}

ENCODER_DECODERS = {
    "T5": _of(
        hf.T5ForConditionalGeneration,
        hf.T5Config,
        source_and_target,
        vocab_size=60,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        pad_token_id=0,
    ),
    "BART": _of(
        hf.BartForConditionalGeneration,
        hf.BartConfig,
        source_and_target,
        vocab_size=60,
        d_model=32,
        max_position_embeddings=32,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        **_BART,
        **_MARKS,
    ),
}

LANGUAGE = {**ENCODERS, **DECODERS, **ENCODER_DECODERS}

__all__ = ["LANGUAGE"]
