"""Models as people bring them: every architecture tiny, with a tokenizer in the form its own has, made on the spot."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.models import ARCHITECTURES, SIZE
from harness.rows import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MobileBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    T5Config,
    XLNetConfig,
    set_seed,
)

LIMIT = 64
CORPUS = ["yes word1 word2 and a few more words", "no word3 word44, which is said.", "A text of a few words."] * 5


def _trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _framed(tokenizer: Tokenizer, single: str, pair: str) -> Tokenizer:
    named = {word.partition(":")[0] for word in pair.split() if not word.startswith("$")}
    special = [(name, tokenizer.token_to_id(name)) for name in sorted(named)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return tokenizer


def byte_level(special: list[str]) -> Tokenizer:
    """Make a tokenizer like those of GPT-2, RoBERTa and Qwen: every byte has a token, and nothing frames a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet))


def byte_fallback(special: list[str]) -> Tokenizer:
    """Make a tokenizer like those of Llama and Gemma: BPE, where a letter without a token is its bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=[*special, *every_byte])
    return _trained(tokenizer, trainer)


def unigram(special: list[str], unknown: str) -> Tokenizer:
    """Make a tokenizer like those of T5, ALBERT and XLNet: a unigram model, special tokens among its pieces. Its pieces
    are chosen here: what the trainer learns is not the same in every process.
    """
    words = sorted({word for text in CORPUS for word in text.split()})
    letters = sorted({letter for word in words for letter in word} - set("▁"))
    pieces = [(token, 0.0) for token in special]
    pieces += [(f"▁{word}", -3.0 - place / 100) for place, word in enumerate(words)]
    pieces += [(piece, -6.0 - place / 100) for place, piece in enumerate(["▁", *letters])]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index(unknown)))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _fast(tokenizer: Tokenizer, **settings: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"model_max_length": LIMIT} | settings)


TYPES: dict[str, Any] = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
NO_TYPES: dict[str, Any] = {"model_input_names": ["input_ids", "attention_mask"]}
ROBERTA: dict[str, str] = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
ROBERTA |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}


def words() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


def roberta() -> PreTrainedTokenizerFast:
    tokenizer = _framed(
        byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]), "<s> $A </s>", "<s> $A </s> </s> $B </s>"
    )
    mask = AddedToken("<mask>", lstrip=True, special=True)
    return _fast(tokenizer, **ROBERTA | {"mask_token": mask}, **NO_TYPES)


def gpt2() -> PreTrainedTokenizerFast:
    """Make a tokenizer without a padding token, and where nothing frames a text."""
    end = "<|endoftext|>"
    return _fast(byte_level([end]), bos_token=end, eos_token=end, unk_token=end, **NO_TYPES)


def qwen2() -> PreTrainedTokenizerFast:
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    more = {"extra_special_tokens": ["<|im_start|>"]}
    return _fast(tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", **more, **NO_TYPES)


def llama() -> PreTrainedTokenizerFast:
    """Make a tokenizer without a padding token, which pads on the left, as Llama's does."""
    tokenizer = _framed(byte_fallback(["<unk>", "<s>", "</s>"]), "<s> $A", "<s> $A <s> $B")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _fast(tokenizer, **names, padding_side="left", **NO_TYPES)


def gemma() -> PreTrainedTokenizerFast:
    tokenizer = _framed(byte_fallback(["<pad>", "<eos>", "<bos>", "<unk>"]), "<bos> $A", "<bos> $A <bos> $B")
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return _fast(tokenizer, **names, padding_side="left", **NO_TYPES)


def t5() -> PreTrainedTokenizerFast:
    extra = [f"<extra_id_{number}>" for number in range(3)]
    tokenizer = unigram(["<pad>", "</s>", "<unk>", *extra], "<unk>")
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = _framed(tokenizer, "$A </s>", "$A </s> $B </s>")
    return _fast(tokenizer, **names, extra_special_tokens=extra, **NO_TYPES)


def albert() -> PreTrainedTokenizerFast:
    tokenizer = unigram(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "[UNK]")
    tokenizer = _framed(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return _fast(tokenizer, **BERT, **TYPES)


def xlnet() -> PreTrainedTokenizerFast:
    """Padded on the left, and with no limit."""
    tokenizer = unigram(["<pad>", "<unk>", "<s>", "</s>", "<sep>", "<cls>"], "<unk>")
    tokenizer = _framed(tokenizer, "$A:0 <sep>:0 <cls>:2", "$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    names |= {"sep_token": "<sep>", "cls_token": "<cls>"}
    return _fast(tokenizer, **names, padding_side="left", pad_token_type_id=3, model_max_length=int(1e30), **TYPES)


@dataclass(frozen=True)
class Member:
    config: Callable[[dict[str, Any]], PreTrainedConfig]
    """Makes a configuration from the size of the vocabulary and the ids of the special tokens."""
    tokenizer: Callable[[], PreTrainedTokenizerFast]


def _from_table(name: str) -> Callable[[dict[str, Any]], PreTrainedConfig]:
    def config(of_tokenizer: dict[str, Any]) -> PreTrainedConfig:
        made = ARCHITECTURES[name]()
        for setting, value in of_tokenizer.items():
            setattr(made, setting, value)
        if name == "roberta":  # its positions begin behind the padding's id
            made.max_position_embeddings = LIMIT + made.pad_token_id + 1
        return made

    return config


def _rope(config: Callable[..., PreTrainedConfig], **more: Any) -> Callable[[dict[str, Any]], PreTrainedConfig]:
    return lambda given: config(**SIZE | {"num_key_value_heads": 1, "attention_dropout": 0.1} | more | given)


def _gpt2(given: dict[str, Any]) -> PreTrainedConfig:
    return GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=LIMIT, **given)


def _xlnet(given: dict[str, Any]) -> PreTrainedConfig:
    return XLNetConfig(d_model=32, n_layer=2, n_head=2, d_inner=64, **given)


def _mobilebert(given: dict[str, Any]) -> PreTrainedConfig:
    """Make a configuration that knows neither an end token nor a start token, as Funnel's, too, does not."""
    return MobileBertConfig(embedding_size=16, intra_bottleneck_size=16, **SIZE | given)


def _bart(given: dict[str, Any]) -> PreTrainedConfig:
    layers = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": LIMIT}
    end = given["eos_token_id"]
    return BartConfig(**layers, **sizes, **given, decoder_start_token_id=end, forced_eos_token_id=end)


def _t5(given: dict[str, Any]) -> PreTrainedConfig:
    start = given["pad_token_id"]
    return T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, **given, decoder_start_token_id=start)


ZOO: dict[str, Member] = {
    "bert": Member(_from_table("bert"), words),
    "distilbert": Member(_from_table("distilbert"), words),
    "electra": Member(_from_table("electra"), words),
    "mpnet": Member(_from_table("mpnet"), words),
    "mobilebert": Member(_mobilebert, words),
    "modernbert": Member(_from_table("modernbert"), words),
    "roberta": Member(_from_table("roberta"), roberta),
    "albert": Member(_from_table("albert"), albert),
    "deberta-v2": Member(_from_table("deberta-v2"), albert),
    "bart": Member(_bart, roberta),
    "t5": Member(_t5, t5),
    "xlnet": Member(_xlnet, xlnet),
    "gpt2": Member(_gpt2, gpt2),
    "llama": Member(_rope(LlamaConfig), llama),
    "qwen2": Member(_rope(Qwen2Config), qwen2),
    "gemma": Member(_rope(GemmaConfig, head_dim=16), gemma),
}
DECODERS = ("gpt2", "llama", "qwen2", "gemma")
# One of each form; the others are left to the slow tests.
FIRST = ("bert", "mobilebert", "bart", "t5", "xlnet", "gpt2", "llama")
EVERY_MEMBER = [pytest.param(name, marks=[] if name in FIRST else [pytest.mark.slow]) for name in ZOO]


def write_member(folder: Path, name: str, num_labels: int = 2, seed: int = 42) -> Path:
    """Write a model of the zoo with its tokenizer, as its own folder on the hub has them."""
    tokenizer = ZOO[name].tokenizer()
    given = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = ZOO[name].config({key: value for key, value in given.items() if value is not None or key in _NONE})
    config.id2label = {id: f"class{id}" for id in range(num_labels)}  # BartConfig forgets two with the usual names
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # far from each other, so that what is read wrongly shows
            if parameter.dim() > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


_NONE = {"pad_token_id"}


def write_deberta_v3(folder: Path) -> Path:
    """Write a model in the form in which DeBERTa-v3 is published: its tokenizer is sentencepiece's model alone."""
    import sentencepiece  # an optional dependency

    written = io.BytesIO()
    names = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
    ids: dict[str, Any] = {f"{name}_id": id for id, name in enumerate(names)}
    ids |= {f"{name}_piece": piece for name, piece in names.items()}
    sizes = {"vocab_size": 60, "hard_vocab_limit": False, "character_coverage": 1.0, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, user_defined_symbols=["[MASK]"], **ids, **sizes
    )
    config = ARCHITECTURES["deberta-v2"]()
    config.type_vocab_size = 0
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    (folder / "spm.model").write_bytes(written.getvalue())
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    return folder
