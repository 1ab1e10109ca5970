"""Small open_clip models, one of each kind of text tower, that the tests share."""

import json
from pathlib import Path

import open_clip
import torch

CLIP = {'context_length': 16, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 3}
WORDS = {'context_length': 16, 'vocab_size': 100, 'width': 32, 'heads': 2, 'layers': 3}
VISION = {'image_size': 32, 'patch_size': 16, 'layers': 1, 'width': 32, 'head_width': 16}
CONFIGS: dict[str, dict] = {
    'tiny-clip': {'text_cfg': CLIP},
    'tiny-clip-quickgelu': {'text_cfg': CLIP, 'quick_gelu': True},
    'tiny-custom-text': {'text_cfg': CLIP, 'custom_text': True},
    'tiny-last': {  # as SigLIP
        'text_cfg': {**WORDS, 'no_causal_mask': True, 'pool_type': 'last', 'proj_bias': True},
        'custom_text': True,
        'init_logit_bias': -10,
    },
    'tiny-no-projection': {
        'text_cfg': {**WORDS, 'no_causal_mask': True, 'pool_type': 'last', 'proj_type': 'none'},
        'embed_dim': 32,
        'custom_text': True,
    },
    'tiny-bidirectional': {'text_cfg': {**CLIP, 'no_causal_mask': True}, 'custom_text': True},
    'tiny-eos': {'text_cfg': {**WORDS, 'pool_type': 'eos', 'eos_id': 2}},
    'tiny-coca': {
        'text_cfg': {**WORDS, 'context_length': 15, 'embed_cls': True, 'output_tokens': True},
        'multimodal_cfg': {**WORDS, 'context_length': 15, 'layers': 1},
        'vision_cfg': {**VISION, 'attentional_pool': True, 'output_tokens': True},
        'custom_text': True,
    },
}


def add_tiny_models(folder: Path, **more: dict) -> None:
    """Make open_clip know the models above, and ``more``, by their names."""
    for name, config in {**CONFIGS, **more}.items():
        config = {'embed_dim': 24, 'vision_cfg': VISION, **config}
        (folder / f'{name}.json').write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def make_hf_files(folder: Path) -> dict:
    """Save a tiny text model and tokenizer of Hugging Face; returns open_clip's config of it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig

    RobertaConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ).save_pretrained(folder / 'model')
    vocabulary = ['<s>', '<pad>', '</s>', '<unk>', 'a', 'dog', 'cat', 'red', 'car', 'of', 'photo']
    words = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token='<unk>')
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single='<s> $A </s>', special_tokens=[('<s>', 0), ('</s>', 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token='<pad>', eos_token='</s>', unk_token='<unk>'
    ).save_pretrained(folder / 'tokenizer')
    return {
        'text_cfg': {
            'hf_model_name': str(folder / 'model'),
            'hf_tokenizer_name': str(folder / 'tokenizer'),
            'hf_proj_type': 'mlp',
            'hf_pooler_type': 'mean_pooler',
            'context_length': 12,
        }
    }


def reference_model(name: str) -> torch.nn.Module:
    """The model as open_clip builds it, in double precision, with no weight 0 or 1 all over."""
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained_hf=False).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model
