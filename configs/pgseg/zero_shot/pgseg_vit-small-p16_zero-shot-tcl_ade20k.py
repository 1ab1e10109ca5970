# Deprecated name: the published protocol with this project's synonyms; neither TCL's nor SCLIP's,
# which are --protocol tcl and sclip (docs/zero_shot.md).
_base_ = ['./pgseg_vit-small-p16_zero-shot_ade20k.py']
custom_hooks = [dict(type='VocabularyHook', vocabulary='ade20k_synonyms')]
