# As TCL and SCLIP evaluate: every class by its synonyms, of which the best one counts
_base_ = ['./pgseg_vit-small-p16_zero-shot_voc21.py']
custom_hooks = [dict(type='VocabularyHook', vocabulary='voc21_synonyms')]
