# Deprecated name: the published protocol with this project's synonyms; neither TCL's nor SCLIP's,
# which are --protocol tcl and sclip (docs/zero_shot.md).
_base_ = ['./pgseg_vit-small-p16_zero-shot_voc21.py']
custom_hooks = [dict(type='VocabularyHook', vocabulary='voc21_synonyms')]
